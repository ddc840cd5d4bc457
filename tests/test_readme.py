"""What the README and docs/ say can be typed, and what they point to is there."""

import importlib
import pathlib
import re
import shlex

import pytest

from delf_jax import cli
from docs import draw_house

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}


def _commands(text: str) -> list[str]:
    """The lines of code blocks that call main.py."""
    lines = "".join(text.split("```")[1::2]).splitlines()
    return [line for line in lines if line.startswith("python main.py ")]


@pytest.mark.parametrize(
    "command", sorted({line for text in TEXTS.values() for line in _commands(text)})
)
def test_commands_are_understood(command, monkeypatch):
    name = shlex.split(command)[2]
    seen = []
    known = cli.COMMANDS[name]._replace(run=lambda options: seen.append(options) or 0)
    monkeypatch.setitem(cli.COMMANDS, name, known)
    assert cli.main(shlex.split(command)[2:]) == 0
    assert seen


def test_every_command_is_shown():
    used = {line.split()[2] for text in TEXTS.values() for line in _commands(text)}
    assert used == cli.COMMANDS.keys() - {"demo"}  # `make demo` runs it.


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_are_named_exist(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", TEXTS[page])
    files = re.findall(r"\b(?:benchmarks|configs|tests)/[a-z]\w*\.py", TEXTS[page])
    paths = {(ROOT / page).parent / link for link in links} | {ROOT / f for f in files}
    missing = {path for path in paths if not path.exists()}
    assert missing == set()


@pytest.mark.parametrize("page", TEXTS)
def test_sections_that_are_linked_exist(page):
    for path, section in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", TEXTS[page]):
        target = (ROOT / page).parent / path if path else ROOT / page
        titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
        slugs = [
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
        ]
        assert section in slugs


@pytest.mark.parametrize("page", TEXTS)
def test_names_of_the_package_exist(page):
    for name in set(re.findall(r"`(delf_jax(?:\.\w+)+)", TEXTS[page])):
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(module)
        if not hasattr(found, attribute):
            importlib.import_module(name)


def test_the_readme_is_one_screen():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_no_empty_line_cuts_a_table():
    assert [page for page, text in TEXTS.items() if "|\n\n|" in text] == []


def test_the_drawing_of_the_house_is_up_to_date():
    assert draw_house.FILE.read_text("utf-8") == draw_house.draw_house()
