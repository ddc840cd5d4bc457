"""The original's detectors, by the names of TensorFlow's object-detection API."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from delf_jax.conversion import detectors
from delf_jax.conversion.convert import convert
from delf_jax.conversion.families import FAMILIES
from delf_jax.conversion.layers import find_missing
from delf_jax.extraction.model_folder import load_model
from delf_jax.files import InputError
from delf_jax.models.architecture import build, expected_shapes
from delf_jax.models.detectors.anchors import decode_boxes, grid_anchors
from delf_jax.models.detectors.faster_rcnn import SHAPES
from tests.helpers import tensorflow_files
from tests.helpers.foreign_weights import saved_model_of
from tests.helpers.random_models import random_variables

NORM = {
    "scale": "BatchNorm/gamma",
    "offset": "BatchNorm/beta",
    "mean": "BatchNorm/moving_mean",
    "var": "BatchNorm/moving_variance",
}
WIDE = 0.25  # how unlike "nothing" and "landmark" are, at most


def scope_of_faster_rcnn(scope):
    """As the API names the layers of its faster_rcnn_resnet50."""
    named = {
        "proposal_hidden": "Conv",
        "proposal_logits": "FirstStageBoxPredictor/ClassPredictor",
        "proposal_offsets": "FirstStageBoxPredictor/BoxEncodingPredictor",
        "logits": "SecondStageBoxPredictor/ClassPredictor",
        "offsets": "SecondStageBoxPredictor/BoxEncodingPredictor",
    }
    if scope in named:
        return named[scope]
    first = scope.startswith("backbone/")
    unit = scope.removeprefix("backbone/").replace("_unit", "/unit_").split("/")
    if len(unit) == 3:
        unit.insert(2, "bottleneck_v1")
    stage = "First" if first else "Second"
    return "/".join([f"{stage}StageFeatureExtractor/resnet_v1_50", *unit])


def scope_of_ssd(scope):
    """As the API names the layers of its ssdlite_mobilenet_v2."""
    starts = {1: 0, 2: 1, 3: 3, 4: 6, 5: 10, 6: 13, 7: 16}
    parts = scope.split("/")
    if parts[0] == "backbone":
        base = "FeatureExtractor/MobilenetV2"
        if parts[1] in ("stem", "head"):
            return f"{base}/{'Conv' if parts[1] == 'stem' else 'Conv_1'}"
        if parts[1] == "stage6_widen":
            return f"{base}/expanded_conv_13/expand"
        stage, unit = (int(x[-1]) for x in parts[1].split("_"))
        block = starts[stage] + unit - 1
        return f"{base}/expanded_conv{f'_{block}' if block else ''}/{parts[2]}"
    number, layer = int(scope[3]), scope.split("_", 1)[1]
    base, size = "FeatureExtractor/MobilenetV2/layer_19", (512, 256, 256, 128)
    if layer in ("reduce", "depthwise", "project"):
        width = size[number - 3]
        if layer == "reduce":
            return f"{base}_1_Conv2d_{number - 1}_1x1_{width // 2}"
        ending = "_depthwise" if layer == "depthwise" else ""
        return f"{base}_2_Conv2d_{number - 1}_3x3_s2_{width}{ending}"
    kind = "Class" if "logits" in layer else "BoxEncoding"
    ending = "_depthwise" if "depthwise" in layer else ""
    return f"BoxPredictor_{number - 1}/{kind}Predictor{ending}"


def as_the_api(variables, scope_of, rng):
    """Our variables under its names, with two classes where ours has one number."""
    named = {}
    for name, x in flatten_dict(variables, sep="/").items():
        _, scope, leaf = (name.split("/", 1)[0], *name.split("/", 1)[1].rsplit("/", 1))
        theirs = scope_of(scope)
        if scope.endswith("logits"):
            nothing = rng.uniform(-WIDE, WIDE, x.shape).astype(np.float32)
            two = [nothing, nothing + x]
            if "map" in scope:  # Sigmoids: the first class is not looked at.
                two[1] = x + np.float32(-4.595) * (leaf == "bias")
            x = np.stack(two, -1).reshape(*x.shape[:-1], -1)
        if scope in ("logits", "offsets") and x.ndim == 4:
            x = x[0, 0]
        leaf = {"kernel": "weights", "bias": "biases"}.get(leaf) or NORM[leaf]
        if leaf == "weights" and scope.endswith("depthwise"):
            x, leaf = x.swapaxes(2, 3), "depthwise_weights"
        named[f"{theirs}/{leaf}"] = np.ascontiguousarray(x)
    return named


ARCHITECTURES = {
    "faster_rcnn": (
        scope_of_faster_rcnn,
        {"name": "faster_rcnn", "depth": 26, "width": 8, "layout": "slim"},
    ),
    "ssd": (scope_of_ssd, {"name": "ssd", "backbone": "mobilenet_v2", "width": 8}),
}


@pytest.fixture(params=["faster_rcnn", "ssd"])
def released(request, rng, tmp_path):
    """(a checkpoint, or a SavedModel that has them as constants; our variables)."""
    scope_of, architecture = ARCHITECTURES[request.param]
    variables = random_variables(architecture)
    arrays = as_the_api(variables, scope_of, rng) | {"global_step": np.int64(7)}
    arrays = {name: np.asarray(x) for name, x in arrays.items()}
    source = tmp_path / "released"
    if request.param == "ssd":
        del arrays["global_step"]
        arrays["Postprocessor/anchors"] = np.zeros((9, 4), np.float32)
        saved_model_of(arrays, source)
    else:
        source.mkdir()
        source /= "model.ckpt"
        tensorflow_files.write_bundle(source, arrays)
    return source, flatten_dict(variables, sep="/")


def test_what_the_api_writes_becomes_our_detector(released, tmp_path, capsys):
    source, ours = released
    out = tmp_path / "out"
    stored = convert(source, out).variables
    text = capsys.readouterr().out
    assert "image_size" in text and "is assumed: --set=image_size=N if not" in text
    assert f"next: python main.py detect photos --out=boxes --model={out}" in text
    assert load_model(out).is_detector
    assert stored.keys() == ours.keys()
    for name, x in ours.items():
        if name != "params/proposal_offsets/bias":  # Of other centres: see below.
            np.testing.assert_allclose(stored[name], x, atol=1e-5, err_msg=name)


def test_anchors_on_corners_of_cells_give_the_same_boxes(rng):
    """The API centres them on corners of the cells; ours lie half a cell further."""
    bias, size = rng.normal(size=4 * len(SHAPES)).astype(np.float32), 640
    found = detectors.adapt(
        {"params/proposal_offsets/bias": bias},
        {"name": "faster_rcnn", "image_size": size},
    )["params/proposal_offsets/bias"]
    cells = grid_anchors((40, 40), SHAPES)
    corners = cells - np.float32(8 / size)
    tiled = [np.tile(x.reshape(-1, 4), (1600, 1)) for x in (bias, found)]
    expected = decode_boxes(jax.numpy.array(tiled[0]), jax.numpy.array(corners))
    ours = decode_boxes(jax.numpy.array(tiled[1]), jax.numpy.array(cells))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_other_detectors_are_refused_in_a_sentence(rng, tmp_path):
    named = {
        "BoxPredictor_0/ClassPredictor/weights": np.zeros((1, 1, 8, 6), np.float32),
        "FeatureExtractor/MobilenetV2/Conv/weights": np.zeros((3, 3, 3, 8), np.float32),
    }
    tensorflow_files.write_bundle(tmp_path / "plain", named)
    with pytest.raises(InputError, match="use the folder of its SavedModel as it is"):
        convert(tmp_path / "plain", tmp_path / "out")
    with pytest.raises(InputError, match="only detectors of one class, landmarks"):
        detectors.adapt(
            {"params/logits/kernel": np.zeros((1, 1, 8, 91), np.float32)},
            {"name": "faster_rcnn"},
        )


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("FirstStageFeatureExtractor/resnet_v1_50/conv1/weights", "backbone/conv1"),
        (
            "SecondStageFeatureExtractor/resnet_v1_50/block4/unit_3/bottleneck_v1/conv2"
            "/weights",
            "block4_unit3/conv2",
        ),
        ("Conv/weights", "proposal_hidden"),
        ("other/Conv/weights", None),
    ],
)
def test_only_whole_names_of_the_first_detector_are_known(name, ours):
    expected = ours and f"params/{ours}/kernel"
    assert detectors.faster_rcnn_name(name) == expected


def test_every_variable_of_the_released_sizes_has_a_name():
    """Of ResNet-50 and of the whole MobileNetV2, by shapes alone."""
    for key, (scope_of, architecture) in ARCHITECTURES.items():
        wide = {**architecture, "width": 64 if key == "faster_rcnn" else 32}
        wide |= {"depth": 50} if key == "faster_rcnn" else {}
        shapes = expected_shapes(build(wide))
        for name in shapes:
            part, scope, leaf = (
                name.split("/", 1)[0],
                *name.split("/", 1)[1].rsplit("/", 1),
            )
            theirs = {"kernel": "weights", "bias": "biases"}.get(leaf) or NORM[leaf]
            if theirs == "weights" and scope.endswith("depthwise"):
                theirs = "depthwise_weights"
            found = FAMILIES[key].name(f"{scope_of(scope)}/{theirs}")
            assert found == f"{part}/{scope}/{leaf}"
        assert not find_missing(shapes, shapes)
