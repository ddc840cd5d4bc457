"""The training on a borrowed machine, in miniature: its pack, and that it runs."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from delf_jax.config import read_config
from delf_jax.extraction.model_folder import load_model, save_model
from tests.helpers.random_models import random_variables

ROOT = pathlib.Path(__file__).parent.parent
LITE = {
    "name": "global",
    "backbone": "efficientnet_lite2",
    "global_dimension": 0,
    "pooling": "gem",
    "num_classes": 0,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what git tracks here, or would, without anything that is ignored."""
    folder = tmp_path_factory.mktemp("copy") / "delf_jax"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a checkout of git")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def draw_source(folder, labels):
    """Photos of noise and a labels.csv with a column `landmark`."""
    rng = np.random.default_rng(0)
    rows = []
    for number, label in enumerate(labels):
        noise = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        name = f"{number}.jpg"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), cv2.resize(noise, (400, 300)))
        rows.append([name, label])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "landmark"], *rows])


@pytest.fixture(scope="module")
def packed(tree, tmp_path_factory):
    """The copy with a pack of drawn photos and a teacher; and what is held out."""
    work = tmp_path_factory.mktemp("shared")
    sources = read_config(ROOT / "configs" / "delg_tiny.py").data.sources
    held_out = {n: s.get("holdout", ()) for n, s in sources.items() if "path" in s}
    fields = {"directory": work / "data"}
    for name, labels in held_out.items():
        draw_source(work / name, [*labels, "a", "a", "b", "_distractors"])
        fields[f"sources.{name}.path"] = work / name / "labels.csv"
        fields[f"sources.{name}.images"] = work / name
    fields |= {"sources.synthetic.landmarks": 1, "sources.synthetic.views": 2}
    extraction = {"image_scales": [1.0], "global_scales": [0], "max_features": 0}
    save_model(work / "teacher", LITE, random_variables(LITE), extraction, {})
    run(
        tree,
        sys.executable,
        "benchmarks/device_pack.py",
        "--no_wheels",
        f"--teacher={work / 'teacher'}",
        *(f"--config.data.{name}={value}" for name, value in fields.items()),
    )
    return tree, held_out


def run(tree, *command, **variables):
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHON": sys.executable,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles faster.
    }
    return subprocess.run(
        command,
        cwd=tree,
        env=environment | variables,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.mark.slow
def test_a_pack_has_the_photos_that_are_trained_on_and_no_others(packed):
    tree, held_out = packed
    for name, labels in held_out.items():
        folder = tree / ".device" / "photos" / name
        rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
        assert [row["label"] for row in rows] == ["a", "a", "b", "_distractors"]
        assert {row["image"] for row in rows} == {p.name for p in folder.glob("*.webp")}
        assert max(cv2.imread(str(folder / rows[0]["image"])).shape) == 256
        assert not set(labels) & {row["label"] for row in rows}
    teacher = load_model(tree / ".device" / "teacher")
    assert teacher.config["architecture"]["backbone"] == "efficientnet_lite2"


@pytest.mark.slow
def test_a_packed_training_ends_by_itself_and_goes_on_when_called_again(
    packed, tmp_path
):
    tree, _ = packed
    command = ["bash", "benchmarks/device_train.sh", "30", "--smoke"]
    first = run(tree, *command, OUT=str(tmp_path), http_proxy="http://127.0.0.1:9")
    assert "examples a second" in first
    brought = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert brought == {
        "metrics.jsonl",
        "model/MODEL.md",
        "model/config.json",
        "model/model.safetensors",
        "report.json",
        "train.log",
    }
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"] == 6 and report["finished"]
    assert load_model(tmp_path / "model").config["provenance"]["steps"] == 6

    again = run(tree, *command, OUT=str(tmp_path))
    assert "examples a second" not in again
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, 10))
    assert load_model(tmp_path / "model").config["provenance"]["steps"] == 9
