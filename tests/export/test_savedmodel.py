"""SavedModels: the original's signatures, and its numbers."""

import json

import numpy as np
import pytest

from delf_jax import cli, images
from delf_jax.export import export
from delf_jax.export.options import ExportOptions
from delf_jax.extraction import model_folder
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.pca import Whitening, project
from delf_jax.extraction.settings import ExtractionSettings, settings_for
from delf_jax.ops import normalize_rows
from tests.helpers.exported import SETTINGS, assert_matches, noise, photo, small_model
from tests.helpers.original_extraction import Original

tf = pytest.importorskip("tensorflow", reason="the extra [tf] is not installed")

__all__ = ["photo"]
DELF = SETTINGS._replace(locations="delf")


def _save(folder, model, **options):
    export.export_model(model, "savedmodel", folder, ExportOptions(**options))
    return tf.saved_model.load(str(folder)).signatures["serving_default"]


def _call(signature, image: np.ndarray, settings: ExtractionSettings) -> dict:
    """What a signature gives for the inputs that it has."""
    inputs = {
        "input_image": image,
        "input_scales": np.float32(settings.image_scales),
        "input_max_feature_num": np.int32(settings.max_features),
        "input_abs_thres": np.float32(settings.attention_threshold),
        "input_global_scales_ind": np.int32(settings.global_scales),
    }
    names = signature.structured_input_signature[1]
    outputs = signature(**{name: tf.constant(inputs[name]) for name in names})
    return {name: value.numpy() for name, value in outputs.items()}


def _extract(signature, image: np.ndarray, settings: ExtractionSettings) -> dict:
    """What the original's extractor makes of it [delf_spec 7], in our words."""
    size = images.resize_rule(image.shape[:2], settings.max_image_size)
    outputs = _call(signature, images.resize_image(image, size), settings)
    found = {}
    if "boxes" in outputs:
        centres = outputs["boxes"].reshape(-1, 2, 2).mean(axis=1)
        found["locations"] = centres / (np.array(size) / image.shape[:2])
        found["scales"] = outputs["scales"]
        found["attention"] = outputs["scores"][:, 0]
        found["descriptors"] = normalize_rows(outputs["features"])
        if settings.pca is not None:
            found["descriptors"] = project(found["descriptors"], settings.pca)
    if "global_descriptors" in outputs:
        total = normalize_rows(outputs["global_descriptors"]).sum(axis=0)
        found["global_descriptor"] = normalize_rows(total)
    return found


LOCAL_INPUTS = {
    "input_image": (tf.uint8, [None, None, 3]),
    "input_scales": (tf.float32, [None]),
    "input_max_feature_num": (tf.int32, []),
    "input_abs_thres": (tf.float32, []),
}
GLOBAL_INPUT = {"input_global_scales_ind": (tf.int32, [None])}
LOCAL_OUTPUTS = {"boxes": [4], "features": [8], "scales": [], "scores": [1]}
SIGNATURES = {
    "local": (LOCAL_INPUTS, LOCAL_OUTPUTS),
    "both": (LOCAL_INPUTS | GLOBAL_INPUT, LOCAL_OUTPUTS | {"global_descriptors": [16]}),
    "global": (
        {name: LOCAL_INPUTS[name] for name in ("input_image", "input_scales")}
        | GLOBAL_INPUT,
        {"global_descriptors": [16]},
    ),
}


@pytest.mark.parametrize("what", SIGNATURES)
def test_signatures_are_the_originals(tmp_path, what):
    inputs, outputs = SIGNATURES[what]
    signature = _save(tmp_path / "saved", small_model("v1.5"), what=what)
    specs = signature.structured_input_signature[1]
    found = {name: (s.dtype, s.shape.as_list()) for name, s in specs.items()}
    assert found == inputs
    found = {n: s.shape.as_list() for n, s in signature.structured_outputs.items()}
    assert found == {name: [None, *shape] for name, shape in outputs.items()}
    described = json.loads((tmp_path / "saved" / "export.json").read_text())
    assert set(described["inputs"]) == set(inputs)
    assert set(described["outputs"]) == set(outputs)
    assert "is_tf2_exported: true" in " ".join(described["notes"])


@pytest.mark.parametrize("strides", [False, True])
@pytest.mark.parametrize("layout", ["v1.5", "keras"])
def test_the_originals_extractor_would_find_our_features(tmp_path, layout, strides):
    model = small_model(layout, strides)
    signature = _save(tmp_path / "saved", model)
    for size in ((131, 179), (96, 64)):
        (live,) = extract_features(model, [noise(*size)], DELF)
        assert_matches(_extract(signature, noise(*size), DELF), live)


def test_size_projection_threshold_and_number_are_the_callers(tmp_path, rng):
    model, image = small_model("v1.5"), noise(131, 179)
    pca = Whitening(
        rng.normal(size=8).astype(np.float32),
        np.linalg.qr(rng.normal(size=(8, 8)))[0][:5].astype(np.float32),
        rng.uniform(0.5, 2, 5).astype(np.float32),
    )
    signature = _save(tmp_path / "saved", model, what="local")
    settings = DELF._replace(max_image_size=100, pca=pca, global_scales=())
    (live,) = extract_features(model, [image], settings)
    assert_matches(_extract(signature, image, settings), live)
    few = settings._replace(
        attention_threshold=float(live.local.attention[9:11].mean())
    )
    for settings, count in ((few, 10), (few._replace(max_features=3), 3)):
        (live,) = extract_features(model, [image], settings)
        assert len(live.local.scales) == count
        assert_matches(_extract(signature, image, settings), live)
    none = _call(signature, image, settings._replace(attention_threshold=1e9))
    assert none["features"].shape == (0, 8) and none["boxes"].shape == (0, 4)


def test_an_image_is_prepared_in_the_graph_as_for_tensorflow_1(tmp_path):
    changes = {
        "pixel_mean": (120.0, 116.0, 104.0),
        "pixel_std": (58.0, 57.0, 56.0),
        "resize": "legacy",
    }
    model = small_model("slim", True)
    config = model.config | {"extraction": SETTINGS._asdict() | changes}
    model, image = model._replace(config=config), noise(131, 179)
    settings = DELF._replace(**changes)
    (live,) = extract_features(model, [image], settings)
    assert_matches(_extract(_save(tmp_path / "saved", model), image, settings), live)


def test_overlapping_boxes_are_suppressed(tmp_path):
    model, image = small_model("v1.5"), noise(131, 179)
    config = model.config | {"extraction": SETTINGS._asdict() | {"nms_iou": 0.5}}
    signature = _save(tmp_path / "saved", model._replace(config=config))
    settings = DELF._replace(nms_iou=0.5)
    (live,) = extract_features(model, [image], settings)
    assert 0 < len(live.local.scales) < 60
    assert_matches(_extract(signature, image, settings), live)


def test_global_descriptors_are_those_of_the_scales_asked_for(tmp_path):
    model, image = small_model("keras"), noise(131, 179)
    both = _save(tmp_path / "both", model)
    whole = _save(tmp_path / "global", model, what="global")
    for asked in ((0,), (2, 0), ()):
        settings = DELF._replace(global_scales=asked)
        found = [_call(f, image, settings)["global_descriptors"] for f in (both, whole)]
        assert found[0].shape == (len(asked), 16)
        np.testing.assert_allclose(*found, rtol=0, atol=1e-5)
    settings = DELF._replace(max_features=0)
    (live,) = extract_features(model, [image], settings)
    assert_matches(_extract(whole, image, settings), live)


def test_fixed_scales_need_the_image_alone(tmp_path, photo):
    out, scales = tmp_path / "saved", (0.70710677, 1.0, 1.4142135)
    command = [
        "export",
        str(model_folder.BUNDLED),
        "--format=savedmodel",
        "--what=global",
    ]
    options = ["--scales=0.70710677,1.0,1.4142135", "--pool=sum", "--normalize"]
    assert cli.main([*command, *options, f"--out={out}"]) == 0
    signature = tf.saved_model.load(str(out)).signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == ["input_image"]
    found = _call(signature, photo, SETTINGS)["global_descriptor"]
    model = model_folder.load_model()
    alone = []
    for scale in scales:  # Raw descriptors are summed here, normalised ones by us.
        export_scale = settings_for(
            model, image_scales=(scale,), global_scales=(0,), max_features=0
        )
        (live,) = extract_features(model, [photo], export_scale)
        alone.append(live.global_descriptor)
    raw = _save(tmp_path / "raw", model, what="global", scales=scales)
    raw = _call(raw, photo, SETTINGS)["global_descriptors"]
    np.testing.assert_allclose(normalize_rows(raw), alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        found, normalize_rows(raw.sum(axis=0)), rtol=0, atol=1e-6
    )


def test_the_bundled_model_gives_its_features_of_a_photo(tmp_path, photo):
    model = model_folder.load_model()
    settings = settings_for(model, locations="delf", min_image_size=None)
    (live,) = extract_features(model, [photo], settings)
    signature = _save(tmp_path / "saved", model)
    assert_matches(_extract(signature, photo, settings), live)


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("stride", [16, 32])
def test_a_full_size_export_gives_the_originals_numbers(tmp_path, golden, stride):
    original = Original(golden, stride)
    model = original.model._replace(config={"extraction": {}})
    signature = _save(tmp_path / "saved", model)
    name = f"stride{stride}/iou1.0/max100"
    settings = original.settings._replace(max_features=100)
    outputs = _call(signature, original["image"], settings)
    np.testing.assert_allclose(outputs["boxes"], original[f"{name}/boxes"], atol=1e-3)
    np.testing.assert_allclose(outputs["scales"], original[f"{name}/scales"])
    original.assert_close(outputs["scores"], f"{name}/scores")
    found = normalize_rows(outputs["features"])
    original.assert_close(found, f"{name}/descriptors_no_pca")
    found = normalize_rows(outputs["global_descriptors"])
    original.assert_close(found, f"{name}/global_per_scale_normalized")


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("pool", ["None", "average", "sum"])
def test_pooled_exports_give_the_originals_numbers(tmp_path, golden, pool, normalized):
    original = Original(golden, 16)
    stored = np.load(golden / "extraction_other_exports.npz")
    expected = stored[f"global/pool_{pool}_normalize_{normalized}"]
    model = original.model._replace(config={"extraction": {}})
    options = {"pool": pool.lower(), "normalize": normalized}
    signature = _save(tmp_path / "saved", model, what="global", **options)
    (found,) = _call(signature, original["image"], original.settings).values()
    atol = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
