"""The card that lies beside a model."""

import pathlib

from delf_jax.extraction.card import format_card, model_name
from delf_jax.extraction.model_folder import load_model
from delf_jax.files import sha256_of

TRAINED = {
    "architecture": {"name": "delg", "backbone": "compact", "global_dimension": 256},
    "provenance": {
        "config": {
            "init_from": "bundled",
            "init_share": 0.5,
            "train_only": "global",
            "batch_size": 32,
            "views": {"size": 192, "kind": "crop"},
            "loss": {"arcface": 1.0, "attention": 0.0, "margin_kind": "arcface"},
            "data": {
                "sources": {
                    "mine": {"path": "photos|`2`\n# of mine"},
                    "drawn": {"first": 0, "landmarks": 3, "views": 2},
                }
            },
        },
        "steps": 150,
        "data": {"mine": {"images": 91, "classes": 5}},
        "figures": {
            "mAP": {"start": 0.5, "model": 0.625},
            "arcface_accuracy": {"model": 0.75},
        },
    },
    "sha256": "ab" * 32,
    "files": {"mean.datum": "cd" * 32},
}


def test_a_card_says_data_figures_training_and_hashes():
    lines = format_card("mine", TRAINED).splitlines()
    for line in (
        "# mine",
        "- dimensions of the global descriptor: `256`",
        "| mAP | 0.500 | 0.625 |",
        "| arcface_accuracy |  | 0.750 |",
        "- start: `bundled`, of whose weights it keeps a share of 0.5",
        "- learns: `global`",
        "- losses: arcface 1.0",
        f"| `model.safetensors` | `{'ab' * 32}` |",
        f"| `mean.datum` | `{'cd' * 32}` |",
        "| drawn |  |  | drawn landmarks |",
    ):
        assert line in lines
    # A path is one cell of one row, whatever is in it.
    assert "| mine | 91 | 5 | `photos\\|'2'\\n# of mine` |" in lines


def test_a_card_of_a_converted_model_says_of_which_files():
    provenance = {
        "converted_from": "r50delg",
        "family": "DELG",
        "files": [{"name": "saved_model.pb", "sha256": "ef" * 32}],
    }
    card = format_card(
        "m", {"architecture": {"name": "delg"}, "provenance": provenance}
    )
    assert "- converted from: `r50delg`" in card
    assert f"- file: `saved_model.pb`, SHA-256 `{'ef' * 32}`" in card
    assert "## Training" not in card and "## Data" not in card


def test_every_model_folder_has_a_card_with_the_hash_of_its_weights(tiny_model):
    card = (tiny_model / "MODEL.md").read_text()
    assert card.startswith("# tiny\n") and "[]" not in card
    assert sha256_of(tiny_model / "model.safetensors") in card
    assert load_model(tiny_model).has_global


def test_the_model_of_a_training_is_called_as_its_workdir():
    assert model_name(pathlib.Path("runs/mine/model")) == "mine"
    assert model_name(pathlib.Path("models/r50delg")) == "r50delg"


def test_a_card_of_a_foreign_folder_is_a_card_whatever_is_in_it():
    for odd in ([], 3, "x", {"config": 3}, {"config": {"data": [], "loss": [1]}}):
        assert "# m" in format_card("m", {"architecture": {}, "provenance": odd})
    odd = {"config": {"seed": "|"}, "figures": {"mAP": {"model": "*"}}, "files": [1]}
    card = format_card("m", {"architecture": {}, "provenance": odd, "files": 3})
    assert "| mAP | \\* |" in card and "- seed: \\|" in card
