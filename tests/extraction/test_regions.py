import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from delf_jax import cli
from delf_jax.extraction import extract, model_folder, regions
from delf_jax.extraction.boxes import open_boxes
from delf_jax.extraction.settings import ExtractionSettings, settings_to_json
from delf_jax.features import Features, features_per_region, regions_of, whole_image
from delf_jax.files import InputError
from delf_jax.image_files import find_images
from delf_jax.retrieval import aggregation
from delf_jax.store import feature_store, local_descriptors
from tests.helpers.box_files import HEADER, write_file, write_table

SETTINGS = ExtractionSettings(
    image_scales=(0.5, 1.0), global_scales=(1,), max_image_size=64, max_features=20
)


@pytest.fixture(scope="module")
def model(tiny_model) -> model_folder.Model:
    return model_folder.load_model(tiny_model)


@pytest.fixture
def folder(tmp_path):
    """Three photos: of two boxes, of none, and one that is broken."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(3)
    for name in "ab":
        pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{name}.png")
    (photos / "c.png").write_bytes(b"none")
    return photos


@pytest.fixture
def given(tmp_path):
    return open_boxes(write_table(tmp_path, "a.png,5,10,45,70", "a.png,0,0,3,3"))


def fill(folder, out, model, settings=SETTINGS, **options):
    found = find_images([folder])
    return feature_store.extract_to_store(
        found, out, model, settings, progress=False, **options
    )


def test_regions_are_the_features_of_image_and_crops(folder, given, model):
    pixels = np.asarray(Image.open(folder / "a.png"))
    images = [pixels, pixels[5:45, 10:70]]
    whole, crop = extract.extract_features(model, images, SETTINGS)
    found = find_images([folder])
    first, second, broken = regions.extract_regions(model, found, SETTINGS, given)
    np.testing.assert_array_equal(
        first.regions.boxes, [[0, 0, 60, 80], [5, 10, 45, 70], [0, 0, 3, 3]]
    )
    # The third is too small for the network, and counts nevertheless.
    counts = [len(whole.local.scales), len(crop.local.scales), 0]
    assert features_per_region(first) == counts and min(counts[:2]) > 5
    parts = regions_of(first)
    jax.tree.map(np.testing.assert_array_equal, parts[0], whole)
    jax.tree.map(np.testing.assert_array_equal, whole_image(first), whole)
    np.testing.assert_array_equal(
        parts[1].local.locations, crop.local.locations + np.float32([[5, 10]])
    )
    np.testing.assert_array_equal(parts[1].local.descriptors, crop.local.descriptors)
    assert len(parts[2].local.scales) == 0
    assert len(second.regions.counts) == 1
    assert isinstance(broken, InputError) and "c.png" in str(broken)


def test_features_without_boxes_are_one_region(model):
    pixels = np.zeros((40, 60, 3), np.uint8)
    (features,) = extract.extract_features(model, [pixels], SETTINGS)
    assert features_per_region(features) == [len(features.local.scales)]
    assert regions_of(features) == [features]
    assert whole_image(features) is features
    nothing = Features(None, None, (1, 1))
    assert regions_of(nothing) == [nothing]


def test_regions_need_local_features_in_pixels_of_the_image(folder, given, model):
    for change, reason in (
        ({"max_features": 0}, "set extraction.max_features"),
        ({"use_resized_coordinates": True}, "must be false"),
    ):
        settings = SETTINGS._replace(**change)
        with pytest.raises(InputError, match=reason):
            list(regions.extract_regions(model, [], settings, given))


def test_a_store_keeps_regions(folder, given, model, tmp_path):
    report = fill(folder, tmp_path / "store", model, boxes=given)
    assert (report.extracted, list(report.failed)) == (2, ["c.png"])
    kept = feature_store.open_store(tmp_path / "store")
    assert kept.manifest["with_boxes"]
    found = regions.extract_regions(model, find_images([folder]), SETTINGS, given)
    for ours, theirs in zip(kept, found, strict=False):
        ours = ours._replace(image="")
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    # Codebooks are of whole images.
    opened = local_descriptors.open_descriptors(tmp_path / "store")
    wholes = [whole_image(features).local.descriptors for features in kept]
    assert opened.counts.tolist() == [len(each) for each in wholes]
    (chunk,) = local_descriptors.read_chunks(opened, "", False)
    np.testing.assert_array_equal(chunk, np.concatenate(wholes))
    rows = np.arange(0, opened.total, 3)
    np.testing.assert_array_equal(local_descriptors.gather(opened, rows), chunk[rows])


def test_stored_regions_are_aggregated_as_regions(folder, given, model, tmp_path):
    fill(folder, tmp_path / "store", model, boxes=given)
    features = feature_store.open_store(tmp_path / "store")[0]
    parts = [part.local.descriptors for part in regions_of(features)]
    codebook = parts[0][:6]
    words = aggregation.assign_words(features.local.descriptors, codebook)
    counts = features_per_region(features)
    options = {"features_per_region": counts, "normalize": False}
    found = aggregation.aggregate_vlad(
        features.local.descriptors, words, codebook, **options
    )
    alone = [
        aggregation.aggregate_vlad(
            part, aggregation.assign_words(part, codebook), codebook
        )
        for part in parts
    ]
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=1e-6)


def test_only_images_whose_boxes_changed_are_extracted_again(
    folder, given, model, tmp_path
):
    os.remove(folder / "c.png")
    shutil.copy(folder / "a.png", folder / "d.png")
    out = tmp_path / "store"
    assert fill(folder, out, model, boxes=given).extracted == 3
    assert fill(folder, out, model, boxes=given).unchanged == 3
    rows = ["a.png,5,10,45,70", "a.png,0,0,3,3", "d.png,0,0,40,40"]
    more = open_boxes(write_table(tmp_path, *rows))
    report = fill(folder, out, model, boxes=more)
    assert (report.extracted, report.unchanged) == (1, 2)
    counts = [
        len(features.regions.counts) for features in feature_store.open_store(out)
    ]
    assert counts == [3, 1, 2]
    # With another threshold, or without boxes, it is another store.
    other = SETTINGS._replace(box_threshold=0.5)
    assert fill(folder, out, model, other, boxes=more).extracted == 3
    assert fill(folder, out, model).extracted == 3
    assert feature_store.open_store(out)[0].regions is None


def test_an_image_with_a_box_elsewhere_fails_alone(folder, model, tmp_path):
    outside = open_boxes(write_table(tmp_path, "a.png,0,90,50,120"))
    report = fill(folder, tmp_path / "store", model, boxes=outside)
    assert report.extracted == 1
    assert "lies outside of a.png" in report.failed["a.png"]


def test_keys_of_stores_without_boxes_are_what_they_were(model):
    made_by = settings_to_json(SETTINGS)
    assert not {"box_threshold", "max_boxes"} & made_by.keys()
    assert feature_store.store_key(model, SETTINGS) != feature_store.store_key(
        model, SETTINGS, True
    )


def test_the_command_extracts_boxes(folder, tiny_model, tmp_path, capsys):
    write_file(tmp_path / "boxes", "a", [[0, 0, 0.5, 0.5], [0, 0, 1, 1]], [0.9, 0.05])
    command = ["extract", str(folder), f"--out={tmp_path / 'store'}"]
    command += [f"--model={tiny_model}", f"--boxes={tmp_path / 'boxes'}"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "boxes of 1 of 3 images" in printed.out and "2 extracted" in printed.out
    assert cli.main(["inspect", str(tmp_path / "store")]) == 0
    assert "boxes: 1, beside the whole images" in capsys.readouterr().out
    path = write_table(tmp_path, header=HEADER)
    assert cli.main([*command[:-1], f"--boxes={path}"]) == 2
    assert "names none of the images" in capsys.readouterr().err


def test_crops_have_no_global_descriptors_of_another_model(
    folder, given, tiny_model, global_model
):
    pair = model_folder.load_model(tiny_model, global_model)
    settings = SETTINGS._replace(global_scales=(0, 1))
    found = find_images([folder])
    ours, _, broken = regions.extract_regions(pair, found, settings, given)
    local = SETTINGS._replace(global_scales=())
    expected, *_ = regions.extract_regions(pair, found, local, given)
    for a, b in zip(ours.local, expected.local, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ours.regions.counts, expected.regions.counts)
    assert ours.global_descriptor.shape == (32,)
    assert "c.png" in str(broken)
