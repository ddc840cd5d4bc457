"""SSD and its MobileNetV2, beside the same layers with TensorFlow's paddings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax import lax

from delf_jax.models.architecture import build, expected_shapes, fold_batch_norm
from delf_jax.models.detectors.ssd import PRIOR, STAGES
from tests.helpers.random_models import random_variables

ARCHITECTURE = {"name": "ssd", "backbone": "mobilenet_v2", "width": 8}


def naive_convolution(x, layer, stride=1, depthwise=False):
    """As TensorFlow's, with SAME paddings, by [Sandler2018]'s own words."""
    y = lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        "SAME",
        feature_group_count=x.shape[-1] if depthwise else 1,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + layer["bias"].reshape(1, 1, 1, -1)


def relu6(x):
    return jnp.clip(x, 0, 6)


def naive_backbone(layers, x):
    """The maps of stride 16, widened, and of stride 32."""
    x = relu6(naive_convolution(x, layers["stem"], 2))
    widened = None
    for number, stage in enumerate(STAGES, 1):
        for unit in range(1, stage.units + 1):
            parts = layers[f"stage{number}_unit{unit}"]
            stride, before = stage.stride if unit == 1 else 1, x
            if "expand" in parts:
                x = relu6(naive_convolution(x, parts["expand"]))
            if (number, unit) == (6, 1):
                x = widened = relu6(naive_convolution(x, layers["stage6_widen"]))
            x = relu6(naive_convolution(x, parts["depthwise"], stride, depthwise=True))
            x = naive_convolution(x, parts["project"])
            if x.shape == before.shape and stride == 1:
                x = x + before
    return widened, relu6(naive_convolution(x, layers["head"]))


@pytest.fixture(scope="module")
def folded():
    """(module, variables) of a narrow network, its BatchNorm folded."""
    rng = np.random.default_rng(0)
    variables = random_variables(ARCHITECTURE)
    uneven = jax.tree.map(lambda x: x + rng.uniform(0, 0.2, x.shape), variables)
    return fold_batch_norm(build(ARCHITECTURE), uneven)


@pytest.mark.parametrize("size", [64, 75])
def test_maps_are_those_of_tensorflows_paddings(folded, rng, size):
    module, variables = folded
    image = rng.normal(size=(1, size, size, 3)).astype(np.float32)
    layers = variables["params"]["backbone"]
    found = jax.jit(module.backbone.apply)({"params": layers}, image)
    with jax.numpy_rank_promotion("allow"):
        expected = dict(zip(found, jax.jit(naive_backbone)(layers, image), strict=True))
    sizes = module.backbone.stage_sizes((size, size))
    for name, stage in found.items():
        assert stage.shape[1:] == (*sizes[name], module.backbone.channels(name))
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(stage, expected[name], atol=1e-4 * scale)


def test_there_is_a_box_for_every_anchor_of_every_map(folded, rng):
    module, variables = folded
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    outputs = jax.jit(module.apply)(variables, images)
    count = 4 * 4 * 3 + (2 * 2 + 1 + 1 + 1 + 1) * 6
    assert outputs["box_logits"].shape == (2, count)
    assert outputs["offsets"].shape == (2, count, 4)
    assert outputs["anchors"].shape == (count, 4)
    alone = jax.jit(module.apply)(variables, images[1:])
    np.testing.assert_allclose(
        outputs["box_logits"][1], alone["box_logits"][0], atol=1e-4
    )


def test_statistics_of_new_layers_are_learned_over_a_frozen_backbone(rng):
    module = build({**ARCHITECTURE, "normalization": "frozen"})
    variables = random_variables(ARCHITECTURE)
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    train = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    _, changed = jax.jit(train)(variables, images)
    before = flatten_dict(variables["batch_stats"], sep="/")
    after = flatten_dict(changed["batch_stats"], sep="/")
    same = {n for n, x in after.items() if np.array_equal(x, before[n])}
    assert same == {n for n in before if n.startswith("backbone/")}


@pytest.mark.parametrize("size", [300, 320])
def test_the_released_sizes_have_their_anchors(size):
    module = build(ARCHITECTURE)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    outputs = jax.eval_shape(lambda k, x: module.init_with_output(k, x)[0], key, image)
    assert outputs["anchors"].shape == ({300: 1917, 320: 2034}[size], 4)


@pytest.mark.parametrize(
    ("backbone", "fields"),
    [("compact", {}), ("efficientnet_lite2", {}), ("resnet", {"depth": 18})],
)
def test_any_backbone_can_detect(backbone, fields):
    module = build({"name": "ssd", "backbone": backbone, **fields})
    assert any("map6_logits" in name for name in expected_shapes(module))


def test_a_neck_brings_maps_to_one_width_and_the_finer_reads_the_coarser(rng):
    """Beside the same layers in numpy's words; folding changes nothing."""
    architecture = {"name": "ssd", "backbone": "compact", "neck": 8}
    variables = random_variables(architecture)
    module, folded = fold_batch_norm(build(architecture), variables)
    layers = folded["params"]
    image = rng.normal(size=(1, 64, 96, 3)).astype(np.float32)
    stages = jax.jit(module.backbone.apply)({"params": layers["backbone"]}, image)

    def spread(x, name):
        depthwise = layers[f"{name}_depthwise"]
        x = relu6(naive_convolution(x, depthwise, depthwise=True))
        return relu6(naive_convolution(x, layers[f"{name}_project"]))

    with jax.numpy_rank_promotion("allow"):
        coarse = naive_convolution(stages["block4"], layers["map2_reduce"])
        coarse = spread(relu6(coarse), "map2")
        fine = naive_convolution(stages["block3"], layers["map1_reduce"])
        enlarged = np.kron(np.asarray(coarse), np.ones((1, 4, 4, 1)))
        fine = spread(relu6(fine + enlarged), "map1")
        depthwise = layers["map1_logits_depthwise"]
        fine = relu6(naive_convolution(fine, depthwise, depthwise=True))
        logits = naive_convolution(fine, layers["map1_logits"]).reshape(1, -1)
    assert {layers[f"map{n}_logits"]["kernel"].shape[2] for n in range(1, 7)} == {8}
    found = jax.jit(module.apply)(folded, image)["box_logits"]
    np.testing.assert_allclose(
        found[:, : logits.shape[1]], logits + PRIOR, rtol=1e-4, atol=1e-4
    )
    unfolded = jax.jit(build(architecture).apply)(variables, image)["box_logits"]
    np.testing.assert_allclose(found, unfolded, rtol=1e-3, atol=1e-3)


def test_only_a_detector_has_this_backbone():
    with pytest.raises(ValueError, match="delg has no mobilenet_v2; use ssd"):
        build({**ARCHITECTURE, "name": "delg"})
    with pytest.raises(ValueError, match="image_size: 0 is not allowed"):
        build({**ARCHITECTURE, "image_size": 0})
