"""Being told to stop, and finishing what is at hand first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of ending the program."""
    stopped = threading.Event()
    # Several hosts must stop at one step: there orbax listens and tells the others.
    if jax.process_count() > 1 or not _in_main_thread():
        yield stopped
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(n, lambda *_: stopped.set()) for n in numbers]
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
