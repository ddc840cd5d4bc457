"""One thread for the work of the models, and the requests that wait for it.

Requests that run at once would take more memory and no less time: the network uses all
cores, or the whole device, for one of them.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple


class Busy(Exception):
    """As many requests wait as may."""


class _Job(NamedTuple):
    work: Callable[[], Iterator[Any]]
    put: Callable[[Any], None]
    given_up: threading.Event


class Worker:
    """A thread that does one job after the other, in the order they came."""

    def __init__(self, waiting: int):
        """waiting: jobs at most, beside the one that is done."""
        self._jobs: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def submit(self, work: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]:
        """What `work` yields, as it comes; Busy, at once, if too many wait.

        If nobody waits for it any more, the work ends where it yields next, or is never
        begun.
        """
        loop, results = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(result: Any) -> None:
            loop.call_soon_threadsafe(results.put_nowait, result)

        job = _Job(work, put, threading.Event())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Busy from None
        return _results(results, job.given_up)

    def close(self) -> None:
        """Ends the thread, and the job that it does where that yields next.

        A thread that computes while Python ends would bring the process down.
        """
        self._closed.set()
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._closed.is_set():
                with contextlib.suppress(RuntimeError):  # Of a loop that is closed.
                    _do(job, self._closed)


async def _results(
    results: asyncio.Queue[Any], given_up: threading.Event
) -> AsyncIterator[Any]:
    try:
        while (found := await results.get()) is not _END:
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        given_up.set()


def _do(job: _Job, closed: threading.Event) -> None:
    last: Any = _END
    if not job.given_up.is_set():
        try:
            for result in job.work():
                job.put(result)
                if job.given_up.is_set() or closed.is_set():
                    break
        except Exception as error:
            last = error
    job.put(last)


_END = object()
