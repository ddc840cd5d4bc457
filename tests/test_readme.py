"""What the README says can be typed, and what it points to is there."""

import pathlib
import re
import shlex

import pytest

from delf_jax import cli

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def _commands() -> list[str]:
    """The lines of code blocks that call main.py."""
    lines = "".join(README.split("```")[1::2]).splitlines()
    return [line for line in lines if line.startswith("python main.py ")]


@pytest.mark.parametrize("command", _commands())
def test_commands_are_understood(command, monkeypatch):
    name = shlex.split(command)[2]
    seen = []
    known = cli.COMMANDS[name]._replace(run=lambda options: seen.append(options) or 0)
    monkeypatch.setitem(cli.COMMANDS, name, known)
    assert cli.main(shlex.split(command)[2:]) == 0
    assert seen


def test_there_are_commands_to_check():
    assert len(_commands()) >= 4


def test_files_that_are_named_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    files = re.findall(r"`(?:python )?((?:benchmarks|configs|tests)/\w+\.py)", README)
    assert len(links) > 3 and len(files) > 3
    missing = {name for name in [*links, *files] if not (ROOT / name).exists()}
    assert missing == set()
