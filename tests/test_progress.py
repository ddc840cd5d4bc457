"""Progress: lines where there is no terminal, a bar where there is one."""

import io
import sys

import pytest

from delf_jax import progress
from delf_jax.files import InputError
from delf_jax.progress import track


class _Clock:
    def __init__(self, step: float):
        self.now, self.step = 100.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _lines(monkeypatch, capsys, *, total: int, step: float) -> list[str]:
    monkeypatch.setattr(progress, "time", _Clock(step))
    with track("extract", total) as advance:
        for _ in range(total):
            advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_lines_come_now_and_then_and_at_the_end(monkeypatch, capsys):
    lines = _lines(monkeypatch, capsys, total=25, step=1.0)
    assert lines == [
        "extract: 10 of 25 images, 1.0 images/s, 15 s left",
        "extract: 20 of 25 images, 1.0 images/s, 5 s left",
        "extract: 25 of 25 images in 25 s, 1.0 images/s",
    ]


def test_several_images_are_counted_at_once(monkeypatch, capsys):
    monkeypatch.setattr(progress, "time", _Clock(20.0))
    with track("read", 100) as advance:
        advance(60)
        advance(40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "read: 60 of 100 images, 3.0 images/s, 13 s left",
        "read: 100 of 100 images in 40 s, 2.5 images/s",
    ]


@pytest.mark.parametrize("terminal", [io.StringIO, _Terminal])
def test_a_share_that_is_empty_has_no_rate(monkeypatch, terminal):
    said = terminal()
    monkeypatch.setattr("sys.stderr", said)
    monkeypatch.setattr(progress, "time", _Clock(20.0))
    with track("write", 2) as advance:
        advance(0)
        advance(2)
    assert "2 of 2 images" in said.getvalue() or "2/2" in said.getvalue()


def test_slow_work_is_measured_in_seconds_per_image(monkeypatch, capsys):
    lines = _lines(monkeypatch, capsys, total=200, step=60.0)
    assert lines[0] == "extract: 1 of 200 images, 60.0 s/image, 3 h 19 min left"
    assert lines[-2] == "extract: 199 of 200 images, 60.0 s/image, 1 min 0 s left"


def test_what_is_done_once_is_in_no_estimate(monkeypatch, capsys):
    monkeypatch.setattr(progress, "time", _Clock(20.0))
    with track("extract", 4) as advance:
        progress.leave_out(15.0)
        advance()
        advance(3)
    assert capsys.readouterr().err.splitlines() == [
        "extract: 1 of 4 images, 5.0 s/image, 15 s left",
        "extract: 4 of 4 images in 40 s, 10.0 s/image",
    ]


def test_a_job_of_a_moment_has_no_rate(monkeypatch, capsys):
    monkeypatch.setattr(progress, "time", _Clock(0.3))
    with track("k-means 1 of 5", 2, "batch") as advance:
        advance(2)
    assert capsys.readouterr().err == "k-means 1 of 5: 2 of 2 batches in 0.3 s\n"


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (1, "query", "1 query"),
        (2, "query", "2 queries"),
        (0, "match", "0 matches"),
        (1, "match", "1 match"),
        (5, "iteration", "5 iterations"),
    ],
)
def test_a_count_has_its_unit(number, unit, text):
    assert progress.format_count(number, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.01, "0.1 s"),
        (0.3, "0.3 s"),
        (0.96, "1 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_a_duration_is_rounded_to_what_matters(seconds, text):
    assert progress.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("done", "text"),
    [(1, "2.0 s/image"), (5, "2.5 images/s"), (244451, "122k images/s")],
)
def test_a_rate_is_rounded_to_what_matters(done, text):
    assert progress.format_rate(done, 2.0, "image") == text


@pytest.mark.parametrize("arguments", [{"total": 0}, {"total": 3, "progress": False}])
def test_nothing_is_printed_where_nothing_is_done_or_progress_is_off(capsys, arguments):
    with track("extract", **arguments) as advance:
        for _ in range(arguments["total"]):
            advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("grün 日本 👩‍🚀.jpg", "grün 日本 👩‍🚀.jpg"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800\u2066", r"\ud800\u2066"),
    ],
)
def test_a_name_is_printed_on_a_line_and_steers_nothing(name, text):
    assert progress.printable(name) == text


def test_a_bar_and_what_is_printed_beside_it_steer_nothing(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with track("prepare [/b]\x1b]0;x", 2) as advance:
        print("failed: \x1b]0;title", file=sys.stderr)
        advance(2)
    assert r"prepare [/b]\x1b]0;x" in terminal.getvalue()
    assert r"failed: \x1b]0;title" in terminal.getvalue()
    assert "\x1b]0;" not in terminal.getvalue()


def test_failures_are_a_line_each(capsys):
    progress.print_failures([InputError("a.jpg: bad"), "b\n.jpg: worse"])
    assert capsys.readouterr() == ("", "failed: a.jpg: bad\nfailed: b\\n.jpg: worse\n")


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with track("extract", 4) as advance:
        for _ in range(4):
            advance()
    assert "extract" in terminal.getvalue() and "4/4" in terminal.getvalue()
    assert "images/s" in terminal.getvalue() and "left" in terminal.getvalue()


def _work() -> None:
    """What a command prints: remarks, progress and a result."""
    print("a remark")
    with track("extract", 1) as advance:
        advance()
    progress.print_results("a table")


@pytest.mark.parametrize(
    ("quiet", "taken", "out", "err"),
    [
        (False, False, {"a remark", "a table"}, {"extract"}),
        (True, False, {"a table"}, set()),
        (False, True, {"{}"}, {"a remark", "a table", "extract"}),
        (True, True, {"{}"}, set()),
    ],
)
def test_standard_output_has_results_or_one_file(capsys, quiet, taken, out, err):
    with progress.output(quiet=quiet, taken=taken):
        _work()
        if taken:
            progress.write_output(io.BytesIO(b"{}"))
    captured = capsys.readouterr()
    assert {line.split(":")[0] for line in captured.out.splitlines()} == out
    assert {line.split(":")[0] for line in captured.err.splitlines()} == err
    _work()
    assert capsys.readouterr().out == "a remark\na table\n"


def test_notes_come_once_and_after_all_else_that_a_command_prints(capsys):
    with progress.output(quiet=False, taken=False):
        progress.add_note("2 files skipped")
        progress.add_note("2 files skipped")
        progress.print_results("done")
        assert "skipped" not in capsys.readouterr().err
    assert capsys.readouterr().err == "2 files skipped\n"
    with pytest.raises(KeyError), progress.output(quiet=False, taken=True):
        progress.add_note("2 files skipped")
        raise KeyError
    assert capsys.readouterr().err == "2 files skipped\n"


def test_notes_are_no_results_and_do_not_wait_outside_of_a_command(capsys):
    with progress.output(quiet=True, taken=False):
        progress.add_note("3 files skipped")
    assert capsys.readouterr().err == ""
    progress.add_note("4 files skipped")
    assert capsys.readouterr().err == "4 files skipped\n"
