"""Aggregated images on disk, ranked as the original ranks its own."""

import numpy as np
import pytest

from delf_jax import cli, files
from delf_jax.formats.delf import datum

NAMES = ["a", "b", "c"]
CONFIG = (
    "codebook_size: 9 feature_dimensionality: 2 aggregation_type: ASMK "
    "use_l2_normalization: true codebook_path: 'x' num_assignments: 1 {}"
)


@pytest.fixture
def truth(tmp_path):
    """One query, which "c" shows."""
    gnd = [{"easy": [2], "hard": [], "junk": [], "bbx": [0, 0, 9, 9]}]
    content = {"imlist": NAMES, "qimlist": ["q"], "gnd": gnd}
    files.write_json(tmp_path / "gnd.json", content)
    return tmp_path / "gnd.json"


def write(folder, images, suffix="asmk"):
    """Images by name: residuals by visual word."""
    for name, words in images.items():
        residuals = np.array([*words.values()], np.float32).ravel()
        numbers = np.array([*words], np.uint32)
        datum.write_datum_pair(folder / f"{name}.{suffix}", residuals, numbers)
    return folder


@pytest.fixture
def asked(truth, tmp_path):
    index = {"a": {}, "b": {4: [0, 1], 7: [0, 1]}, "c": {7: [0.6, 0.8]}}
    write(tmp_path / "index", index, "rasmk")
    write(tmp_path / "queries", {"q": {4: [0.8, 0.6], 7: [1, 0]}})
    sides = f"{tmp_path / 'index'},{tmp_path / 'queries'}"
    return ["evaluate", str(truth), f"--ranking={sides}"]


def scored(printed):
    (line,) = [line for line in printed.splitlines() if line.startswith("all ")]
    return line.split()[:3]


def test_saved_folders_are_ranked_and_scored_without_photos(asked, capsys):
    """Of q's words b has 4, by 0.6, and 7, by 0; c has 7, by 0.6: equals keep order."""
    assert cli.main(asked) == 0
    assert scored(capsys.readouterr().out) == ["all", "rasmk", "25.00"]


def test_the_numbers_of_a_config_of_the_original_count(asked, tmp_path, capsys):
    config = tmp_path / "index.pbtxt"
    config.write_text(CONFIG.format("use_regional_aggregation: true"))
    assert cli.main([*asked, f"--config={config}"]) == 0
    # Divided by the root of the number of words, c, which has one, wins.
    assert scored(capsys.readouterr().out) == ["all", "rasmk", "100.00"]
    config.write_text(CONFIG.format(""))
    assert cli.main([*asked, f"--config={config}"]) == 2
    assert "its .rasmk are not of the config's type" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda asked, tmp: asked.append(f"--ranking={tmp / 'index'}"),
            "a folder; aggregated images come as two: --ranking=INDEX,QUERIES",
        ),
        (lambda asked, tmp: (tmp / "index/b.rasmk").unlink(), "b.rasmk not found in "),
        (
            lambda asked, tmp: (tmp / "queries/q.asmk").rename(tmp / "queries/q.vlad"),
            "has .vlad, which does not compare with the .rasmk of ",
        ),
        (lambda asked, tmp: asked.append("--boxes=x"), "not with --ranking"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    asked, tmp_path, capsys, change, message
):
    change(asked, tmp_path)
    assert cli.main(asked) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
