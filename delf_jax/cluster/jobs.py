"""Jobs on a cluster of Ray: workers that start here, or at an address."""

import collections
import contextlib
import importlib.metadata
import os
import pathlib
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from delf_jax import files
from delf_jax.cluster import buckets
from delf_jax.cluster.shares import Answer, Done, Share, Work, Worker, deal_out, split
from delf_jax.files import InputError

# Processor cores of a worker on machines without accelerators: more of them would wait
# for each other, and each worker holds a model.
CORES = 4
# Seconds that a cluster has to answer.
_ANSWER = 10.0
# Ray prints messages of its machines to standard output, whatever it is told when it
# starts; this pattern is of those that it does not print.
_QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_USAGE_STATS_ENABLED": "0"}
# What decides the bits of a result.
_PACKAGES = ("jax", "jaxlib", "numpy")


def run(
    address: str,
    open_work: Callable[[], Work],
    items: Sequence[Any],
    folder: str | os.PathLike,
    *,
    most: int = 256,
    seen: str | os.PathLike = "",
    accelerated: bool = True,
) -> Iterator[Done]:
    """What became of each share of some items, in the order in which they are done.

    InputError if there is no such cluster, or it is not fit for the job.

    Args:
      address: of a cluster; "": workers start on this machine, and end with the job.
      open_work: makes, once in each worker, what works on shares.
      folder: that all write to.
      most: items of a share.
      seen: a file, such as the first photo, that the machines must have, too, unless
        it lies in a bucket.
      accelerated: a worker for each GPU or TPU chip, if there are any.
    """
    if not items:
        with contextlib.suppress(OSError):
            _sign(folder)  # What a run that was killed has left goes.
        return
    with _connected(address) as ray, _signed(folder) as sign:
        count, needs = _workers(ray, address, accelerated)
        expected = [str(sign)] + ([os.fspath(seen)] if seen else [])
        actor = ray.remote(max_restarts=0, **needs)(_Actor)
        check = _versions(), os.getcwd(), expected, buckets.active()
        job = ray.put(open_work)

        def start() -> Worker:
            process = actor.remote()
            # In a list a reference is not resolved: versions are compared before.
            ready = process.make_ready.remote(*check, [job]).future()
            return Worker(
                ready,
                lambda share: process.work.remote(share).future(),
                lambda: ray.kill(process),
            )

        result = buckets.of(folder)
        for done in deal_out(split(items, most, count), start, count):
            if result is not None:  # Other machines sent it to the bucket.
                buckets.pull(result)
            yield done


def clear_after(paths: Iterable[pathlib.Path]) -> None:
    """Deletes what workers that died have left beside files that others then wrote."""
    names = collections.defaultdict(list)
    for path in paths:
        names[path.parent].append(path.name)
    for folder, those in names.items():
        files.clear_leftovers(folder, those)


class _Actor:
    """A worker, in its own process."""

    _work: Work

    def make_ready(
        self,
        versions: dict,
        folder: str,
        seen: list[str],
        mirrors: list[buckets.Mirror],
        job: list,
    ) -> Answer:
        import ray

        host = socket.gethostname()
        if other := {n: v for n, v in _versions().items() if v != versions.get(n)}:
            told = (f"{n} {v}, not {versions.get(n)}" for n, v in other.items())
            return Answer(
                refusal=f"--ray: machine {host} has {' and '.join(told)}; install the "
                "same versions on all machines"
            )
        with contextlib.suppress(OSError):  # Then paths have to be absolute.
            os.chdir(folder)
        buckets.adopt(mirrors)
        # The sign that it looks for first is of the disk of whoever deals out.
        if mirrors and not os.path.exists(seen[0]):
            answer = self._try(lambda: list(map(buckets.pull, mirrors)))
            if answer.refusal or answer.failure:
                return answer
        for path in seen:
            if buckets.of(path) is None and not os.path.exists(path):
                return Answer(
                    refusal=f"{path}: machine {host} does not see it; photos and "
                    "results must be on a disk that all machines have at the same path"
                )
        return self._try(lambda: setattr(self, "_work", ray.get(job[0])()))

    def work(self, share: Share) -> Answer:
        return self._try(lambda: self._do(share))

    def _do(self, share: Share) -> Any:
        """The work on a share, of photos and to folders that may be in buckets."""
        buckets.fetch(_paths(share))
        result = self._work(share)
        for mirror in buckets.active():
            buckets.push(mirror)
        return result

    def _try(self, action: Callable[[], Any]) -> Answer:
        try:
            return Answer(action())
        except buckets.Unreachable as error:
            return Answer(failure=str(error))
        except InputError as error:
            return Answer(refusal=str(error))
        except Exception as error:
            return Answer(failure=f"{type(error).__name__}: {error}"[:500])


def _paths(value: Any) -> Iterator[pathlib.Path]:
    """All paths in tuples and lists of tuples and lists."""
    if isinstance(value, pathlib.Path):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _paths(each)


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    # To import it would be a circle: the package's functions lead here.
    return {"delf_jax": vars(sys.modules["delf_jax"])["__version__"], **packages}


@contextlib.contextmanager
def _signed(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A file that stays for a while: machines that see it see this very folder."""
    path = _sign(folder)
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _sign(folder: str | os.PathLike) -> pathlib.Path:
    return files.temporary_path(pathlib.Path(os.path.abspath(folder), "ray"))


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected; a cluster that was joined before, as in a notebook, stays so."""
    for name, value in _QUIET.items():  # Read when Ray is imported.
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray: pip install 'delf_jax[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    _check_answers(address)
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    # Ray has its own idea of how a program ends.
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        try:
            with warnings.catch_warnings():
                # Ray starts programs; nothing of JAX goes on in them.
                warnings.filterwarnings("ignore", ".*os.fork", RuntimeWarning)
                ray.init(
                    address or "local",
                    log_to_driver=False,
                    logging_level="ERROR",
                    **local,
                )
        except Exception as error:  # Ray raises that class, too, and errors of its own.
            raise InputError(_why_not(address, error)) from None
        finally:
            with contextlib.suppress(ValueError):  # Not in the main thread.
                for number, handler in before.items():
                    signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """InputError if nobody listens there: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if address in ("", "auto"):
        return
    if not host or "/" in host or not port.isdecimal():
        raise InputError(
            f"--ray={address}: expected HOST:PORT of the cluster's head, or auto"
        )
    try:
        socket.create_connection((host, int(port)), _ANSWER).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--ray={address}: no cluster answers ({reason})") from None


def _why_not(address: str, error: Exception) -> str:
    lines = " ".join(str(error).split())
    if "Version mismatch" in lines:
        theirs = lines.partition("started with: ")[2].partition(" This process")[0]
        return (
            f"--ray={address}: the cluster has other versions than this machine "
            f"({theirs.strip(' .')}); install the same"
        )
    if not address:
        return f"--ray: no workers start on this machine ({lines[:200]})"
    return f"--ray={address}: the cluster cannot be joined ({lines[:200].rstrip('.')})"


def _workers(ray: Any, address: str, accelerated: bool) -> tuple[int, dict[str, Any]]:
    """(how many workers the cluster has room for, what each of them needs)."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind in ("GPU", "TPU") if accelerated else ():
        if count := int(sum(machine.get(kind, 0) for machine in machines)):
            need = {"num_gpus": 1} if kind == "GPU" else {"resources": {kind: 1}}
            return count, {"num_cpus": 0, **need}
    # The head of a cluster may be there to lead, with no core to work.
    cores = [int(n) for machine in machines if (n := machine.get("CPU", 0)) >= 1]
    if not cores:
        raise InputError(f"--ray={address}: no machine of the cluster has a core")
    each = min(CORES, *cores)
    return sum(n // each for n in cores), {"num_cpus": each}
