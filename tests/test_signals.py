"""Being told to stop."""

import os
import signal
import threading

import pytest

from delf_jax.runtime import stop_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_signals() as stopped:
        assert not stopped.is_set()
        os.kill(os.getpid(), number)
        assert stopped.wait(timeout=5)
    assert signal.getsignal(number) is before


def test_another_thread_may_train_without_handlers():
    seen = []

    def run():
        with stop_signals() as stopped:
            seen.append(stopped.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]
