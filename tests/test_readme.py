"""What the README and docs/ say can be typed, and what they point to is there."""

import argparse
import contextlib
import fnmatch
import importlib
import re
import shlex
from collections.abc import Iterator

import pytest

from delf_jax import cli
from delf_jax.cluster import buckets
from delf_jax.config import read_config, read_ranges
from delf_jax.extraction.config import read_extraction_config
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.training.config import check_values
from docs import draw_house
from tests.helpers import documents
from tests.helpers.documents import ROOT, TEXTS

COMMANDS = sorted(
    {line for text in TEXTS.values() for line in documents.commands(text)}
)
# Code that looks like options of ours and is of others.
OF_OTHERS = {
    "--TwoViewGeometry.max_error": "COLMAP",
    "--SiftMatching.max_error": "COLMAP",
    "--photos": "benchmarks/verification.py",
    "--images": "benchmarks/global_search.py",
    "--start": "benchmarks/device_pack.py",
    "--smoke": "benchmarks/device_train.sh",
    "--user": "docker",
    "--gpus": "docker",
    "--gpu": "benchmarks/scale.py",
    "--print-completion": "the program, before any command",
}
SECTIONS, RANGES = read_ranges("common")
FIELDS = [*RANGES, *(f"extraction.{name}" for name in ExtractionSettings._fields)]
# Parts of fields that are projections, and what a file of configs/ has beside these.
FIELDS += [f"extraction.*pca.{name}" for name in ("mean", "projection")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    name = shlex.split(command)[2]
    seen = []
    known = cli.COMMANDS[name]._replace(run=lambda options: seen.append(options) or 0)
    monkeypatch.setitem(cli.COMMANDS, name, known)
    monkeypatch.setattr(buckets, "mirrored", lambda *_: contextlib.nullcontext())
    assert cli.main(shlex.split(command)[2:]) == 0
    (options,) = seen
    if name in ("train", "sweep", "reproduce"):
        config = read_config(options.config, options.rest)
        if name != "reproduce":
            check_values(config)
    elif options.rest or str(getattr(options, "config", None)).endswith(".py"):
        read_extraction_config(options.config, options.rest)


def test_every_command_is_shown():
    used = {line.split()[2] for line in COMMANDS}
    assert used == cli.COMMANDS.keys() - {"demo"}  # `make demo` runs it.


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _parsers(each)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    actions = (action for each in _parsers(parser) for action in each._actions)
    return {option for action in actions for option in action.option_strings}


@pytest.mark.parametrize("page", TEXTS)
def test_options_that_are_named_exist(page):
    program = cli._parser()
    every = _options(program) | {*OF_OTHERS}
    (of_commands,) = (a.choices for a in program._actions if a.dest == "command")
    for span in documents.spans(TEXTS[page]):
        name, *_ = words = span.removeprefix(documents.COMMAND).split()
        known = _options(of_commands[name]) if name in of_commands else every
        named = {re.split("[=,;]", word.strip("[]"))[0] for word in words}
        named = {n for n in named if re.match(r"--\w", n) and ".config." not in n}
        if name in of_commands or name.startswith("--"):
            assert {n for n in named if not n.startswith("--config.")} <= known, span


@pytest.mark.parametrize("page", TEXTS)
def test_fields_that_are_named_exist(page):
    sections = "|".join(SECTIONS)
    for span in documents.spans(TEXTS[page]):
        for name in re.findall(rf"(?<![\w./])(?:{sections})\.[\w.]+\b(?![\w(/])", span):
            if name.endswith((".py", ".json", ".safetensors", ".datum", ".npz")):
                continue
            assert any(
                fnmatch.fnmatch(field, f"{name}*") or fnmatch.fnmatch(name, field)
                for field in FIELDS
            ), f"{span}: no such field"


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
