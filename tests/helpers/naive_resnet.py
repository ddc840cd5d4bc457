"""ResNets of others in plain numpy, by their own names of layers: oracles of tests."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class Names(NamedTuple):
    """How a family names the layers of unit `u` (from 1) of block `b`."""

    first: tuple[str, str]
    layer: Callable[[int, int, str], tuple[str, str]]
    """(convolution, normalisation) of layer "1", "2", "3" or "shortcut\""""
    stride_in_first: bool
    epsilon: float
    bias: bool
    pytorch: bool


def _torch_layer(b, u, layer):
    scope = f"layer{b}.{u - 1}"
    if layer == "shortcut":
        return f"{scope}.downsample.0", f"{scope}.downsample.1"
    return f"{scope}.conv{layer}", f"{scope}.bn{layer}"


def _pycls_layer(b, u, layer):
    scope = f"s{b}.b{u}"
    if layer == "shortcut":
        return f"{scope}.proj", f"{scope}.bn"
    letter = "abc"[int(layer) - 1]
    return f"{scope}.f.{letter}", f"{scope}.f.{letter}_bn"


def _application_layer(b, u, layer):
    scope = f"conv{b + 1}_block{u}_{0 if layer == 'shortcut' else layer}"
    return f"{scope}_conv", f"{scope}_bn"


def _keras_layer(b, u, layer):
    branch = "1" if layer == "shortcut" else "2" + "abc"[int(layer) - 1]
    scope = f"{b + 1}{'abcdef'[u - 1]}_branch{branch}"
    return f"res{scope}", f"bn{scope}"


TORCHVISION = Names(("conv1", "bn1"), _torch_layer, False, 1e-5, False, True)
PYCLS = Names(("stem.conv", "stem.bn"), _pycls_layer, False, 1e-5, False, True)
APPLICATIONS = Names(
    ("conv1_conv", "conv1_bn"), _application_layer, True, 1.001e-5, True, False
)
KERAS = Names(("conv1", "bn_conv1"), _keras_layer, True, 1e-3, True, False)


def layers(names: Names, units, width: int) -> Iterator[tuple]:
    """(convolution, normalisation, kernel shape HWIO, stride) of each layer."""
    yield *names.first, (7, 7, 3, width), 2
    inputs = width
    for block, count in enumerate(units, 1):
        inner = width * 2 ** (block - 1)
        for unit in range(1, count + 1):
            stride = 2 if unit == 1 and block > 1 else 1
            first, second = (stride, 1) if names.stride_in_first else (1, stride)
            if unit == 1:
                shape = (1, 1, inputs, 4 * inner)
                yield *names.layer(block, unit, "shortcut"), shape, stride
            yield *names.layer(block, unit, "1"), (1, 1, inputs, inner), first
            yield *names.layer(block, unit, "2"), (3, 3, inner, inner), second
            yield *names.layer(block, unit, "3"), (1, 1, inner, 4 * inner), 1
            inputs = 4 * inner


def random_weights(names: Names, units, width: int, rng) -> dict[str, np.ndarray]:
    """Weights by the family's names, as its files have them."""
    named = {}
    separator = "." if names.pytorch else "/"
    keras = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    torch = ("weight", "bias", "weight", "bias", "running_mean", "running_var")
    leaves = [separator + leaf for leaf in (torch if names.pytorch else keras)]
    for conv, norm, shape, _ in layers(names, units, width):
        kernel = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        if names.pytorch:
            kernel = kernel.transpose(3, 2, 0, 1)
        named[conv + leaves[0]] = kernel
        if names.bias:
            named[conv + leaves[1]] = rng.normal(size=shape[-1]) * 0.05
        vectors = rng.uniform(0.5, 1.5, (4, shape[-1]))
        # Branches are weaker than shortcuts, as in a trained network.
        vectors[0] *= 0.3 if shape[-1] == 4 * shape[-2] else 1
        for leaf, vector in zip(leaves[2:], vectors, strict=True):
            named[norm + leaf] = vector
        if names.pytorch:
            named[norm + ".num_batches_tracked"] = np.array(7)
        else:
            named[norm + leaves[4]] -= 1
    return {
        name: x if x.dtype == np.int64 else np.ascontiguousarray(x, np.float32)
        for name, x in named.items()
    }


def forward(names: Names, weights, image, units) -> list[np.ndarray]:
    """Maps after each block of an image [H, W, 3] that is normalised as theirs is."""

    def layer(x, conv, norm, stride):
        if names.pytorch:
            kernel = weights[f"{conv}.weight"].transpose(2, 3, 1, 0)
            leaves = ("weight", "bias", "running_mean", "running_var")
            vectors = [weights[f"{norm}.{leaf}"] for leaf in leaves]
            bias = 0
        else:
            kernel = weights[f"{conv}/kernel"]
            leaves = ("gamma", "beta", "moving_mean", "moving_variance")
            vectors = [weights[f"{norm}/{leaf}"] for leaf in leaves]
            bias = weights.get(f"{conv}/bias", 0)
        gamma, beta, mean, var = (v.astype(np.float64) for v in vectors)
        y = convolve(x, kernel.astype(np.float64), stride, kernel.shape[0] // 2) + bias
        return (y - mean) / np.sqrt(var + names.epsilon) * gamma + beta

    def relu(x):
        return np.maximum(x, 0)

    x = max_pool(relu(layer(image.astype(np.float64), *names.first, 2)))
    maps = []
    for block, count in enumerate(units, 1):
        for unit in range(1, count + 1):
            stride = 2 if unit == 1 and block > 1 else 1
            first, second = (stride, 1) if names.stride_in_first else (1, stride)
            y = relu(layer(x, *names.layer(block, unit, "1"), first))
            y = relu(layer(y, *names.layer(block, unit, "2"), second))
            y = layer(y, *names.layer(block, unit, "3"), 1)
            if unit == 1:
                x = layer(x, *names.layer(block, unit, "shortcut"), stride)
            x = relu(x + y)
        maps.append(x)
    return maps


def convolve(x, kernel, stride: int, border: int) -> np.ndarray:
    """[H, W, C] and [K, K, C, F], zeros around."""
    side = kernel.shape[0]
    x = np.pad(x, ((border, border), (border, border), (0, 0)))
    rows, columns = ((n - side) // stride + 1 for n in x.shape[:2])
    out = np.zeros((rows, columns, kernel.shape[-1]))
    for i, j in itertools.product(range(side), repeat=2):
        taps = x[i : i + stride * rows : stride, j : j + stride * columns : stride]
        out += taps[:rows, :columns] @ kernel[i, j]
    return out


def max_pool(x) -> np.ndarray:
    """Maxima of 3x3 windows with stride 2, of a map >= 0 with a border of zeros."""
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[:2])
    taps = [
        x[i : i + 2 * rows : 2, j : j + 2 * columns : 2][:rows, :columns]
        for i, j in itertools.product(range(3), repeat=2)
    ]
    return np.max(taps, axis=0)


def gem(x, power: float = 3.0) -> np.ndarray:
    """[H, W, C] -> [C]."""
    return np.mean(np.maximum(x, 1e-6) ** power, axis=(0, 1)) ** (1 / power)


def _tf2_layer(b, u, layer):
    scope = f"backbone/l{b + 1}{'abcdef'[u - 1]}"
    end = "_shortcut" if layer == "shortcut" else "2" + "abc"[int(layer) - 1]
    return f"{scope}/conv{end}", f"{scope}/bn{end}"


def _slim_layer(b, u, layer):
    name = layer if layer == "shortcut" else f"conv{layer}"
    scope = f"resnet_v1_50/block{b}/unit_{u}/bottleneck_v1/{name}"
    return scope, f"{scope}/BatchNorm"


# Their layouts are tested elsewhere; here, only their names are of use.
TF2 = Names(
    ("backbone/conv1", "backbone/bn_conv1"), _tf2_layer, True, 1e-3, True, False
)
SLIM = Names(
    ("resnet_v1_50/conv1", "resnet_v1_50/conv1/BatchNorm"),
    _slim_layer,
    False,
    1e-5,
    False,
    False,
)
