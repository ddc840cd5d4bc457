"""What a command prints: how far a long job is, and its results.

Progress is a bar on a terminal, and a line now and then elsewhere, on standard error.
`standard_streams` escapes control characters in names and messages, and goes on working
when the reader of a pipe has left; `output` applies --quiet, and reserves standard
output where a file is written to it.
"""

import contextlib
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Seconds between lines where there is no terminal: a log of a day stays readable.
INTERVAL = 10.0

# Control characters except tab and line feed, overrides of the direction of text, and
# bytes of file names that are not UTF-8: what a terminal obeys, or cannot show.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NAMED = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}

_shown = True
_spent_once = 0.0  # Seconds of this process that no estimate counts.
_noted: set[str] = set()
_waiting: list[str] | None = None  # notes; None: they are printed at once.
_results: Any = None  # A stream; None: standard output.
_stdout: Any = None  # Where `write_output` goes; None: standard output.


def visible(text: str) -> str:
    """Text with escapes in place of what would steer a terminal, or break a page."""
    return _STEERING.sub(_escape, text)


def printable(name: str) -> str:
    """As `visible`, on one line: a name, or a message that quotes one."""
    return re.sub(r"[\n\t]", _escape, visible(name))


def _escape(found: re.Match) -> str:
    if found[0] in _NAMED:
        return _NAMED[found[0]]
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # A byte, as Python has it in names of files.
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class Printed:
    """A stream for people, with escapes in place of what would steer a terminal.

    Once writing fails, the rest is dropped and the work goes on: silently if its
    reader, such as `head`, has closed the pipe; else `error` is the reason.
    """

    def __init__(self, stream: Any):
        self.is_closed = stream is None
        self.stream = stream or open(os.devnull, "w", encoding="utf-8")
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        encoding = self.stream.encoding or "utf-8"
        shown = visible(text).encode(encoding, "backslashreplace").decode(encoding)
        self._try(self.stream.write, shown)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def copy(self, source: Any) -> None:
        """Copies bytes to it as they are."""
        if self.is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
        self.flush()
        self._try(shutil.copyfileobj, source, self.stream.buffer)
        self.flush()

    def _try(self, action: Callable[..., Any], *arguments: Any) -> None:
        try:
            action(*arguments)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.error = self.error or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def standard_streams() -> Iterator[tuple[Printed, Printed]]:
    """Standard output and error as `Printed`; what closed ones get is dropped."""
    for number in range(3):  # Or the next file that is opened would be one of them.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out, error = Printed(sys.stdout), Printed(sys.stderr)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            yield out, error
        finally:
            out.flush()
            error.flush()


@contextlib.contextmanager
def output(*, quiet: bool, taken: bool) -> Iterator[None]:
    """A context in which nothing but results is printed to standard output.

    Args:
      quiet: no progress, and of what is printed the results only.
      taken: nothing at all but what `write_output` is given; what is printed goes to
        standard error.
    """
    global _shown, _results, _stdout, _noted, _waiting
    before = _shown, _results, _stdout, _noted, _waiting
    _stdout, printed = sys.stdout, sys.stderr if taken else sys.stdout
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        other = nowhere if quiet else printed
        _shown, _results = not quiet, other if taken else printed
        _noted, _waiting = set(), []
        try:
            with contextlib.redirect_stdout(other):
                yield
        finally:
            for line in _waiting:
                print(line, file=sys.stderr, flush=True)
            _shown, _results, _stdout, _noted, _waiting = before


def write_output(source: Any) -> None:
    """Copies bytes to standard output, whatever else is printed."""
    stdout = _stdout or sys.stdout
    if not isinstance(stdout, Printed):
        stdout = Printed(stdout)
    stdout.copy(source)


def print_results(*lines: str) -> None:
    """Prints what a command was run for, which --quiet shows, too."""
    print(*lines, sep="\n", file=_results, flush=True)


def print_failures(reasons: Iterable[object]) -> None:
    """Prints a line to standard error for each image, or the like, that failed."""
    for reason in reasons:
        print(f"failed: {printable(str(reason))}", file=sys.stderr, flush=True)


def add_note(line: str) -> None:
    """Prints a line on standard error, once: a command prints its notes last."""
    line = printable(line)
    if line in _noted or not _shown:
        return
    _noted.add(line)
    if _waiting is None:
        print(line, file=sys.stderr, flush=True)
    else:
        _waiting.append(line)


def say(line: str) -> None:
    """Prints a line on standard error, at once: what is waited for."""
    if _shown:
        print(printable(line), file=sys.stderr, flush=True)


def greet(line: str) -> None:
    """Prints a line on a terminal, at once: who sits there is to see a start."""
    if sys.stderr.isatty():
        say(line)


def leave_out(seconds: float) -> None:
    """These have been spent on what is done once: no time left is estimated by them."""
    global _spent_once
    _spent_once += seconds


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


@contextlib.contextmanager
def track_bytes(
    description: str, done: int, total: int | None, *, progress: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of bytes that came; as `track`.

    Args:
      done: bytes that were there before.
      total: None if it is not known.
    """
    if not progress or not _shown:
        yield lambda more: None
    elif sys.stderr.isatty():
        with _byte_bar(description, done, total) as advance:
            yield advance
    else:
        yield _byte_lines(description, done, total)


def format_bytes(count: int | float) -> str:
    """A number of bytes for people: 1.9 GB."""
    size = float(count)
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"


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

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TextColumn("{task.fields[left]}"),
    )
    with _on_terminal(*columns) as bar:
        task = bar.add_task(printable(description), total=total, rate="", left="")
        start, done = _working_time(), 0

        def advance(more: int = 1) -> None:
            nonlocal done
            done += more
            if not done:  # A share that was empty.
                return
            seconds = _working_time() - start
            rate = format_rate(done, seconds, unit)
            left = f"{format_duration(seconds / done * (total - done))} left"
            bar.update(task, advance=more, rate=rate, left=left)

        yield advance


@contextlib.contextmanager
def _byte_bar(
    description: str, done: int, total: int | None
) -> Iterator[Callable[[int], None]]:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with _on_terminal(*columns) as bar:
        task = bar.add_task(printable(description), total=total, completed=done)
        yield lambda more: bar.advance(task, more)


@contextlib.contextmanager
def _on_terminal(*columns: Any) -> Iterator[Any]:
    """A bar of rich, which steers the terminal; what is printed beside it must not."""
    from rich.console import Console
    from rich.progress import Progress

    terminal = sys.stderr.stream if isinstance(sys.stderr, Printed) else sys.stderr
    with (
        Progress(*columns, console=Console(file=terminal)) as bar,
        contextlib.redirect_stdout(Printed(sys.stdout)),
        contextlib.redirect_stderr(Printed(sys.stderr)),
    ):
        yield bar


def _byte_lines(
    description: str, done: int, total: int | None
) -> Callable[[int], None]:
    start = last = time.monotonic()
    before = done
    of = "" if total is None else f" of {format_bytes(total)}"

    def advance(more: int) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if done != total and now - last < INTERVAL:
            return
        last = now
        rate = format_bytes((done - before) / max(now - start, 1e-9))
        text = f"{printable(description)}: {format_bytes(done)}{of}, {rate}/s"
        print(text, file=sys.stderr, flush=True)

    return advance


def _working_time() -> float:
    """A clock that stands still while what is done once is done."""
    return time.monotonic() - _spent_once


def _lines(description: str, total: int, unit: str) -> Callable[..., None]:
    start = last = time.monotonic()
    done, spent_before = 0, _spent_once

    def advance(more: int = 1) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if not done or (done < total and now - last < INTERVAL):
            return
        last, seconds = now, now - start
        line = f"{printable(description)}: {done} of {format_count(total, unit)}"
        if done == total:
            line += f" in {format_duration(seconds)}"
        else:
            seconds -= _spent_once - spent_before
        if seconds >= 1:  # The rate of a shorter job says little.
            line += f", {format_rate(done, seconds, unit)}"
        if done < total:
            line += f", {format_duration(seconds / done * (total - done))} left"
        print(line, file=sys.stderr, flush=True)

    return advance


def _plural(unit: str) -> str:
    if unit.endswith("y"):
        return f"{unit[:-1]}ies"
    return f"{unit}es" if unit.endswith(("ch", "s", "x")) else f"{unit}s"
