"""Commands in processes that may be killed, hang or crash.

This process has imported everything and computed nothing, so that what it forks starts
at once and has JAX to itself.
"""

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import pathlib
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
POLL = 0.01  # seconds.
# Commands of a worker before the next one takes over: it holds what they compiled.
WORK_OF_A_WORKER = 100
# Calls before which a process can be killed: what changes the folder of a step.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink")
# Of bytes: what goes wrong here must not fill the memory or the disk of others.
LIMITS = {resource.RLIMIT_AS: 16 << 30, resource.RLIMIT_FSIZE: 1 << 30}
# Bytes of a log that are kept.
LOG = 200_000


class Outcome(NamedTuple):
    """What became of a command."""

    status: int | None
    """exit status, or minus the signal; None: it was stopped at the time limit"""
    out: str
    err: str
    seconds: float
    changes: int = 0
    """how often the folder was about to be changed"""


def import_all() -> None:
    """Imports what commands import, so that forks need not."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["MPLBACKEND"] = "Agg"
    import delf_jax

    for module in pkgutil.walk_packages(delf_jax.__path__, "delf_jax."):
        optional = "savedmodel", "tf_extraction", "onnx", "openvino", "__main__"
        if not module.name.rpartition(".")[2].startswith(optional):
            importlib.import_module(module.name)
    for name in ("matplotlib.pyplot", "orbax.checkpoint", "tensorflow_datasets"):
        importlib.import_module(name)


class Child:
    """A command in a process forked from this one, in a group of its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: pathlib.Path,
        *,
        kill_at: int | None = None,
        before: Callable[[], Any] | None = None,
        counts: bool = True,
    ):
        """Starts it in `folder`; its output goes to files beside that.

        Args:
          kill_at: SIGKILL before so manieth change of the folder.
          before: is called in the process first.
          counts: whether changes of the folder are counted.
        """
        self.logs = [_log(folder, name) for name in ("out", "err", "changes")]
        self.began = time.monotonic()
        self.pid = _fork(lambda: self._run(arguments, folder, kill_at, before, counts))

    def _run(
        self,
        arguments: Sequence[str],
        folder: pathlib.Path,
        kill_at: int | None,
        before: Callable[[], Any] | None,
        counts: bool,
    ) -> int:
        os.chdir(folder)
        log = os.open(self.logs[2], os.O_CREAT | os.O_WRONLY)
        _redirect(*self.logs[:2])
        counted = _count_changes(folder, kill_at)
        status = _run(arguments, before)
        if counts:
            os.write(log, b"%d" % counted[0])
        return status

    def wait(self, limit: float, *, kill: bool = False) -> Outcome:
        """What became of it; at the limit, or on an error here, the group is killed."""
        status = None
        try:
            while time.monotonic() - self.began < limit:
                pid, found = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    status = os.waitstatus_to_exitcode(found)
                    break
                time.sleep(POLL)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            if status is None:
                os.waitpid(self.pid, 0)
        if kill and status is None:
            status = -signal.SIGKILL
        seconds = time.monotonic() - self.began
        out, err, changes = map(_read_log, self.logs)
        return Outcome(status, out, err, seconds, int(changes or 0))


def call(function: Callable[[], Any], folder: pathlib.Path, limit: float = 120) -> Any:
    """What a function returns, as JSON, that this process must not call itself."""
    result = _log(folder, "result")

    def run() -> None:
        result.write_text(json.dumps(function()))

    found = Child([], folder, before=run).wait(limit)
    if found.status != 0:
        raise RuntimeError(f"{function}: {found.err[-2000:] or found.status}")
    return json.loads(result.read_text())


class Worker:
    """A process that runs one command after the other, and is replaced if it dies."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.pid = self.done = 0

    def run(
        self, arguments: Sequence[str], folder: pathlib.Path, limit: float
    ) -> Outcome:
        """What became of a command that was run in `folder`."""
        if not self.pid or self.done >= WORK_OF_A_WORKER:
            self.stop()
            self._start()
        self.done += 1
        logs = [_log(folder, name) for name in ("out", "err")]
        began = time.monotonic()
        request = [*arguments], str(folder), [str(log) for log in logs]
        os.write(self._requests, json.dumps(request).encode() + b"\n")
        status = self._wait(began + limit)
        out, err = map(_read_log, logs)
        return Outcome(status, out, err, time.monotonic() - began)

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._requests)
            os.close(self._answers)
            self.pid = 0

    def _start(self) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self.pid, self.done = _fork(lambda: self._work(requests, answers)), 0
        os.close(requests)
        os.close(answers)
        os.set_blocking(self._answers, False)

    def _work(self, requests: int, answers: int) -> int:
        os.close(self._requests)
        os.close(self._answers)
        _redirect(self.folder / "worker.out", self.folder / "worker.err")
        for line in os.fdopen(requests, "rb"):
            arguments, folder, logs = json.loads(line)
            os.chdir(folder)
            _redirect(*map(pathlib.Path, logs))
            status = _run(arguments, None, ends=False)
            os.write(answers, f"{status}\n".encode())
        return 0

    def _wait(self, until: float) -> int | None:
        """The status of the command; a worker that is of no more use is ended."""
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                if answer := os.read(self._answers, 100):
                    return int(answer)
                _, found = os.waitpid(self.pid, 0)  # It has died.
                os.close(self._requests)
                os.close(self._answers)
                self.pid = 0
                return os.waitstatus_to_exitcode(found)
            time.sleep(POLL)
        self.stop()
        return None


def run_program(
    arguments: Sequence[bytes | str],
    folder: pathlib.Path,
    limit: float,
    *,
    environment: Mapping[str, str] | None = None,
    shell: str = 'exec "$@"',
) -> Outcome:
    """What became of main.py, started as a shell starts it.

    Args:
      shell: a line of bash in which "$@" is the command.
    """
    shell = f"ulimit -f {LIMITS[resource.RLIMIT_FSIZE] >> 10}; {shell}"
    command = ["bash", "-c", shell, "bash", sys.executable, str(ROOT / "main.py")]
    logs = [_log(folder, name) for name in ("out", "err")]
    began = time.monotonic()
    with open(logs[0], "wb") as out, open(logs[1], "wb") as err:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env=os.environ | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    texts = map(_read_log, logs)
    return Outcome(status, *texts, time.monotonic() - began)


def _fork(work: Callable[[], int]) -> int:
    """The id of a process that does some work, in a group of its own, and ends."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        for limit, size in LIMITS.items():
            resource.setrlimit(limit, (size, size))
        status = work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:  # Whatever happens: there must not be two campaigns.
        os._exit(status)


def limit_file_size(size: int) -> None:
    """A write beyond so many bytes of a file fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def drop_capabilities() -> None:
    """Root is then denied what its own files deny; for others nothing changes."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # Version 3, this process.
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def _log(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A new file beside the folder of a step."""
    logs = folder.parent / "logs"
    logs.mkdir(exist_ok=True)
    return logs / f"{len(os.listdir(logs))}.{name}"


def _read_log(log: pathlib.Path) -> str:
    if not log.exists():
        return ""
    with open(log, "rb") as file:
        return file.read(LOG).decode("utf-8", "surrogateescape")


def _redirect(out: pathlib.Path, err: pathlib.Path) -> None:
    """Output of this process, that of libraries in C included, goes to files."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number, path in enumerate((pathlib.Path(os.devnull), out, err)):
        flags = os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _run(
    arguments: Sequence[str], before: Callable[[], Any] | None, *, ends: bool = True
) -> int:
    """The exit status of a command, an exception printed as Python prints it."""
    from delf_jax import cli

    status = 0
    try:
        if before:
            before()
        if arguments:
            status = cli.main(arguments)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
        status = 1
    if ends:
        threading._shutdown()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status


def _count_changes(folder: pathlib.Path, kill_at: int | None) -> list[int]:
    """A count of changes of the folder, kept up to date from now on."""
    count, start = [0], f"{folder}{os.sep}"
    lock = threading.Lock()

    def change() -> None:
        with lock:
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, details: tuple) -> None:
        if event == "open":
            path, _, flags = details
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = details[0]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)):
            path = os.path.join(folder, os.fsdecode(path))
            if path.startswith(start):
                change()

    synced = os.fsync

    def fsync(descriptor: int) -> None:
        change()
        synced(descriptor)

    sys.addaudithook(heard)
    os.fsync = fsync
    return count
