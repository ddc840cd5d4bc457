"""Settings: where they come from, and what is refused."""

import json
import math

import numpy as np
import pytest

from delf_jax.extraction.pca import Whitening
from delf_jax.extraction.settings import (
    PCA_FIELDS,
    RANGES,
    WITHOUT_EFFECT,
    ExtractionSettings,
    make_settings,
    settings_for,
    settings_to_json,
)
from delf_jax.files import InputError


class _Model:
    config = {"extraction": {"image_scales": [0.5, 1.0], "global_scales": [1]}}
    global_model = None
    is_detector = False


def test_a_models_settings_are_the_default_and_can_be_overridden():
    settings = settings_for(_Model, max_features=7)
    assert settings.image_scales == (0.5, 1.0) and settings.max_features == 7
    assert settings.max_image_size == ExtractionSettings().max_image_size


def test_a_misspelt_setting_is_named():
    with pytest.raises(InputError, match=r"extraction\.max_feature: no such.*max_feat"):
        settings_for(_Model, max_feature=7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_scales": ()},
        {"image_scales": (1.0, 0.0)},
        {"global_scales": (7,)},
        {"max_features": -1},
        {"nms_iou": 1.5},
        {"locations": "exactly"},
        {"grid": 48},
        {"batch_size": 0},
        {"resize_factor": -1.0},
        {"pixel_mean": (1.0, 2.0)},
        {"pixel_mean": "128"},
        {"pixel_mean": (1.0, float("nan"), 2.0)},
        {"pixel_std": (1.0, 0.0, 1.0)},
        {"pixel_std": 128.0},
        {"resize": "corner"},
        {"max_image_size": -1},
        {"max_image_size": 0},
        {"min_image_size": -4},
        {"max_pixels": 0},
        {"gem_power": -1.0},
        {"gem_region": 4},
        {"gem_region": 1},
        {"gem_floor": math.inf},
        {"scale_power": 2000.0},
    ],
)
def test_a_value_out_of_range_is_named(wrong):
    with pytest.raises(InputError, match=f"extraction.{next(iter(wrong))}"):
        make_settings(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_scales": 3},
        {"image_scales": ("1",)},
        {"global_scales": 3},
        {"global_scales": (1.5,)},
        {"max_image_size": "abc"},
        {"max_image_size": 100.5},
        {"use_square_images": "yes"},
        {"resize_factor": None},
        {"max_features": True},
        {"attention_threshold": "x"},
        {"attention_threshold": float("nan")},
        {"locations": ["exact"]},
        {"pca": 5},
        {"pca": {"mean": "mean.datum"}},
        {"pca": [1]},
        {"global_pca": [[0.0, 0.0], [[1.0, 0.0, 0.0]]]},
        {"resize": 1},
    ],
)
def test_a_value_of_another_type_is_named(wrong):
    name = next(iter(wrong))
    words = ": .* is not a projection" if name in PCA_FIELDS else " is .*: use "
    with pytest.raises(InputError, match=rf"^extraction\.{name}{words}"):
        make_settings(wrong)


def test_numbers_of_numpy_and_nothing_are_values_where_they_can_be():
    settings = make_settings(
        {
            "image_scales": [np.float32(0.5), 1],
            "global_scales": (np.int64(1),),
            "max_image_size": None,
            "pca": [[0.0, 0.0], [[1.0, 0.0]]],
            "global_pca": None,
        }
    )
    assert settings.image_scales == (0.5, 1.0)
    assert settings.pca.variances is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"image_scales": (math.nan,)},
            r"one or more values, each a number in \(0, 8\]",
        ),
        ({"image_scales": ()}, r"image_scales is \(\): use a tuple of one or more"),
        ({"image_scales": (-1.0,)}, r"image_scales is \(-1.0,\): use"),
        ({"global_scales": (7,)}, r"is \(7,\): use indices of image_scales, below 7"),
        ({"nms_iou": math.inf}, r"nms_iou is inf: use a number in \[0, 1\]"),
        (
            {"grid": 33},
            "grid is 33: use a whole number from 32 to 65504 in steps of 32",
        ),
        ({"resize": "cubic"}, "resize is 'cubic': use 'half_pixel' or 'legacy'"),
        ({"max_boxes": -1}, "max_boxes is -1: use None or a whole number from 0"),
        ({"engine": "onnx"}, "engine is 'onnx': use 'jax' or 'openvino'"),
        ({"precision": "int8"}, "precision is 'int8': use 'float32' or 'bfloat16'"),
        ({"pca": 3}, "pca: 3 is not a projection"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(values, message):
    with pytest.raises(InputError, match=rf"^extraction\..*{message}"):
        make_settings(values)


def test_every_field_has_a_range():
    assert {*RANGES, *PCA_FIELDS} == set(ExtractionSettings._fields)
    make_settings(ExtractionSettings()._asdict())


def test_nothing_to_extract_is_refused():
    with pytest.raises(InputError, match="nothing to extract"):
        make_settings({"max_features": 0, "global_scales": ()})


def test_the_description_changes_with_whatever_changes_the_result():
    pca = Whitening(np.zeros(4, np.float32), np.eye(4, dtype=np.float32)[:2])
    changes = {
        "image_scales": (1.0,),
        "global_scales": (0,),
        "max_image_size": 512,
        "min_image_size": 100,
        "use_square_images": True,
        "resize_factor": 0.5,
        "use_resized_coordinates": True,
        "max_features": 10,
        "attention_threshold": 1.0,
        "nms_iou": 0.5,
        "locations": "delf",
        "pca": pca,
        "global_pca": pca._replace(mean=np.ones(4, np.float32)),
        "pixel_mean": (0.0, 0.0, 0.0),
        "pixel_std": (1.0, 1.0, 1.0),
        "resize": "legacy",
        "box_threshold": 0.5,
        "max_boxes": 3,
        "precision": "bfloat16",
        "gem_power": 4.6,
        "gem_region": 5,
        "gem_floor": 0.014,
        "scale_power": 0.0,
    }
    assert set(changes) | set(WITHOUT_EFFECT) == set(ExtractionSettings._fields)
    plain = json.dumps(settings_to_json(ExtractionSettings()))
    descriptions = {plain}
    for name, value in changes.items():
        settings = ExtractionSettings()._replace(**{name: value})
        descriptions.add(json.dumps(settings_to_json(settings)))
    whitened = ExtractionSettings(pca=pca._replace(variances=np.ones(2, np.float32)))
    descriptions.add(json.dumps(settings_to_json(whitened)))
    assert len(descriptions) == len(changes) + 2
    faster = ExtractionSettings(grid=32, batch_size=4)
    assert json.dumps(settings_to_json(faster)) == plain


def test_settings_that_came_later_do_not_change_the_description_by_being_there():
    described = settings_to_json(ExtractionSettings(resize="legacy"))
    assert described["resize"] == "legacy"
    assert not {"pixel_mean", "pixel_std", "gem_power", "scale_power"} & set(described)
    assert "resize" not in settings_to_json(ExtractionSettings())
