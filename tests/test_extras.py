import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest

from delf_jax import cli, extras
from delf_jax.files import InputError
from delf_jax.inspection import describe
from tests.test_architecture import MODULES, ROOT, TENSORFLOW

# What flax brings along, and no search looks at.
_OF_FLAX = ("orbax", "tensorstore", "uvloop")
_NEEDS_AN_EXTRA = re.compile(
    r"delf_jax\.(training|data|serve|synthetic)\."
    r"|delf_jax\.extraction\.openvino_graph|.*__main__"
)
_IMPORT = """
import importlib, sys

absent, names = (each.split() for each in sys.argv[1:])


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
for name in names:
    importlib.import_module(name)
"""


def test_all_but_training_is_imported_without_what_training_needs():
    absent = {*extras.PACKAGES["train"], *_OF_FLAX}
    names = [
        name
        for name in sorted(MODULES)
        if not _NEEDS_AN_EXTRA.match(name)
        if name not in TENSORFLOW and not name.startswith("configs")
    ]
    assert {"delf_jax.demo", "delf_jax.search.match", "delf_jax.index.photo_index",
            "delf_jax.evaluation.one_call"} <= {*names}  # fmt: skip
    command = [sys.executable, "-c", _IMPORT, " ".join(absent), " ".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "train --config=configs/tiny.py --workdir=run",
        "sweep --config=configs/ablation.py --workdir=run --dry_run",
        "prepare --dataset=photos --data=data",
    ],
)
def test_without_the_extra_training_says_what_to_install(
    command, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "grain", None)
    assert cli.main(command.split()) == 2
    name = command.split()[0]
    said = f"error: {name} needs more packages: pip install 'delf_jax[train]'\n"
    assert capsys.readouterr() == ("", said)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_a_state_of_training_says_what_to_install(
    monkeypatch, tmp_path
):
    (tmp_path / "checkpoints" / "1" / "state").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "orbax", None)
    with pytest.raises(InputError, match=r"checkpoints: a state of training, .*train"):
        describe.format_contents(tmp_path)


@pytest.mark.parametrize("extra", extras.PACKAGES)
def test_an_extra_installs_what_is_looked_for(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = project["optional-dependencies"][extra]
    names = {_normalised(re.split(r"[\[<>=]", each)[0]) for each in asked}
    found = importlib.metadata.packages_distributions()
    for package in extras.PACKAGES[extra]:
        if package in found:  # Else nothing says whose it is.
            assert {_normalised(name) for name in found[package]} & names, package


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
