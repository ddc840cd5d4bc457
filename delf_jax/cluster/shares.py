"""Work dealt out in shares, to workers that may die.

A share is to a job what `--part` is, only smaller: a worker that is done with one gets
the next. What comes of a share the worker writes itself, whole, under a name that
follows from its content; so nothing is lost but time if a worker dies, and a share that
is done twice leaves what it leaves when it is done once.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from delf_jax.files import InputError

# A share whose worker dies, or that raises, is tried so often.
ATTEMPTS = 3
# Shares for each worker, at least: the last ones end at about the same time.
_ROUNDS = 4
# Seconds without any worker after which none is waited for.
_PATIENCE = 600.0

Share = Sequence[Any]
Work = Callable[[Share], Any]


class Answer(NamedTuple):
    """What a worker says to a share."""

    result: Any = None
    failure: str = ""
    """what was raised, that may not be again"""
    refusal: str = ""
    """an InputError: whatever is done, it would be raised again"""


class Worker(NamedTuple):
    """A process that works on one share after the other; a future that raises: lost."""

    ready: futures.Future
    """an Answer: a refusal if the machine is not fit for the job"""
    work: Callable[[Share], futures.Future]
    """the Answer to a share"""
    stop: Callable[[], None]


class Done(NamedTuple):
    """What became of a share."""

    share: Share
    result: Any
    reason: str = ""
    """why it failed each time; "": it has a result"""


def split(items: Sequence[Any], most: int, workers: int) -> list[Share]:
    """Shares as --part takes them, each n-th item, of `most` items at most."""
    parts = max(-(-len(items) // most), min(len(items), _ROUNDS * workers))
    return [items[part::parts] for part in range(parts)]


def deal_out(
    shares: Iterable[Share], start: Callable[[], Worker], count: int
) -> Iterator[Done]:
    """What became of each share, in the order in which they are done.

    A worker that is lost gets a successor. A share that fails is tried again once the
    others were, by whoever is free; the third failure is its result.

    Args:
      start: a new worker, one of `count`.
    """
    waiting = collections.deque((share, 1) for share in shares)
    # Of a worker that is getting ready, the share is None.
    calls: dict[futures.Future, tuple[Worker, Share | None, int]] = {}
    idle: list[Worker] = []
    stillborn = 0

    def engage() -> None:
        worker = start()
        calls[worker.ready] = worker, None, 0

    for _ in range(min(count, len(waiting))):
        engage()
    while waiting or any(share is not None for _, share, _ in calls.values()):
        while idle and waiting:
            worker, (share, attempt) = idle.pop(), waiting.popleft()
            calls[worker.work(share)] = worker, share, attempt
        for call in _wait(calls):
            worker, mine, attempt = calls.pop(call)
            answer, is_lost = _answer(call)
            if answer.refusal:
                raise InputError(answer.refusal)
            if is_lost or (mine is None and answer.failure):
                worker.stop()
                engage()
            else:
                idle.append(worker)
            if mine is None:
                stillborn = stillborn + 1 if answer.failure else 0
                if stillborn > ATTEMPTS * count:
                    raise InputError(f"--ray: no worker can start: {answer.failure}")
            elif not answer.failure:
                yield Done(mine, answer.result)
            elif attempt < ATTEMPTS:
                waiting.append((mine, attempt + 1))
            else:
                yield Done(mine, None, f"failed {ATTEMPTS} times: {answer.failure}")


def _wait(calls: dict[futures.Future, tuple]) -> set[futures.Future]:
    """The calls that have ended, at least one of them."""
    works = any(share is not None for _, share, _ in calls.values())
    ended, _ = futures.wait(
        calls, None if works else _PATIENCE, futures.FIRST_COMPLETED
    )
    if not ended:
        raise InputError(
            f"--ray: no worker has started in {_PATIENCE / 60:.0f} minutes: the "
            "cluster is busy, or its machines have gone; run the same command later"
        )
    return ended


def _answer(call: futures.Future) -> tuple[Answer, bool]:
    """(what a worker says, whether it is lost instead)."""
    error = call.exception()
    if error is None:
        return call.result(), False
    # Of what Ray says, the causes that it thinks of and its numbers help nobody.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[-1].partition(" Worker exit ")[0]
    reason = reason[:200].rstrip(".")
    return Answer(failure=f"the worker died ({reason})"), True
