"""Stores that a cluster fills: the same, whatever its workers do."""

import errno

import numpy as np
import pytest
from PIL import Image

from delf_jax.extraction import model_folder
from delf_jax.extraction.boxes import RegionBoxes
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.image_files import find_images
from delf_jax.store import feature_store, shards
from tests.campaign.contents import contents
from tests.helpers.clusters import in_this_process

SETTINGS = ExtractionSettings(
    image_scales=(1.0,), global_scales=(0,), max_image_size=64, max_features=20
)
BOXES = {"0.png": [np.array([[2.0, 2.0, 38.0, 50.0, 0.5]])]}


@pytest.fixture(scope="module")
def model(tiny_model):
    return model_folder.load_model(tiny_model)


@pytest.fixture
def photos(tmp_path):
    """Four photos, and a file that is none."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(4):
        image = rng.integers(0, 256, (40, 56, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no photo")
    return find_images([folder])


def fill(photos, out, model, **options):
    return feature_store.extract_to_store(
        photos, out, model, SETTINGS, progress=False, **options
    )


@pytest.mark.parametrize("with_boxes", [False, True])
def test_a_cluster_fills_the_store_that_one_process_would(
    photos, tmp_path, model, monkeypatch, with_boxes
):
    boxes = RegionBoxes(tmp_path, BOXES) if with_boxes else None
    report = fill(photos, tmp_path / "one" / "store", model, boxes=boxes)
    # Each share is done twice.
    worked = in_this_process(monkeypatch, times=2)
    assert (
        fill(photos, tmp_path / "many" / "store", model, boxes=boxes, ray="") == report
    )
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    written = list((tmp_path / "many" / "store" / "shards").iterdir())
    assert len(written) == len(worked) == 5
    again = fill(photos, tmp_path / "many" / "store", model, boxes=boxes, ray="")
    assert (again.extracted, again.unchanged, len(worked)) == (0, 4, 6)


def test_photos_of_a_share_that_fails_are_listed_and_tried_again(
    photos, tmp_path, model, monkeypatch
):
    worked = in_this_process(monkeypatch, fails=lambda item: item[0].id == "2.png")
    report = fill(photos, tmp_path / "many", model, ray="")
    assert (report.extracted, [*report.failed]) == (3, ["broken.png", "2.png"])
    assert "2.png: failed 3 times: RuntimeError" in report.failed["2.png"]
    assert sum(share[0][0].id == "2.png" for share in worked) == 3
    store = feature_store.open_store(tmp_path / "many")
    assert store.failed == report.failed and not store.pending
    in_this_process(monkeypatch)
    assert fill(photos, tmp_path / "many", model, ray="").extracted == 1


def test_a_full_disk_ends_the_job_and_what_was_written_stays(
    photos, tmp_path, model, monkeypatch
):
    in_this_process(monkeypatch, workers=1)
    written, write = [], shards.write_shard

    def full(path, key, records, features):
        if features and len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.extend(features)
        write(path, key, records, features)

    monkeypatch.setattr("delf_jax.store.writer.write_shard", full)
    with pytest.raises(InputError, match="the disk is full"):
        fill(photos, tmp_path / "many", model, ray="")
    monkeypatch.undo()
    store = feature_store.open_store(tmp_path / "many")
    assert len(store) == 2 and store.shortfall
    assert fill(photos, tmp_path / "many", model).unchanged == 2
