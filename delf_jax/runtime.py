"""JAX on this machine: cache of compiled programs, several processes, stop signals."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flax
import jax
import jaxlib
from jax.experimental import multihost_utils

from delf_jax import progress
from delf_jax.files import InputError, digest, write_bytes

# How JAX's compiler logs that its cache lacks the program of canvases.py.
_NETWORK_MISSED = "PERSISTENT COMPILATION CACHE MISS for 'jit_extract_canvases'"

_HASH = 32  # bytes of SHA-256, before what is kept.


def enable_compilation_cache() -> pathlib.Path | None:
    """The folder that JAX now keeps compiled programs in; None if there is none.

    The user's cache folder by default; the variable DELF_JAX_CACHE names another, or
    turns it off (`off` or empty). A JAX_COMPILATION_CACHE_DIR that the user has set
    is left alone. A folder that cannot be written to means no cache, and no error.
    """
    _watch_compilation()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    directory = cache_directory()
    if directory is None:
        return None
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # A start compiles dozens of small programs: kept as well, they save seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


@functools.cache
def _watch_compilation() -> None:
    """Once in a process: says when a network is compiled, and counts the seconds."""
    logger, told = logging.getLogger("jax._src.compiler"), False
    level = logger.getEffectiveLevel()

    def notice(record: logging.LogRecord) -> bool:
        nonlocal told
        if not told and record.getMessage().startswith(_NETWORK_MISSED):
            told = True
            kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
            progress.say(f"compiling (once; kept in {kept})")
        return record.levelno >= level

    # Nothing else of JAX tells, before it compiles, that the cache has not helped.
    logger.addFilter(notice)
    logger.setLevel(logging.DEBUG)

    def count(event: str, duration_secs: float, **_: Any) -> None:
        # What another thread compiles holds nobody up until it is waited for.
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and event == "/jax/core/compile/backend_compile_duration":
            progress.leave_out(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(count)


def cache_directory() -> pathlib.Path | None:
    """The folder for compiled programs on this host; None if they are not kept."""
    value = os.environ.get("DELF_JAX_CACHE")
    off = ("", "0", "off", "no", "none", "false")
    if value is not None and value.strip().lower() in off:
        return None
    try:
        root = pathlib.Path(value).expanduser() if value else user_cache() / "delf_jax"
    except RuntimeError:  # An account without a home folder.
        return None
    return root / f"xla-{_host_kind()}"


def keep(kind: str, of: str, make: Callable[[], bytes]) -> bytes:
    """What `make` gives, or gave an earlier process: beside the compiled programs.

    Args:
      of: all that it depends on, but for the source of the networks and the versions of
        what they are built with.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder or "://" in folder:  # JAX takes buckets, too.
        return make()
    path = pathlib.Path(folder) / f"{kind}-{digest(f'{of} {_networks()}')}"
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if content[:_HASH] == hashlib.sha256(content[_HASH:]).digest():
            return content[_HASH:]
    made = make()
    with contextlib.suppress(OSError):
        write_bytes(path, hashlib.sha256(made).digest() + made)
    return made


@functools.cache
def _networks() -> str:
    """The networks as they are now: their source, and the versions below them."""
    folder = pathlib.Path(__file__).parent
    sources = [folder / "ops.py", folder / "extraction" / "canvases.py"]
    sources += sorted((folder / "models").rglob("*.py"))
    source = digest([path.read_text("utf-8") for path in sources])
    return f"{source} {jax.__version__} {jaxlib.__version__} {flax.__version__}"


def user_cache() -> pathlib.Path:
    """The folder in which programs of this user keep what can be recomputed."""
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return pathlib.Path(os.environ["LOCALAPPDATA"])
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches"
    # The XDG specification: a relative path in the variable is to be ignored.
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):
        return pathlib.Path(configured)
    return pathlib.Path.home() / ".cache"


def return_freed_memory() -> None:
    """Gives back what the C library (glibc) keeps of the memory that was freed.

    Programs that come and go leave holes: 0.2 GB after two hundred of ResNet-50.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def join_processes(
    option: str, coordinator: str = "", part: tuple[int, int] | None = None
) -> bool:
    """Connects this process with the others of its job; whether it is the first.

    Args:
      option: of the command line that asks for it, for messages.
      coordinator: address:port of the first process; without, Cloud TPU, Slurm, Open
        MPI or Kubernetes names it.
      part: (i, n), this is the i-th of n.
    """
    job = () if part is None else (coordinator, part[1], part[0])
    try:
        jax.distributed.initialize(*job)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        by_hand = ", or give --multihost=ADDRESS:PORT,I/N"
        raise InputError(
            f"{option}: {reason}; start the processes by Slurm or MPI or on the hosts "
            f"of a TPU{by_hand if option == '--multihost' else ''}"
        ) from None
    # Processes connect while they are together: later, one that compiles keeps the
    # others waiting for longer than they would.
    multihost_utils.sync_global_devices("start")
    return jax.process_index() == 0


def first_host_first(work: Callable[[], Any]) -> Any:
    """The result of `work`; other hosts start when what the first writes is there."""
    if jax.process_count() == 1:
        return work()
    result = work() if jax.process_index() == 0 else None
    multihost_utils.sync_global_devices("prepared")
    return result or work()


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of ending the program."""
    stopped = threading.Event()
    # Several hosts must stop at one step: there orbax listens and informs the others.
    in_main_thread = threading.current_thread() is threading.main_thread()
    if jax.process_count() > 1 or not in_main_thread:
        yield stopped
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(n, lambda *_: stopped.set()) for n in numbers]
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _host_kind() -> str:
    """A short name for processors of one kind.

    Home folders are often shared by unlike hosts, and a program that was compiled for
    one processor may hold instructions that another lacks.
    """
    kind = f"{sys.platform} {platform.machine()} {platform.processor()}"
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kind += next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return digest(kind, 8)
