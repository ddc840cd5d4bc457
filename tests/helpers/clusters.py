"""Clusters for tests: one in this process, and what workers of a real one can run."""

import contextlib
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent import futures
from typing import NamedTuple

import cv2
import numpy as np

from delf_jax.cluster import jobs, shares

ROOT = pathlib.Path(__file__).parents[2]
# A variable of the environment, by which processes of a test are found again.
MARK = "DELF_JAX_TEST_CLUSTER"
# The tokens of the user's own clusters are none of ours; workers that are as nice as
# Ray makes them would wait for all else on a machine that is busy.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "PYTHONPATH": str(ROOT),
}
PATIENCE = 300  # seconds: on a machine that is busy a process starts in half a minute.


def done(value):
    """A future that has its result, or its exception."""
    future = futures.Future()
    if isinstance(value, BaseException):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


def in_this_process(monkeypatch, *, workers=2, times=1, fails=lambda item: False):
    """Has `jobs.run` work here; a list of the shares that were worked on.

    Args:
      times: each share is done so often, as by a worker that was thought to be lost.
      fails: of an item: its share raises.
    """
    worked = []

    def run(address, open_work, items, folder, *, most=256, seen="", accelerated=True):
        assert not items or os.path.exists(seen)

        def start():
            # What is sent to a worker must be one that can be sent.
            actor, work = jobs._Actor(), pickle.loads(pickle.dumps(open_work))()

            def attempt(share):
                worked.append(share)
                if any(map(fails, share)):
                    raise RuntimeError("as if by chance")
                sent = pickle.dumps(share)
                return [work(pickle.loads(sent)) for _ in range(times)][-1]

            actor._work = attempt
            return shares.Worker(
                done(shares.Answer()),
                lambda share: done(actor.work(share)),
                lambda: None,
            )

        dealt = shares.split(items, most, workers)
        yield from shares.deal_out(dealt, start, workers)

    monkeypatch.setattr(jobs, "run", run)
    return worked


def open_doubling(folder):
    """Work that doubles numbers, and leaves a file for each attempt at a share.

    A negative number ends its process, and one above a thousand raises.
    """

    def double(share):
        name = f"{'_'.join(map(str, share))}.{time.time_ns()}"
        (pathlib.Path(folder) / name).touch()
        if min(share) < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if max(share) > 1000:
            raise ArithmeticError("too large")
        return [2 * number for number in share]

    return double


class Cluster(NamedTuple):
    """Processes of Ray on this machine, with room for two workers."""

    address: str
    mark: str

    def workers(self):
        """The ids of the processes that are workers now."""
        return processes_with(self.mark, b"ray::_Actor")

    def wait_for_workers(self, count):
        """The workers, once they are so many; as they are after a while."""
        return _wait(self.workers, lambda found: len(found) == count)


@contextlib.contextmanager
def started_cluster(folder):
    """A cluster that is stopped in the end; its logs are in /tmp/ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # Eight cores by name, so that two workers have their share of four.
    command = [str(pathlib.Path(sys.executable).parent / "ray"), "start", "--head"]
    command += [f"--port={port}", "--num-cpus=8", "--include-dashboard=false"]
    command += ["--block", "--disable-usage-stats"]
    environment = os.environ | ENVIRONMENT | {MARK: str(folder)}
    with open(folder / "log", "wb") as log:
        head = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait((folder / "log").read_text, lambda text: "--block" in text)
        yield Cluster(f"127.0.0.1:{port}", str(folder))
    finally:
        for number in processes_with(str(folder)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        head.wait()


def processes_with(mark, command=b""):
    """The ids of the processes that a test has started, directly or not."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if f"{MARK}={mark}".encode() in environment.split(b"\0"):
                if (folder / "cmdline").read_bytes().startswith(command):
                    found.append(int(folder.name))
    return found


def begin(*arguments, cwd=ROOT, **environment):
    """A command that has been started."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def program(*arguments, **environment):
    """What a command printed that ended well."""
    command = begin(*arguments, **environment)
    out, error = command.communicate()
    assert command.returncode == 0, error
    return out


def wait_for_shards(store, count):
    """Waits until a store has so many shards."""
    _wait(
        lambda: list((store / "shards").glob("*.safetensors")),
        lambda found: len(found) >= count,
    )


def write_photo(path, number):
    """A small photo that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (160, 120)))


def _wait(look, is_there):
    deadline = time.monotonic() + PATIENCE
    while not is_there(found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
