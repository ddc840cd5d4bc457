"""Extraction in one program gives what extraction on the host gives."""

import functools

import jax
import numpy as np
import pytest

from delf_jax.export.traced import canvas_side, extract_image
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.pca import Whitening
from tests.helpers.exported import SETTINGS, assert_matches, noise, small_model, trimmed


def _both(model, image, settings, size=None):
    traced = jax.jit(functools.partial(extract_image, model=model, settings=settings))
    found = traced(image, size)
    if size is not None:
        image = image[: size[0], : size[1]]
    (live,) = extract_features(model, [image], settings)
    return trimmed(found), live


@pytest.mark.parametrize(
    "layout, strides, locations",
    [
        ("v1.5", False, "exact"),
        ("v1.5", True, "delf"),
        ("keras", False, "delf"),
        ("keras", True, "exact"),
        ("slim", True, "delf"),
    ],
)
def test_it_is_the_extraction_of_the_host(layout, strides, locations):
    settings = SETTINGS._replace(locations=locations)
    model = small_model(layout, strides)
    found, live = _both(model, noise(131, 178), settings)
    assert len(live.local.scales) >= (40 if strides else 60)
    assert_matches(found, live)
    centres = found["boxes"].reshape(-1, 2, 2).mean(axis=1)
    np.testing.assert_allclose(centres, found["locations"], atol=1e-4)


@pytest.mark.parametrize("layout", ["v1.5", "keras"])
def test_what_lies_outside_of_the_size_does_not_matter(layout):
    size = np.int32([77, 90])
    found, live = _both(small_model(layout), noise(131, 178), SETTINGS, size)
    assert_matches(found, live)


def test_boxes_are_suppressed_as_on_the_host():
    settings = SETTINGS._replace(nms_iou=0.5)
    found, live = _both(small_model("v1.5"), noise(131, 178), settings)
    assert 0 < len(live.local.scales) < 60
    assert_matches(found, live)


def test_threshold_and_projection_are_those_of_the_settings(rng):
    whole = Whitening(
        rng.normal(size=8).astype(np.float32),
        np.linalg.qr(rng.normal(size=(8, 8)))[0][:5].astype(np.float32),
        rng.uniform(0.5, 2, 5).astype(np.float32),
    )
    image, model = noise(131, 178), small_model("v1.5")
    _, live = _both(model, image, SETTINGS)
    threshold = float(live.local.attention[19:21].mean())
    settings = SETTINGS._replace(attention_threshold=threshold)
    for pca in (whole, whole._replace(variances=None)):
        found, live = _both(model, image, settings._replace(pca=pca))
        assert live.local.descriptors.shape == (20, 5)
        assert_matches(found, live)


@pytest.mark.parametrize("locations", ["exact", "delf"])
def test_an_image_is_prepared_as_the_settings_say(rng, locations):
    """As for TensorFlow 1's DELF, and with means that are those of no layout."""
    settings = SETTINGS._replace(
        pixel_mean=(120.0, 116.0, 104.0),
        pixel_std=(58.0, 57.0, 56.0),
        resize="legacy",
        locations=locations,
        global_pca=Whitening(
            rng.normal(size=16).astype(np.float32),
            np.linalg.qr(rng.normal(size=(16, 16)))[0][:5].astype(np.float32),
        ),
    )
    found, live = _both(small_model("v1.5"), noise(131, 178), settings)
    assert live.global_descriptor.shape == (5,)
    assert_matches(found, live)


def test_a_scale_without_cells_is_left_out():
    """Keras' layout has none for 4 pixels."""
    settings = SETTINGS._replace(image_scales=(0.04, 1.0), global_scales=(0, 1))
    found, live = _both(small_model("keras"), noise(100, 120), settings)
    assert_matches(found, live)
    assert not found["global_descriptors"][0].any()
    assert found["global_descriptors"][1].any()


def test_either_branch_can_be_left_out():
    image, model = noise(60, 70), small_model("v1.5")
    found, live = _both(model, image, SETTINGS._replace(global_scales=()))
    assert "global_descriptor" not in found
    assert_matches(found, live)
    found, live = _both(model, image, SETTINGS._replace(max_features=0))
    assert set(found) == {"global_descriptor", "global_descriptors"}
    assert_matches(found, live)


def test_canvases_hold_every_level_and_little_more():
    for scale in (0.25, 0.3536, 0.7071, 1.0, 1.4142, 2.0):
        for side in range(10, 2000):
            level = round(np.float32(side) * np.float32(scale))
            canvas = canvas_side(side, scale)
            assert level + 1 <= canvas <= level + 40 and canvas % 32 == 0
