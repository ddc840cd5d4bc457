import numpy as np
import pytest

from delf_jax.conversion.families import FAMILIES
from delf_jax.conversion.layers import (
    adapt,
    find_missing,
    reduction_of_pycls,
    to_our_axes,
)
from delf_jax.models.resnet import LAYOUTS


def test_axes_become_ours():
    kernel = np.zeros((16, 8, 3, 5))
    name = "params/backbone/conv1/kernel"
    assert to_our_axes(name, kernel, True).shape == (3, 5, 8, 16)
    assert to_our_axes(name, kernel, False).shape == (16, 8, 3, 5)
    matrix = "params/whitening/kernel"
    assert to_our_axes(matrix, np.zeros((2, 3)), True).shape == (3, 2)
    assert to_our_axes(matrix, np.zeros((1, 1, 2, 3)), False).shape == (2, 3)
    reduce = "params/local/autoencoder/reduce/kernel"
    assert to_our_axes(reduce, np.zeros((2, 3)), False).shape == (1, 1, 2, 3)


SCOPE = "backbone/block1_unit1/conv1"


def normalised(variables, x, epsilon):
    """A 1x1 convolution and its BatchNorm, of rows x."""
    kernel, bias, scale, offset = (
        variables.get(f"params/{SCOPE}/{leaf}", 0)
        for leaf in ("kernel", "bias", "scale", "offset")
    )
    mean, var = (variables[f"batch_stats/{SCOPE}/{leaf}"] for leaf in ("mean", "var"))
    return (x @ kernel[0, 0] + bias - mean) / np.sqrt(var + epsilon) * scale + offset


def layer(rng, with_bias):
    vectors = rng.uniform(0.5, 1.5, (5, 4))
    names = [f"params/{SCOPE}/{leaf}" for leaf in ("scale", "offset", "bias")]
    names += [f"batch_stats/{SCOPE}/{leaf}" for leaf in ("mean", "var")]
    variables = dict(zip(names, vectors, strict=True))
    variables[f"params/{SCOPE}/kernel"] = rng.normal(size=(1, 1, 3, 4))
    if not with_bias:
        del variables[f"params/{SCOPE}/bias"]
    return variables


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("family", ["keras", "applications", "torchvision"])
def test_a_layer_computes_the_same_in_every_layout(rng, layout, with_bias, family):
    variables = layer(rng, with_bias)
    expected = {n: x.shape for n, x in variables.items() if "bias" not in n}
    if LAYOUTS[layout]["use_bias"]:
        expected[f"params/{SCOPE}/bias"] = (4,)
    epsilon = LAYOUTS[layout]["epsilon"]
    adapted, unused = adapt(variables, expected, FAMILIES[family], epsilon)
    assert not unused and adapted.keys() == expected.keys()
    x = rng.normal(size=(5, 3))
    theirs = FAMILIES[family].epsilon or epsilon
    np.testing.assert_allclose(
        normalised(adapted, x, epsilon),
        normalised(variables, x, theirs),
        atol=1e-5,
    )


def test_a_bias_before_a_normalisation_is_not_missed(rng):
    shapes = {n: x.shape for n, x in layer(rng, with_bias=False).items()}
    bias, scale = f"params/{SCOPE}/bias", f"params/{SCOPE}/scale"
    expected = shapes | {bias: (4,), scale: (5,), "params/whitening/bias": (3,)}
    missing = {scale: (5,), "params/whitening/bias": (3,)}
    assert find_missing(shapes, expected) == missing
    assert bias in find_missing(shapes | {bias: (5,)}, expected)


def test_what_is_not_expected_is_not_read(rng):
    huge = np.broadcast_to(np.float32(1), (1 << 40,))
    variables = layer(rng, with_bias=False)
    expected = {name: x.shape for name, x in variables.items()}
    variables["params/classifier/bias"] = huge
    _, unused = adapt(variables, expected, FAMILIES["torchvision"], 1e-5)
    assert unused == ["params/classifier/bias"]


def test_blue_first_becomes_red_first(rng):
    name = "params/backbone/conv1/kernel"
    kernel = rng.normal(size=(7, 7, 3, 2)).astype(np.float32)
    adapted, _ = adapt({name: kernel}, {name: kernel.shape}, FAMILIES["keras"], 1e-5)
    np.testing.assert_array_equal(adapted[name], kernel[:, :, ::-1])


def test_without_attention_there_is_nothing_to_reduce_with():
    assert reduction_of_pycls({}) == {}


def test_vectors_that_do_not_fit_reduce_nothing():
    scope = "local/attention/conv1"
    variables = {f"params/{scope}/{n}": np.ones(4) for n in ("bias", "scale", "offset")}
    variables |= {f"batch_stats/{scope}/{n}": np.ones(4) for n in ("mean", "var")}
    variables[f"params/{scope}/kernel"] = np.ones((1, 1, 3, 4))
    assert len(reduction_of_pycls(variables)) == 2
    variables[f"params/{scope}/scale"] = np.ones(5)
    assert reduction_of_pycls(variables) == {}
