"""The commands for photos of one's own, as their configs and docs have them."""

import pathlib
import shlex
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from delf_jax import cli
from delf_jax.extraction.model_folder import load_model, read_model
from delf_jax.files import read_json
from delf_jax.manifests import write_manifest
from tests.helpers.tiny_training import draw_images

ROOT = pathlib.Path(__file__).parents[2]
# Sizes alone: nothing of what the configs do.
SMALL = (
    "steps=4",
    "batch_size=4",
    "devices=1",
    "views.size=64",
    "data.max_side=128",
    "data.threads=1",
    "validation.every=2",
)
CALIBRATION = {"inliers": {"share": 0.5}, "similarity": 0.2, "fitted_to": "photos"}


def typed(text):
    """The words of the first command that trains."""
    lines = text.split("python main.py ", 1)[1].replace("\\\n", " ").splitlines()
    return shlex.split(lines[0])


@pytest.fixture
def here(tmp_path, tiny_model, monkeypatch):
    """A working directory with what the commands name."""
    draw_images(tmp_path / "FOLDER", classes="abc", each=10)
    shutil.copytree(tiny_model, tmp_path / "models" / "r50delg_gldv2clean")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_the_command_of_the_config():
    page = (ROOT / "docs" / "training.md").read_text()
    header = (ROOT / "configs" / "finetune_bundled.py").read_text()
    assert typed(page) == typed(header)


@pytest.mark.slow
def test_a_model_is_trained_on_a_folder_as_the_template_says(here):
    command = typed((ROOT / "configs" / "template_own_folder.py").read_text())
    assert cli.main([*command, *(f"--config.{field}" for field in SMALL)]) == 0
    assert load_model("runs/mine/model").has_global


@pytest.mark.slow
def test_fine_tuning_as_the_page_says_leaves_local_features_bit_for_bit(here):
    start = here / "models" / "r50delg_gldv2clean"
    config = read_json(start / "config.json")
    write_manifest(start / "config.json", {**config, "calibration": CALIBRATION})
    command = typed((ROOT / "docs" / "training.md").read_text())
    fields = (*SMALL, f"init_from={start}")
    assert cli.main([*command, *(f"--config.{field}" for field in fields)]) == 0
    written, _ = read_model("runs/mine/model")
    before = load_file(start / "model.safetensors")
    after = load_file("runs/mine/model/model.safetensors")
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    if written["provenance"]["steps"]:
        assert changed == {"params/whitening/kernel", "params/whitening/bias"}
    else:  # No step was better than the start, which then is the model.
        assert not changed
    assert written["extraction"] == {**config["extraction"], **written["extraction"]}
    # Of inliers all is known as before; of similarities nothing.
    assert written["calibration"] == {
        "inliers": CALIBRATION["inliers"],
        "fitted_to": "photos",
    }
    assert "start" in written["provenance"]["figures"]["mAP"] or not changed
    assert "## Figures" in (here / "runs" / "mine" / "model" / "MODEL.md").read_text()
