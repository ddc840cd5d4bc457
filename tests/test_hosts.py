import jax
import pytest

from delf_jax import runtime
from delf_jax.files import InputError


def test_a_host_that_is_alone_waits_for_nobody():
    assert runtime.first_host_first(lambda: (1, 2)) == (1, 2)


def test_what_the_first_host_made_is_not_made_twice(monkeypatch):
    order = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    meet = runtime.multihost_utils
    monkeypatch.setattr(meet, "sync_global_devices", lambda _: order.append("met"))
    for host, expected in ((0, ["made", "met"]), (1, ["met", "made"])):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        assert runtime.first_host_first(lambda: order.append("made") or [1]) == [1]
        assert order == expected
        order.clear()


@pytest.mark.parametrize(
    ("given", "passed"), [((), ()), (("10.0.0.1:1", (1, 2)), ("10.0.0.1:1", 2, 1))]
)
def test_hosts_that_cannot_meet_are_told_what_to_give(monkeypatch, given, passed):
    asked = []

    def fail(*arguments):
        asked.append(arguments)
        raise ValueError("coordinator_address should be defined.\nMore.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(InputError, match=r"defined; give --multihost=ADDRESS:PORT,I/N"):
        runtime.join_hosts(*given)
    assert asked == [passed]
