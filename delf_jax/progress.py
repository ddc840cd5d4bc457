"""How far a long job is: a bar on a terminal, now and then a line elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

# Seconds between lines where there is no terminal: a log of a day stays readable.
INTERVAL = 10.0


@contextlib.contextmanager
def track(
    description: str, total: int, *, progress: bool = True
) -> Iterator[Callable[..., None]]:
    """A function to be called after each of `total` images; the report is on stderr.

    After several it is called with their number.
    """
    if not progress or not total:
        yield lambda count=1: None
    elif sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
    else:
        yield _lines(description, total)


@contextlib.contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[..., None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left"),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, rate="")
        start, done = time.monotonic(), 0

        def advance(count: int = 1) -> None:
            nonlocal done
            done += count
            rate = _rate(done, time.monotonic() - start)
            bar.update(task, advance=count, rate=rate)

        yield advance


def _lines(description: str, total: int) -> Callable[..., None]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int = 1) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done == total or now - last >= INTERVAL:
            last = now
            left = _duration((now - start) / done * (total - done))
            rate = _rate(done, now - start)
            line = f"{description}: {done} of {total}, {rate}, {left} left"
            print(line, file=sys.stderr, flush=True)

    return advance


def _rate(done: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    if rate >= 1:
        return f"{rate:.1f} images/s"
    return f"{1 / rate:.1f} s/image"


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
