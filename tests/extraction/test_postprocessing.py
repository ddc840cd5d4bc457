"""Selection: top-k, suppression and projection against naive versions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.extraction.pca import Whitening, project
from delf_jax.extraction.postprocessing import (
    Level,
    NotFiniteError,
    select_features,
    suppress,
)
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.models.resnet import ResNet
from delf_jax.ops import normalize_rows

BACKBONE = ResNet(depth=18, width=8, layout="v1.5")
SIZE = (64, 96)


def _level(scale: int, size: tuple[int, int], attention: list[float]) -> Level:
    """A level whose cells lie in one row; descriptor i points along axis i."""
    count = len(attention)
    cells = np.stack([np.zeros(count), np.arange(count)], 1).astype(np.int32)
    maps = {
        "attention": np.float32(attention),
        "cells": cells,
        "descriptors": 3 * np.eye(count, 8, dtype=np.float32),
    }
    return Level(scale, size, maps)


def _select(levels, **changes):
    chosen = ExtractionSettings(image_scales=(0.5, 1.0), global_scales=(1,))
    return select_features(levels, SIZE, SIZE, chosen._replace(**changes), BACKBONE)


LEVELS = [
    _level(0, (32, 48), [0.5, 2.0, -1.0]),
    _level(1, (64, 96), [2.0, 0.1, 3.0, -1.0]),
]


def test_the_strongest_come_first_and_ties_keep_the_order_of_scales():
    found = _select(LEVELS).local
    np.testing.assert_allclose(found.attention, [3.0, 2.0, 2.0, 0.5, 0.1])
    np.testing.assert_allclose(found.scales, [1, 2, 1, 2, 1])
    assert found.descriptors.argmax(1).tolist() == [2, 1, 0, 0, 1]


def test_places_that_are_no_cells_are_never_chosen():
    assert _select(LEVELS, attention_threshold=-5.0).local.attention.min() >= 0


def test_threshold_and_count_limit_the_features():
    assert len(_select(LEVELS, attention_threshold=2.0).local.scales) == 3
    assert len(_select(LEVELS, max_features=2).local.scales) == 2
    none = _select(LEVELS, attention_threshold=9.0).local
    assert none.locations.shape == (0, 2) and none.descriptors.shape == (0, 8)


@pytest.mark.parametrize("name", ["attention", "descriptors", "global_descriptor"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_a_model_gives_that_is_not_finite_is_refused(name, value):
    level = _level(1, (64, 96), [2.0, 0.1, 3.0, -1.0])
    level.maps["global_descriptor"] = np.ones(4, np.float32)
    assert len(_select([level]).local.scales) == 3
    level.maps[name][1] = value
    with pytest.raises(NotFiniteError, match="numbers for it that are not finite"):
        _select([level])


def test_exact_locations_follow_half_pixel_resizing():
    found = _select([_level(0, (32, 48), [3.0, 2.0])]).local
    # Cells are 16 pixels apart on the level of half size; its pixel 0 covers 0 and 1.
    np.testing.assert_allclose(found.locations, [[0.5, 0.5], [0.5, 32.5]])


def test_exact_locations_follow_legacy_resizing():
    found = _select([_level(0, (32, 48), [3.0, 2.0])], resize="legacy").local
    # Pixel 0 of the level of half size is pixel 0 of the image.
    np.testing.assert_allclose(found.locations, [[0, 0], [0, 32]])


def test_the_originals_locations_are_multiples_of_the_stride():
    found = _select([_level(0, (32, 48), [3.0, 2.0])], locations="delf").local
    np.testing.assert_allclose(found.locations, [[0, 0], [0, 32]])


def test_global_descriptors_are_summed_normalised():
    levels = [
        level._replace(maps={"global_descriptor": np.float32(vector)})
        for level, vector in zip(LEVELS, ([3, 0], [0, 0.1]), strict=True)
    ]
    found = _select(levels, max_features=0)
    np.testing.assert_allclose(found.global_descriptor, [0.5**0.5] * 2, rtol=1e-6)
    assert found.local is None and found.image_size == SIZE


def _unit(vector):
    return vector / sum(x * x for x in vector) ** 0.5


@pytest.mark.parametrize("whiten", [False, True])
def test_global_pca_is_applied_to_each_scale_before_the_sum(rng, whiten):
    raw = rng.normal(size=(2, 8)).astype(np.float32)
    projection = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)[:3]
    mean = rng.normal(0, 0.1, 8).astype(np.float32)
    variances = np.float32([4, 1, 0.25]) if whiten else None
    total = np.zeros(3)
    for row in raw.astype(np.float64):
        projected = [np.dot(component, _unit(row) - mean) for component in projection]
        if whiten:
            projected = [x / v**0.5 for x, v in zip(projected, variances, strict=True)]
        total += _unit(np.array(projected))
    levels = [
        level._replace(maps={"global_descriptor": vector})
        for level, vector in zip(LEVELS, raw, strict=True)
    ]
    pca = Whitening(mean, projection, variances)
    found = _select(levels, max_features=0, global_pca=pca).global_descriptor
    np.testing.assert_allclose(found, _unit(total), rtol=0, atol=1e-6)
    assert found.dtype == np.float32


def test_a_projection_of_other_dimensions_is_named():
    pca = Whitening(np.zeros(5, np.float32), np.eye(5, dtype=np.float32))
    with pytest.raises(InputError, match=r"extraction\.pca expects .* 5 .* have 8"):
        _select(LEVELS, pca=pca)
    level = LEVELS[1]._replace(maps={"global_descriptor": np.ones(2, np.float32)})
    with pytest.raises(
        InputError, match=r"extraction\.global_pca expects .* 5 .* have 2"
    ):
        _select([level], max_features=0, global_pca=pca)


def _naive_suppress(boxes: np.ndarray, iou: float, count: int) -> list[int]:
    kept: list[int] = []
    for index, box in enumerate(boxes):
        for other in kept:
            low = np.maximum(box[:2], boxes[other][:2])
            high = np.minimum(box[2:], boxes[other][2:])
            shared = np.prod(np.maximum(high - low, 0))
            areas = [np.prod(b[2:] - b[:2]) for b in (box, boxes[other])]
            if shared / (sum(areas) - shared) > iou:
                break
        else:
            kept.append(index)
        if len(kept) == count:
            break
    return kept


@given(
    st.lists(
        st.tuples(*[st.integers(0, 40)] * 2, st.integers(1, 12)),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    st.integers(1, 40),
)
def test_suppression_is_the_greedy_one(boxes, iou, count):
    boxes = np.array(boxes, float)
    locations, half = boxes[:, :2], boxes[:, 2]
    corners = np.c_[locations - half[:, None], locations + half[:, None]]
    expected = _naive_suppress(corners, iou, count)
    assert suppress(locations, half, iou, count).tolist() == expected


def test_nothing_is_suppressed_where_nothing_is():
    assert suppress(np.zeros((0, 2)), np.zeros(0), 0.5, 10).shape == (0,)


def test_suppression_applies_to_the_features():
    levels = [_level(1, (64, 96), [1.0, 3.0, 2.0])]
    assert len(_select(levels, nms_iou=0.5).local.scales) == 1
    assert len(_select(levels, nms_iou=0.999).local.scales) == 3


@pytest.mark.parametrize("whiten", [True, False])
def test_projection_is_pca_between_two_normalisations(whiten):
    rng = np.random.default_rng(0)
    x = normalize_rows(rng.normal(size=(20, 6)).astype(np.float32))
    mean, projection = x.mean(0), np.linalg.qr(rng.normal(size=(6, 6)))[0][:4]
    variances = rng.uniform(0.1, 2, 4)
    pca = Whitening(mean, projection, variances if whiten else None)
    expected = (x - mean) @ projection.T
    if whiten:
        expected = expected / np.sqrt(variances)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(project(x, pca), expected, rtol=1e-5)


def test_zeros_stay_zero_when_normalised():
    np.testing.assert_array_equal(normalize_rows(np.zeros((2, 3), np.float32)), 0)
