"""Extraction against the numbers of the original, end to end.

`pytest -m golden -rP` of this file prints the largest differences.
"""

import numpy as np
import pytest

from delf_jax.extraction.extract import extract_features
from delf_jax.files import InputError
from tests.helpers.original_extraction import Original

pytestmark = pytest.mark.golden

DESCRIPTORS = ("descriptors_no_pca", "descriptors_pca40", "descriptors_pca40_whitened")


@pytest.fixture(scope="module", params=[16, 32])
def original(golden, request) -> Original:
    return Original(golden, request.param)


def _places(locations: np.ndarray, scales: np.ndarray) -> list[tuple]:
    return [tuple(row) for row in np.round(np.c_[locations, scales], 2).tolist()]


def test_attention_maps_of_all_levels_are_the_originals(original):
    for level in original.levels:
        name = f"{original.prefix}/scale{level.scale}"
        assert level.size == tuple(original[f"{name}/image_size"])
        attention = np.full_like(original[f"{name}/attention_prob"], np.nan)
        valid = level.maps["attention"] >= 0
        rows, columns = level.maps["cells"][valid].T
        attention[rows, columns] = level.maps["attention"][valid]
        original.assert_close(attention, f"{name}/attention_prob")


@pytest.mark.parametrize("iou", [1.0, 0.5])
@pytest.mark.parametrize("count", [100, 1000])
def test_selected_features_are_the_originals(original, iou, count):
    name = f"{original.prefix}/iou{iou}/max{count}"
    found = original.select(max_features=count, nms_iou=iou).local
    boxes = original[f"{name}/boxes"]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    theirs = _places(centres, original[f"{name}/scales"])
    ours = _places(found.locations, found.scales)
    assert sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)
    order = [theirs.index(place) for place in ours]
    original.assert_close(found.attention, f"{name}/scores", order)
    for stored, pca in zip(
        DESCRIPTORS, (None, original.pca(False), original.pca(True)), strict=True
    ):
        if f"{name}/{stored}" in original.stored:
            again = original.select(max_features=count, nms_iou=iou, pca=pca).local
            original.assert_close(again.descriptors, f"{name}/{stored}", order)


def test_global_descriptors_are_the_originals(original):
    name = f"{original.prefix}/iou1.0/max100"
    found = original.select(max_features=0)
    original.assert_close(found.global_descriptor, f"{name}/global_descriptor")
    for row, scale in enumerate(original.settings.global_scales):
        alone = original.select(original.levels[scale : scale + 1], max_features=0)
        original.assert_close(
            alone.global_descriptor[None],
            f"{name}/global_per_scale_normalized",
            slice(row, row + 1),
        )


CASES = {
    "a_plain": {"max_features": 1000},
    "b_max150_pca": {"max_image_size": 150, "max_features": 100, "whiten": False},
    "c_max150_pca_whitening_resized_coordinates": {
        "max_image_size": 150,
        "max_features": 100,
        "use_resized_coordinates": True,
        "whiten": True,
    },
    "d_square160_factor08": {
        "max_image_size": 160,
        "use_square_images": True,
        "resize_factor": 0.8,
        "max_features": 50,
        "whiten": False,
    },
    "e_min200": {
        "max_image_size": 400,
        "min_image_size": 200,
        "max_features": 50,
        "whiten": False,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_whole_extractor_gives_the_originals_numbers(original, case):
    name = f"{original.prefix}/extractor/{case}"
    if f"{name}/scales" not in original.stored:
        pytest.skip("not stored for this stride")
    changes = dict(CASES[case])
    if "whiten" in changes:
        changes["pca"] = original.pca(changes.pop("whiten"))
    found = original.extract(**changes)
    original.assert_close(found.global_descriptor, f"{name}/global_descriptor")
    theirs = _places(original[f"{name}/locations"], original[f"{name}/scales"])
    ours = _places(found.local.locations, found.local.scales)
    assert sorted(ours) == sorted(theirs)
    order = [theirs.index(place) for place in ours]
    for field in ("locations", "scales", "attention", "descriptors"):
        if f"{name}/{field}" in original.stored:
            original.assert_close(getattr(found.local, field), f"{name}/{field}", order)


def test_what_the_original_finds_nothing_in_is_refused(original):
    image = np.zeros((9, 200, 3), np.uint8)
    (result,) = extract_features(original.model, [image], original.settings)
    assert isinstance(result, InputError) and "too few" in str(result)
