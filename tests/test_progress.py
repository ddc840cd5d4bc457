"""Progress: lines where there is no terminal, a bar where there is one."""

import io

import pytest

from delf_jax import progress
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
        "extract: 10 of 25, 1.0 images/s, 15 s left",
        "extract: 20 of 25, 1.0 images/s, 5 s left",
        "extract: 25 of 25, 1.0 images/s, 0 s left",
    ]


def test_several_images_are_counted_at_once(monkeypatch, capsys):
    monkeypatch.setattr(progress, "time", _Clock(20.0))
    with track("read", 100) as advance:
        advance(60)
        advance(40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "read: 60 of 100, 3.0 images/s, 13 s left",
        "read: 100 of 100, 2.5 images/s, 0 s left",
    ]


def test_slow_work_is_told_in_seconds_per_image(monkeypatch, capsys):
    lines = _lines(monkeypatch, capsys, total=200, step=60.0)
    assert lines[0] == "extract: 1 of 200, 60.0 s/image, 3 h 19 min left"
    assert lines[-2] == "extract: 199 of 200, 60.0 s/image, 1 min 0 s left"


@pytest.mark.parametrize("arguments", [{"total": 0}, {"total": 3, "progress": False}])
def test_nothing_is_said_where_nothing_is_asked(capsys, arguments):
    with track("extract", **arguments) as advance:
        for _ in range(arguments["total"]):
            advance()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with track("extract", 4) as advance:
        for _ in range(4):
            advance()
    assert "extract" in terminal.getvalue() and "4/4" in terminal.getvalue()
    assert "images/s" in terminal.getvalue() and "left" in terminal.getvalue()
