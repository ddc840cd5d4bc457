"""Differences between the layers of others and ours, made up for."""

from collections.abc import Mapping

import numpy as np

from delf_jax.conversion.families import Family
from delf_jax.models.resnet import LAYOUTS


def to_our_axes(name: str, tensor: np.ndarray, pytorch: bool) -> np.ndarray:
    """A tensor of our `name` in our order: kernels [h, w, in, out], matrices [in, out].

    Matrices and 1x1 convolutions are often stored as each other.
    """
    tensor = np.asarray(tensor)
    if not name.endswith("/kernel"):
        return tensor.reshape(-1) if tensor.ndim == 4 else tensor
    if pytorch:
        tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    matrix = "classifier" in name or "whitening" in name
    if matrix and tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
        return tensor[0, 0]
    return tensor[None, None] if tensor.ndim == 2 and not matrix else tensor


def reduction_of_pycls(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The descriptors of the PyTorch DELG as our reduction of block3.

    They are what its attention computes before the relu: a 1x1 convolution and its
    BatchNorm, which are one linear map.
    """
    scope = "local/attention/conv1"
    names = [f"params/{scope}/{leaf}" for leaf in ("kernel", "bias", "scale", "offset")]
    names += [f"batch_stats/{scope}/{leaf}" for leaf in ("mean", "var")]
    found = [variables[name].shape for name in names if name in variables]
    if len(found) < len(names) or any(shape != found[0][-1:] for shape in found[1:]):
        return {}
    kernel, bias, scale, offset, mean, var = (
        np.asarray(variables[name], np.float64) for name in names
    )
    factor = scale / np.sqrt(var + LAYOUTS["v1.5"]["epsilon"])
    reduction = {"kernel": kernel * factor, "bias": (bias - mean) * factor + offset}
    return {
        f"params/local/autoencoder/reduce/{leaf}": value.astype(np.float32)
        for leaf, value in reduction.items()
    }


def find_missing(
    shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """What the layout expects of those that are absent or of another shape.

    A bias before a BatchNorm may be absent: `adapt` then gives a zero.
    """
    return {
        name: shape
        for name, shape in expected.items()
        if shapes.get(name) != shape
        and not (name not in shapes and _mean_beside(name) in shapes)
    }


def adapt(
    variables: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    family: Family,
    epsilon: float,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(what the layout expects, names of what it has no use for).

    No result changes: a bias before a BatchNorm can be a part of its mean, an epsilon
    one of its variance, and the order of the colours one of the first kernel. None of
    the variables may be missing; those without use are not read.

    Args:
      epsilon: of BatchNorm in our network.
    """
    adapted = {
        name: np.asarray(x, np.float64)
        for name, x in variables.items()
        if name in expected or _mean_beside(name) in expected
    }
    absorbed = set()
    for name in list(adapted):
        if not name.endswith("/var"):
            continue
        scope = name.removeprefix("batch_stats/").removesuffix("/var")
        adapted[name] = adapted[name] + ((family.epsilon or epsilon) - epsilon)
        bias = f"params/{scope}/bias"
        mean = _mean_beside(bias)
        if bias in expected and bias not in adapted:
            adapted[bias] = np.zeros(expected[bias])
        elif bias in adapted and bias not in expected and mean in adapted:
            if adapted[mean].shape == adapted[bias].shape:
                adapted[mean] = adapted[mean] - adapted[bias]
                absorbed.add(bias)
    first = adapted.get("params/backbone/conv1/kernel")
    if family.bgr and first is not None and first.ndim == 4:
        adapted["params/backbone/conv1/kernel"] = first[:, :, ::-1]
    used = {n: x.astype(np.float32) for n, x in adapted.items() if n in expected}
    return used, [n for n in variables if n not in expected and n not in absorbed]


def _mean_beside(name: str) -> str | None:
    """The mean of which a bias can be a part; None of what is no bias."""
    scope, _, leaf = name.removeprefix("params/").rpartition("/")
    return f"batch_stats/{scope}/mean" if leaf == "bias" else None
