"""A folder for the hub: a model folder with a card that the hub reads."""

import json
import shutil

import jax
import numpy as np
import pytest
import yaml

from delf_jax import cli
from delf_jax.export import export
from delf_jax.export.options import ExportOptions
from delf_jax.extraction.model_folder import BUNDLED_DETECTOR, load_model
from delf_jax.files import InputError
from delf_jax.manifests import write_manifest
from tests.helpers.exported import small_model

FRONT = "---\n"


def export_to_hub(model, out):
    return export.export_model(model, "hub-folder", out, ExportOptions())


def test_a_folder_for_the_hub_opens_as_the_same_model(tiny_model, tmp_path, capsys):
    out = tmp_path / "hub"
    assert cli.main(["export", str(tiny_model), "--to=hub-folder", f"--out={out}"]) == 0
    assert "hub-folder: " in capsys.readouterr().out
    one, other = load_model(tiny_model), load_model(out)
    assert one.fingerprint == other.fingerprint
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_a_folder_for_the_hub_has_the_backbone_that_the_model_leaves_out(tmp_path):
    bundled = load_model(BUNDLED_DETECTOR)
    export_to_hub(bundled, tmp_path / "hub")
    assert "backbone" not in json.loads((tmp_path / "hub" / "config.json").read_text())
    alone = load_model(tmp_path / "hub")
    jax.tree.map(np.testing.assert_array_equal, alone.variables, bundled.variables)


def test_the_hub_reads_of_the_card_what_the_model_is_for(tiny_model, tmp_path):
    export_to_hub(load_model(tiny_model), tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    _, front, text = card.split(FRONT, 2)
    content = yaml.safe_load(front)
    assert content["library_name"] == "delf_jax"
    assert content["pipeline_tag"] == "image-feature-extraction"
    assert "delg" in content["tags"]
    assert text.startswith("\n# tiny\n") and "model.safetensors" in text


def test_a_folder_for_the_hub_names_no_folders_of_this_machine(tiny_model, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_model, source)
    config = json.loads((source / "config.json").read_text())
    training = {
        "init_from": "/home/anna/models/r50",
        "data": {
            "directory": "/home/anna/data",
            "sources": {"mine": {"path": "/home/anna/photos", "first": 3}},
        },
        "validation": {"dataset": "/home/anna/truth.json", "every": 50},
    }
    config["provenance"] = {"config": training, "figures": {"mAP": {"model": 0.5}}}
    write_manifest(source / "config.json", config)
    export_to_hub(load_model(source), tmp_path / "hub")
    written = (tmp_path / "hub" / "config.json").read_text()
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "anna" not in written + card
    kept = json.loads(written)["provenance"]["config"]
    assert kept["data"]["sources"]["mine"] == {"path": "photos", "first": 3}
    assert kept["validation"] == {"dataset": "truth.json", "every": 50}
    assert load_model(tmp_path / "hub").fingerprint == load_model(source).fingerprint


def test_what_is_no_whole_model_of_one_folder_is_refused(
    tiny_model, global_model, tmp_path
):
    for model in (small_model("v1.5"), load_model(tiny_model, global_model)):
        with pytest.raises(InputError, match="takes a model of one folder"):
            export_to_hub(model, tmp_path / "hub")
    for name, value in (("what", "global"), ("scales", (1.0,)), ("pool", "sum")):
        options = ExportOptions(**{name: value})
        with pytest.raises(InputError, match=f"--{name}: hub-folder takes the whole"):
            export.export_model(
                load_model(tiny_model), "hub-folder", tmp_path / "hub", options
            )
    assert not list(tmp_path.iterdir())


def test_an_export_has_the_card_of_its_model_with_its_own_files(tmp_path, monkeypatch):
    """Whatever is written: the program itself is compiled elsewhere."""
    summary = export.ExportSummary("model.jaxexport", {}, {}, ("call it",), {})

    def write(folder, *_):
        (folder / summary.file).write_bytes(np.arange(9, dtype=np.uint8).tobytes())
        return summary

    monkeypatch.setattr(export.stablehlo, "write", write)
    model = small_model("v1.5")
    export.export_model(model, "stablehlo", tmp_path / "out", ExportOptions())
    card = (tmp_path / "out" / "MODEL.md").read_text()
    assert "- call it" in card and "| `model.jaxexport` | `" in card
    assert "load_model" not in card and "model.safetensors" not in card
