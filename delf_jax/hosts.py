"""Several processes that train together: how they meet, and who goes first."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils

from delf_jax.files import InputError


def join_hosts(coordinator: str = "", part: tuple[int, int] | None = None) -> None:
    """Makes this process one of several that train together, on their own devices.

    coordinator: address:port of the first process, and part (i, n) which of all this
    is; without, Cloud TPU, Slurm, Open MPI or Kubernetes says so.
    """
    given = (coordinator, part[1], part[0]) if part else ()
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"--multihost: {reason}; give --multihost=ADDRESS:PORT,I/N where nothing "
            "says which hosts belong together"
        ) from None
    # Hosts connect while they are together: later, one that compiles keeps the
    # others waiting for longer than they would.
    multihost_utils.sync_global_devices("start")


def first_host_first(work: Callable[[], Any]) -> Any:
    """What `work` gives; other hosts begin when what the first writes is there."""
    if jax.process_count() == 1:
        return work()
    result = work() if jax.process_index() == 0 else None
    multihost_utils.sync_global_devices("prepared")
    return result or work()
