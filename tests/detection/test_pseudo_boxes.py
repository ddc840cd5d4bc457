"""Boxes of photos from where their matches lie."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from delf_jax.data.boxes import read_boxes
from delf_jax.data.image_lists import list_records
from delf_jax.formats.confirmed_pairs import ConfirmedPair, write_pairs

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def pair_of(image, counterpart, region, scale=1.0, shift=(0.0, 0.0)):
    affine = (scale, 0.0, shift[0], 0.0, scale, shift[1])
    return ConfirmedPair(image, counterpart, 30, *affine, *region)


@pytest.fixture
def pseudo_boxes(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("pseudo_boxes")


def test_a_box_is_where_most_matches_begin_and_end(pseudo_boxes):
    wide = [pair_of("a", f"{n}", (0.2, 0.3, 0.6, 0.7)) for n in range(19)]
    wrong = pair_of("a", "x", (0.0, 0.0, 1.0, 1.0))
    found = pseudo_boxes.boxes_of([*wide, wrong])
    np.testing.assert_allclose(found["a"], [0.2, 0.3, 0.6, 0.7])
    assert [*found] == ["a"]  # The others have one match each.


def test_the_counterpart_has_the_region_as_it_maps_there(pseudo_boxes):
    pair = pair_of("a", "b", (0.2, 0.2, 0.6, 1.0), scale=0.5, shift=(0.1, 0.7))
    found = pseudo_boxes.region_of_counterpart(pair)
    np.testing.assert_allclose(found, [0.2, 0.8, 0.4, 1.0])  # Cut at the border.


def test_a_training_reads_the_boxes_and_the_photos_without_any(
    pseudo_boxes, tmp_path, monkeypatch
):
    photos = tmp_path / "photos" / "place"
    photos.mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (40, 20)).save(photos / f"{name}.png")
    pair = pair_of("place/a.png", "place/b.png", (0.25, 0.5, 0.75, 1.0))
    write_pairs(tmp_path / "pairs.csv", [pair, pair])
    (tmp_path / "empty.txt").write_text("place/c.png\n")
    out = tmp_path / "boxes.json"
    arguments = [tmp_path / "pairs.csv", photos.parent, f"--out={out}"]
    arguments.append(f"--empty={tmp_path / 'empty.txt'}")
    monkeypatch.setattr(sys, "argv", ["pseudo_boxes.py", *map(str, arguments)])
    pseudo_boxes.main()
    assert len(json.loads(out.read_text())["images"]) == 3
    found = read_boxes(out, list_records(str(photos.parent)))
    for name in "ab":
        np.testing.assert_allclose(found[f"place/{name}.png"], [[0.25, 0.5, 0.75, 1]])
    assert len(found["place/c.png"]) == 0
