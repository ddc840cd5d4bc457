import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.names import variables_from_keras, variables_from_slim
from delf_jax.weights import build_module


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
def test_unknown_keras_names_are_refused(name):
    with pytest.raises(InputError, match=name):
        variables_from_keras({name: np.ones(1)})


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
def test_unknown_slim_names_are_refused(name):
    with pytest.raises(InputError, match=name):
        variables_from_slim({name: np.ones(1)})


def random_shapes(architecture):
    module = build_module(architecture)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    return jax.tree.map(lambda x: x.shape, shapes)
