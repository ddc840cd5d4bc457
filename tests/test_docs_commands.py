"""The commands of docs/ run, in the order of their page, on small drawn data."""

import fnmatch
import pathlib
import shlex
import shutil

import pytest

from delf_jax import cli
from delf_jax.detection import detect
from delf_jax.extraction import model_folder
from tests.helpers import documented, documents
from tests.helpers.documents import COMMAND, TEXTS

# What is not run: commands, and why.
NOT_RUN = {
    "serve *": "does not end; tests/serve starts it",
    "sweep *": "seven trainings; tests/training/test_sweep.py has small ones",
    "train --config=configs/d*": "hours; tests/test_configs.py takes a step of each",
    "train --config=configs/s*": "the same",
    "train --config=configs/finetune_bundled.py *": "tests/training/test_own_photos.py",
    "convert *": "weights of others; tests/conversion reads small ones",
    "inspect models/released/r50delg_gldv2clean_20200914": "the same; tests/inspection",
    "export * --format=savedmodel *": "needs TensorFlow; tests/export has it",
    "evaluate * --config=configs/delf_gld.py *": "a part of configs/d2r_asmk.py",
    "index * --vectors=lancedb:s3:*": "a bucket; tests/index/vectors has a folder",
    "extract s3:*": "buckets; tests/commands/test_buckets.py has one",
    "* --index=gs:*": "the same",
    "calibrate * --landmarks=*": "real photographs; own_photos.md has drawn ones",
}
# What takes their place where less is enough.
SMALLER = {
    "--words=65536": "--words=8",
    "--iterations=50": "--iterations=2",
    "--dimension=256": "--dimension=4",
    "--dimension=64": "--dimension=4",
    "--out=runs/reranker": "--out=runs/reranker --steps=2",
    "--threshold=0.1": "--threshold=0",  # of random weights
    "--root=/mnt/photos": "--root=photos",
    "--ray=10.0.0.1:6379": "--ray",  # tests/cluster has clusters
    "--ray=auto": "--ray",
    "configs/d2r_asmk.py": "configs/d2r_asmk.py --config.experiment.codebook.words=8 "
    "--config.extraction.attention_threshold=0 "
    "--config.experiment.detector=bundled --config.extraction.max_boxes=1",
    "configs/template_own_folder.py": "configs/template_own_folder.py "
    "--config.steps=2 --config.batch_size=2 --config.views.size=64 "
    "--config.validation.every=0 --config.checkpoint_every=0 --config.devices=1 "
    "--config.images_every=0 --config.data.threads=1",
}
# What a page takes from others.
WORDS = (
    "index photos --index=runs/own",
    "fit codebook runs/own/store --out=runs/words --words=8",
)
BEFORE = {
    "docs/cluster.md": (
        "extract photos --out=runs/features",
        "fit codebook runs/features --out=words --words=8",
    ),
    "docs/detection.md": WORDS,
    "docs/evaluation.md": WORDS,
    "docs/file_formats.md": ("index photos --index=runs/photos",),
    "docs/from_tensorflow.md": (
        "gldv2 retrieve data --features=runs/gldv2 --out=runs/found.csv",
        "gldv2 recognize data --features=runs/gldv2 --out=runs/labels.csv",
    ),
    "docs/training.md": (
        "index FOLDER --index=runs/mine_photos --model=runs/mine/model",
    ),
    "docs/papers/asmk.md": ("extract photos --out=runs/features",),
}
# Packages that the commands of a page need beyond those of `make`.
NEEDS = {"docs/cluster.md": "ray", "docs/scale.md": "lancedb"}


def _left_out(command: str) -> str | None:
    found = (
        why for pattern, why in NOT_RUN.items() if fnmatch.fnmatch(command, pattern)
    )
    return next(found, None)


def _run(page: str) -> list[str]:
    """The commands of a page that are run."""
    every = (line.removeprefix(COMMAND) for line in documents.commands(TEXTS[page]))
    return [command for command in every if _left_out(command) is None]


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_model) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("documented")
    documented.make(folder, tiny_model)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # Ray starts its own so.
@pytest.mark.parametrize(
    "page", [p for p in TEXTS if p.startswith("docs/") and _run(p)]
)
def test_the_commands_of_a_page_run(page, material, tiny_model, tmp_path, monkeypatch):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    folder = tmp_path / "here"
    shutil.copytree(material, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(model_folder, "BUNDLED", tiny_model)
    monkeypatch.setattr(detect, "BUNDLED_DETECTOR", folder / "runs" / "ssd" / "model")
    for command in (*BEFORE.get(page, ()), *_run(page)):
        for words, fewer in SMALLER.items():
            command = command.replace(words, fewer)
        assert cli.main(shlex.split(command)) == 0, command


def test_every_reason_not_to_run_is_needed():
    every = [line for text in TEXTS.values() for line in documents.commands(text)]
    commands = [line.removeprefix(COMMAND) for line in every]
    for words in (*NOT_RUN, *SMALLER):
        pattern = words if words in NOT_RUN else f"*{words}*"
        assert fnmatch.filter(commands, pattern), f"{words}: no page has such a command"
