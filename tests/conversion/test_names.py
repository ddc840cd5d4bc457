import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.conversion.names import (
    application_name,
    keras_name,
    lite_name,
    pycls_name,
    slim_name,
    torch_name,
)
from delf_jax.extraction.model_folder import build_module
from tests.helpers import naive_resnet
from tests.helpers.original_names import variables_from_keras, variables_from_slim

UNITS = (3, 4, 6, 3)
FAMILIES = {
    torch_name: naive_resnet.TORCHVISION,
    pycls_name: naive_resnet.PYCLS,
    application_name: naive_resnet.APPLICATIONS,
}


def test_keras_names_find_their_place():
    named = {
        "backbone/l4f/conv2c/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.ones(1),
        "backbone/l3a/bn_shortcut/moving_variance": np.ones(2),
        "attention/bn_conv1/gamma": np.ones(3),
        "scale_factor": np.float32(45.25),
    }
    variables = variables_from_keras(named)
    backbone = variables["params"]["backbone"]
    assert backbone["block3_unit6"]["conv3"]["kernel"].shape == (1,)
    statistics = variables["batch_stats"]["backbone"]["block2_unit1"]["shortcut"]
    assert statistics["var"].shape == (2,)
    assert variables["params"]["local"]["attention"]["conv1"]["scale"].shape == (3,)
    assert set(variables["params"]) == {"backbone", "local"}


@pytest.mark.parametrize("name", ["backbone/l9a/conv2a/kernel", "optimizer/iter"])
def test_unknown_keras_names_are_none(name):
    assert keras_name(name) is None


@pytest.mark.golden
def test_every_variable_of_the_original_finds_its_place(golden):
    rows = json.loads((golden / "variables_keras_delg.json").read_text())
    named = {row["name"]: np.zeros(row["shape"], bool) for row in rows}
    architecture = {"name": "delg", "layout": "keras", "num_classes": 5}
    expected = random_shapes(architecture)
    ours = jax.tree.map(lambda x: x.shape, variables_from_keras(named))
    assert ours == expected


def test_slim_names_find_their_place():
    named = {
        "resnet_v1_101/block3/unit_23/bottleneck_v1/conv2/weights": np.ones(1),
        "resnet_v1_50/block2/unit_1/bottleneck_v1/shortcut/BatchNorm/moving_variance": (
            np.ones(2)
        ),
        "attention_block/attention/compute/conv1/BatchNorm/gamma": np.ones(3),
        "attention_block/attention/compute/conv2/biases": np.ones(4),
        "attention_block/logits/weights": np.ones((1, 1, 5, 6)),
        "resnet_v1_50/logits/biases": np.ones(7),
        "global_step": np.int64(33),
    }
    shapes = jax.tree.map(lambda x: x.shape, variables_from_slim(named))
    local = {
        "attention": {"conv1": {"scale": (3,)}, "conv2": {"bias": (4,)}},
        "attention_classifier": {"kernel": (5, 6)},
    }
    assert shapes == {
        "params": {
            "backbone": {"block3_unit23": {"conv2": {"kernel": (1,)}}},
            "local": local,
            "classifier": {"bias": (7,)},
        },
        "batch_stats": {"backbone": {"block2_unit1": {"shortcut": {"var": (2,)}}}},
    }


@pytest.mark.parametrize(
    "name",
    [
        "resnet_v1_50/block5/unit_1/bottleneck_v1/conv1/weights",
        "resnet_v1_50/conv1/gamma",
        "resnet_v1_50/conv1/weights/Momentum",
        "weights",
    ],
)
def test_unknown_slim_names_are_none(name):
    assert slim_name(name) is None


def random_shapes(architecture):
    module = build_module(architecture)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    return jax.tree.map(lambda x: x.shape, shapes)


@pytest.mark.golden
@pytest.mark.parametrize("code", ["delg", "delf"])
def test_attributes_and_layers_of_the_original_are_the_same_variables(golden, code):
    lines = (golden / f"{code}_vars.txt").read_text().split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith("#")]
    saved = [line.split(" ")[0] for line in lines[starts[0] + 1 : starts[1]]]
    saved = [key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for key in saved if key]
    layers = [line.split(" ")[0] for line in lines[starts[2] + 1 :] if line]
    unknown = {"scale_factor", "_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter"}
    by_attribute = [keras_name(key) for key in saved if key not in unknown]
    by_layer = [keras_name(n) for n in layers if n != "scale_factor:0"]
    assert None not in by_attribute and sorted(by_attribute) == sorted(by_layer)
    assert len(set(by_layer)) == len(by_layer)
    assert by_attribute == [keras_name(f"model/{k}") for k in saved if k not in unknown]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("res4f_branch2c/res4f_branch2c_W:0",)
        + ("params/backbone/block3_unit6/conv3/kernel",),
        ("bn_conv1/bn_conv1_running_std:0", "batch_stats/backbone/conv1/var"),
        ("res4b22_branch2a/kernel", "params/backbone/block3_unit23/conv1/kernel"),
        ("attention/bn_conv1/gamma", "params/local/attention/conv1/scale"),
        ("DELF/bn_conv1/gamma", "params/backbone/conv1/scale"),
        ("dense/kernel", None),
    ],
)
def test_names_of_layers(theirs, ours):
    assert keras_name(theirs) == ours


def test_slim_names_may_have_a_scope_around_them():
    theirs = "tower/resnet_v1_50/block1/unit_3/bottleneck_v1/conv2/BatchNorm/beta:0"
    assert slim_name(theirs) == "params/backbone/block1_unit3/conv2/offset"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "model"])
def test_every_variable_of_a_resnet_has_a_place_of_its_own(rng, name, prefix):
    family = FAMILIES[name]
    prefix += prefix and ("." if family.pytorch else "/")
    found = {}
    for theirs in naive_resnet.random_weights(family, UNITS, 4, rng):
        ours = name(prefix + theirs)
        assert ours not in found, theirs
        if not theirs.endswith("num_batches_tracked"):
            found[ours] = theirs
    leaves = 6 if family.bias else 5
    layers = 1 + 3 * sum(UNITS) + 4
    assert None not in found and len(found) == leaves * layers


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layer3.5.conv2.weight", "params/backbone/block3_unit6/conv2/kernel"),
        ("module.layer1.0.downsample.1.running_var",)
        + ("batch_stats/backbone/block1_unit1/shortcut/var",),
        ("bn1.bias", "params/backbone/conv1/offset"),
        ("fc.weight", "params/classifier/kernel"),
        ("bn1.num_batches_tracked", None),
        ("layer1.0.se.fc1.weight", None),
    ],
)
def test_torchvision(theirs, ours):
    assert torch_name(theirs) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("_conv_stem.weight", "params/backbone/stem/kernel"),
        ("module._bn0.bias", "params/backbone/stem/offset"),
        ("_blocks.0._bn1.weight", "params/backbone/stage1_unit1/depthwise/scale"),
        ("_blocks.4._expand_conv.weight", "params/backbone/stage3_unit1/expand/kernel"),
        ("_blocks.20._bn2.running_var",)
        + ("batch_stats/backbone/stage7_unit1/project/var",),
        ("_bn1.running_mean", "batch_stats/backbone/head/mean"),
        ("_fc.bias", "params/classifier/bias"),
        ("_blocks.4._se_reduce.weight", None),
        ("_bn1.num_batches_tracked", None),
    ],
)
def test_efficientnet_lite(theirs, ours):
    assert lite_name(theirs) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("globalmodel.s3.b6.f.b_bn.weight", "params/backbone/block3_unit6/conv2/scale"),
        ("model_state.globalmodel.s1.b1.proj.weight",)
        + ("params/backbone/block1_unit1/shortcut/kernel",),
        ("globalmodel.head.fc.weight", "params/whitening/kernel"),
        ("globalmodel.head.pool.p", "architecture/gem_power"),
        ("head.fc.weight", "params/classifier/kernel"),
        ("localmodel.bn.running_mean", "batch_stats/local/attention/conv1/mean"),
        ("localmodel.conv2.bias", "params/local/attention/conv2/bias"),
        ("fc_t.weight", None),
    ],
)
def test_pycls(theirs, ours):
    assert pycls_name(theirs) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv5_block3_3_bn/gamma:0", "params/backbone/block4_unit3/conv3/scale"),
        ("conv2_block1_0_conv/conv2_block1_0_conv/bias:0",)
        + ("params/backbone/block1_unit1/shortcut/bias",),
        ("predictions/kernel", "params/classifier/kernel"),
        ("conv2_block1_preact_bn/gamma", None),  # of a ResNet v2
        ("kernel", None),
    ],
)
def test_keras_applications(theirs, ours):
    assert application_name(theirs) == ours
