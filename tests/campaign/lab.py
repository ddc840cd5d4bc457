"""Where steps are done: the material, results of undisturbed runs, a folder each."""

import functools
import os
import pathlib
import random
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.campaign import material, processes
from tests.campaign.commands import Recipe, find, offer_downloads
from tests.campaign.contents import contents
from tests.campaign.processes import Child, Outcome, Worker

LIMIT = 150.0  # seconds of a command.
# Files beside the folder of a step, that nothing there may touch.
CANARIES = ("canary", "canary.json", "canary.safetensors", "canary.postings")
CANARY = "not yours"


class Reference(NamedTuple):
    """An undisturbed run: what came out, and how it went."""

    contents: dict[str, str]
    outcome: Outcome


class Lab:
    """A temporary folder with all that steps need, and a worker for commands."""

    def __init__(self, base: pathlib.Path):
        self.given, self.made = base / "given", base / "made"
        self.steps = base / "steps"
        for folder in (self.given, self.made / "work", self.steps):
            folder.mkdir(parents=True)
        os.environ.setdefault("DELF_JAX_CACHE", str(base / "cache"))
        os.environ["PYTHONPATH"] = str(processes.ROOT)  # Of the trials of a sweep.
        os.environ["no_proxy"] = "127.0.0.1"
        processes.call(
            functools.partial(material.make, self.given), self.made / "work", 300
        )
        self.worker = Worker(self.made)
        self.references: dict[Any, Any] = {}
        self.folder = base
        self._given = _state(self.given)

    def begin(self, number: int) -> None:
        """An empty folder for the next step, with something of others beside it."""
        self.folder = self.steps / str(number)
        (self.folder / "work").mkdir(parents=True)
        for name in CANARIES:
            (self.folder / name).write_text(CANARY)

    def end(self) -> str:
        """What a step did to files that were not its own, in words."""
        if _state(self.given) != self._given:
            return "the input was changed"
        beside = {path.name for path in self.folder.iterdir()} - {"work", "logs"}
        if new := beside - {*CANARIES}:
            return f"writes beside its folder: {', '.join(sorted(new))}"
        for name in CANARIES:
            path = self.folder / name
            if not path.is_file() or path.read_text() != CANARY:
                return f"deleted or changed {name}, which is none of its files"
        return ""

    @property
    def work(self) -> pathlib.Path:
        """The folder that the commands of a step run in."""
        return self.folder / "work"

    def arguments(self, arguments: Sequence[str]) -> list[str]:
        return [argument.replace("{given}", str(self.given)) for argument in arguments]

    def fill(self, needs: Sequence[str]) -> None:
        """Puts what the recipes make into the folder of this step."""
        for name in needs:
            copy(self.result(name), self.work)

    def result(self, name: str) -> pathlib.Path:
        """The folder of the result of a recipe."""
        self.reference(name)
        return self.made / name / "work"

    def reference(self, name: str) -> Reference:
        """The undisturbed run of a recipe, made when it is first asked for."""
        if name not in self.references:
            recipe, before = find(name), self.folder
            self.folder = self.made / name
            self.work.mkdir(parents=True)
            self.fill(recipe.needs)
            outcome = self.start(recipe).wait(LIMIT)
            if outcome.status:
                raise RuntimeError(f"{name}: {outcome.err[-2000:]}")
            self.references[name] = Reference(self.contents(), outcome)
            self.folder = before
        return self.references[name]

    def start(self, recipe: Recipe, kill_at: int | None = None) -> Child:
        """The recipe's command, begun in the folder of this step."""
        before = None
        if recipe.arguments[0] == "download":
            before = functools.partial(offer_downloads, self.given / "server")
        arguments = self.arguments(recipe.arguments)
        return Child(arguments, self.work, kill_at=kill_at, before=before)

    def contents(self) -> dict[str, str]:
        """What the folder of this step holds."""
        return processes.call(functools.partial(contents, self.work), self.work)

    def run(self, arguments: Sequence[str], limit: float = LIMIT) -> Outcome:
        """What became of a command, by the worker."""
        return self.worker.run(self.arguments(arguments), self.work, limit)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files in a folder, by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def random_of(*names: object) -> random.Random:
    return random.Random(" ".join(map(str, names)))


def _state(folder: pathlib.Path) -> list[tuple]:
    """What tells whether anything in a folder was touched."""
    states = ((path, path.lstat()) for path in sorted(folder.rglob("*")))
    return [(str(p), s.st_size, s.st_mtime_ns, s.st_ino) for p, s in states]
