import numpy as np
import pytest
from PIL import Image

from delf_jax.evaluation import datasets, queries
from delf_jax.evaluation.datasets import Dataset, Photo, Protocol
from delf_jax.extraction.extract import extract_features
from delf_jax.files import InputError
from delf_jax.store import feature_store


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photo of 320 x 240 pixels, twice the size for extraction."""
    path = tmp_path_factory.mktemp("photo") / "a.png"
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    small.resize((320, 240), Image.Resampling.BICUBIC).save(path)
    return path


def crop(image, box, settings):
    return queries.crop_query(image, np.array(box, np.float64), settings)


def asked(photo, box):
    nothing = [np.zeros(0, np.int32)]
    each = [Photo("a", photo.name, photo)]
    boxes = None if box is None else np.array([box], np.float64)
    protocols = {"all": Protocol(nothing, nothing)}
    return Dataset("own", "", each, each, boxes, protocols, None)


def make_index(photo, tmp_path, model, settings):
    out = tmp_path / "store"
    feature_store.extract_to_store(
        [(photo.name, photo)], out, model, settings, progress=False
    )
    return feature_store.open_store(out)


def extract(photo, box, tmp_path, model, settings):
    index = make_index(photo, tmp_path, model, settings)
    dataset = asked(photo, box)
    (found,) = queries.extract_queries(
        dataset, index, tmp_path, model, settings, progress=False
    )
    return found, index


def test_a_crop_is_resized_as_the_whole_photo_would_be(settings):
    image = np.zeros((240, 320, 3), np.uint8)
    # 320 pixels become 160: a half of each side, however large the crop is.
    assert crop(image, [20, 40, 120, 140], settings).shape == (50, 50, 3)
    assert crop(image, [0, 0, 240, 320], settings).shape == (120, 160, 3)
    assert queries.crop_query(image, None, settings).shape == (120, 160, 3)
    small = np.zeros((100, 80, 3), np.uint8)
    assert crop(small, [0, 0, 50, 20], settings).shape == (50, 20, 3)
    enlarged = settings._replace(min_image_size=150)
    assert crop(small, [0, 0, 50, 20], enlarged).shape == (75, 30, 3)


def test_boxes_are_rounded_and_what_is_outside_is_black(settings):
    image = np.full((20, 30, 3), 7, np.uint8)
    found = crop(image, [-0.6, 27.5, 4.5, 31.5], settings)
    expected = np.zeros((5, 4, 3), np.uint8)
    expected[1:, :2] = 7
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 400, 100, 500), "lies outside"),
        ((50, 50, 50, 90), "lies outside"),
        ((90, 90, 50, 50), "lies outside"),
        ((0, 0, 1e9, 1e9), "too large"),
    ],
)
def test_impossible_boxes_are_refused_before_memory_is_taken(settings, box, message):
    with pytest.raises(InputError, match=message):
        crop(np.zeros((240, 320, 3), np.uint8), box, settings)


def test_features_are_those_of_the_crop_with_the_factor_of_the_original(
    photo, tmp_path, model, settings
):
    box = (20.4, 40, 199.7, 240)
    found, _ = extract(photo, box, tmp_path, model, settings)
    part = np.asarray(Image.open(photo).crop((40, 20, 240, 200)))
    factor = settings._replace(resize_factor=200 / 320)
    (expected,) = extract_features(model, [part], factor)
    np.testing.assert_array_equal(found.global_descriptor, expected.global_descriptor)
    np.testing.assert_array_equal(found.local.descriptors, expected.local.descriptors)
    assert found.image_size == (90, 100)


@pytest.mark.parametrize("box", [None, (0, 0, 240, 320)])
def test_a_whole_photo_of_the_index_is_not_extracted_again(
    photo, tmp_path, model, settings, box
):
    found, index = extract(photo, box, tmp_path, model, settings)
    np.testing.assert_array_equal(found.global_descriptor, index[0].global_descriptor)
    assert found.image_size == (240, 320)
    assert not (tmp_path / "queries").exists()


def test_a_query_of_another_box_is_extracted_anew(photo, tmp_path, model, settings):
    box = (20, 40, 200, 240)
    first, _ = extract(photo, box, tmp_path, model, settings)
    again, _ = extract(photo, box, tmp_path, model, settings)
    np.testing.assert_array_equal(first.local.descriptors, again.local.descriptors)
    other, _ = extract(photo, (40, 40, 220, 240), tmp_path, model, settings)
    assert not np.array_equal(first.global_descriptor, other.global_descriptor)


def test_a_query_that_cannot_be_used_says_why(photo, tmp_path, model, settings):
    found, _ = extract(photo, (0, 0, 4, 4), tmp_path, model, settings)
    assert isinstance(found, InputError)
    found, _ = extract(photo, (0, 900, 4, 904), tmp_path, model, settings)
    assert str(found).startswith(f"{photo}: box (900, 0)")
    assert str(found).count(str(photo)) == 1
    assert datasets.missing_photos(asked(photo, None)) == {}
