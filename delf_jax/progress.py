"""What a command prints: how far a long job is, and its results.

Progress is a bar on a terminal, and a line now and then elsewhere, on standard error.
`output` leaves out what --quiet does, and keeps standard output for JSON alone.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

# Seconds between lines where there is no terminal: a log of a day stays readable.
INTERVAL = 10.0

_shown = True
_results: TextIO | None = None  # None: standard output.
_noted: set[str] = set()
_waiting: list[str] | None = None  # notes; None: they are printed at once.


@contextlib.contextmanager
def output(*, quiet: bool, json: bool) -> Iterator[TextIO]:
    """Standard output, to which nothing but results is printed.

    Args:
      quiet: no progress, and of what is printed the results only.
      json: nothing at all but what is written to the stream that this gives; what is
        printed goes to standard error.
    """
    global _shown, _results, _noted, _waiting
    before = _shown, _results, _noted, _waiting
    stdout, printed = sys.stdout, sys.stderr if json else sys.stdout
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        other = nowhere if quiet else printed
        _shown, _results = not quiet, other if json else printed
        _noted, _waiting = set(), []
        try:
            with contextlib.redirect_stdout(other):
                yield stdout
        finally:
            for line in _waiting:
                print(line, file=sys.stderr, flush=True)
            _shown, _results, _noted, _waiting = before


def print_results(*lines: str) -> None:
    """Prints what a command was run for, which --quiet shows, too."""
    print(*lines, sep="\n", file=_results, flush=True)


def add_note(line: str) -> None:
    """Prints a line on standard error, once: the last of all that a command prints."""
    if line in _noted or not _shown:
        return
    _noted.add(line)
    if _waiting is None:
        print(line, file=sys.stderr, flush=True)
    else:
        _waiting.append(line)


@contextlib.contextmanager
def track(
    description: str, total: int, unit: str = "image", *, progress: bool = True
) -> Iterator[Callable[..., None]]:
    """A function to be called after each of `total`; the report is on stderr.

    After several it is called with their number.

    Args:
      unit: what is counted, in the singular.
    """
    if not progress or not _shown or not total:
        yield lambda more=1: None
    elif sys.stderr.isatty():
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        yield _lines(description, total, unit)


def format_count(number: int, unit: str) -> str:
    """A number with its unit: 1 query, 2 queries, 2 batches."""
    return f"{number} {unit if number == 1 else _plural(unit)}"


def format_duration(seconds: float) -> str:
    """A duration for people: 0.3 s, 45 s, 3 min 20 s, 2 h 5 min."""
    if 0 < seconds < 0.95:
        return f"{max(seconds, 0.1):.1f} s"
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def format_rate(done: int, seconds: float, unit: str) -> str:
    """A rate for people: 2.5 images/s, 14k descriptors/s, 60.0 s/image."""
    rate = done / max(seconds, 1e-9)
    if rate < 1:
        return f"{1 / rate:.1f} s/{unit}"
    digits = 1 if rate < 100 else 0
    text = f"{rate:.{digits}f}" if rate < 10_000 else f"{rate / 1000:.0f}k"
    return f"{text} {_plural(unit)}/s"


@contextlib.contextmanager
def _bar(description: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
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

        def advance(more: int = 1) -> None:
            nonlocal done
            done += more
            rate = format_rate(done, time.monotonic() - start, unit)
            bar.update(task, advance=more, rate=rate)

        yield advance


def _lines(description: str, total: int, unit: str) -> Callable[..., None]:
    start = last = time.monotonic()
    done = 0

    def advance(more: int = 1) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if done < total and now - last < INTERVAL:
            return
        last, seconds = now, now - start
        line = f"{description}: {done} of {format_count(total, unit)}"
        if done == total:
            line += f" in {format_duration(seconds)}"
        if seconds >= 1:  # The rate of a shorter job says little.
            line += f", {format_rate(done, seconds, unit)}"
        if done < total:
            line += f", {format_duration(seconds / done * (total - done))} left"
        print(line, file=sys.stderr, flush=True)

    return advance


def _plural(unit: str) -> str:
    if unit.endswith("y"):
        return f"{unit[:-1]}ies"
    return f"{unit}es" if unit.endswith(("ch", "s")) else f"{unit}s"
