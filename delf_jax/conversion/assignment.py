"""Tensors matched by scope, shape and order, where names alone are not enough.

The code that trained the released DELG models was never published: known are a slim
ResNet, attention, an autoencoder and a whitening layer. Nothing is chosen that has a
second candidate.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

# The last component of a vector's name -> the leaf of ours.
VECTORS = {
    "bias": r"bias(es)?|b",
    "scale": r"gamma|scale",
    "offset": r"beta|offset",
    "mean": r"(moving_|running_)?mean",
    "var": r"(moving_|running_)?var(iance)?",
}
NORM = ("scale", "offset", "mean", "var")
# Words in a scope that decide between layers of one shape.
WORDS = {
    "local/attention/conv2": r"att|score",
    "local/attention/conv1": r"att|score",
    "local/autoencoder/expand": r"decod|expan|recon|conv2",
    "local/autoencoder/reduce": r"encod|reduc|conv1",
    "whitening": r"embed|whiten|prelogit|fc|dense",
}
CLASSIFIER = r"logits(?<!prelogits)|classif|arcface|cosine|softmax"
# Operations that hand a tensor on, and which input of which operation is what.
PASSED_ON = ("Identity", "Enter", "Cast", "ReadVariableOp", "Switch", "Reshape")
INPUTS = {
    ("Conv2D", 1): "weights",
    ("MatMul", 1): "weights",
    ("BiasAdd", 1): "biases",
    ("FusedBatchNorm", 1): "BatchNorm/gamma",
    ("FusedBatchNorm", 2): "BatchNorm/beta",
    ("FusedBatchNorm", 3): "BatchNorm/moving_mean",
    ("FusedBatchNorm", 4): "BatchNorm/moving_variance",
}


class Layer(NamedTuple):
    """A kernel and the vectors that belong to it, by their names in the source."""

    scope: str
    kernel: str
    inputs: int
    outputs: int
    vectors: dict[str, str]
    """leaf -> name in the source"""


def names_in_graph(nodes: Sequence[tuple]) -> dict[str, str]:
    """{constant: name it would have as a variable} from who computes with it.

    Its constants may be called anything; a convolution still has its scope:
    `a/conv1/Conv2D` -> `a/conv1/weights`.

    Args:
      nodes: (name, operation, inputs, ...) of a frozen graph.
    """
    sources = {name: name for name, operation, *_ in nodes if operation == "Const"}
    named = {}
    for name, operation, inputs, *_ in nodes:
        inputs = [source.split(":")[0] for source in inputs if source[:1] != "^"]
        if operation in PASSED_ON and inputs and inputs[0] in sources:
            sources[name] = sources[inputs[0]]
        kind = re.sub(r"V\d$", "", operation)
        for place, source in enumerate(inputs):
            if (kind, place) in INPUTS and source in sources:
                scope = _scope(name) or name
                named[sources[source]] = f"{scope}/{INPUTS[kind, place]}"
    counts = collections.Counter(named.values())
    return {name: new if counts[new] == 1 else name for name, new in named.items()}


def layers_of(shapes: Shapes) -> tuple[list[Layer], list[str]]:
    """(layers in the order of their kernels, names of vectors without a layer)."""
    kernels = {name: shape for name, shape in shapes.items() if len(shape) in (2, 4)}
    layers = {
        _scope(name): Layer(_scope(name), name, shape[-2], shape[-1], {})
        for name, shape in kernels.items()
    }
    lost = []
    for name, shape in shapes.items():
        if name in kernels:
            continue
        leaf = _vector_leaf(name)
        layer = layers.get(_scope(name)) or _neighbour(name, shape, layers)
        if layer and leaf and leaf not in layer.vectors and shape == (layer.outputs,):
            layer.vectors[leaf] = name
        else:
            lost.append(name)
    return list(layers.values()), lost


def layers_in_order(shapes: Shapes) -> list[Layer]:
    """Layers of tensors without usable names: vectors follow their kernel.

    One vector is a bias, four are a normalisation in the order of its operation; with
    another number the kernel stands alone.
    """
    layers, found = [], list(shapes.items())
    starts = [i for i, (_, shape) in enumerate(found) if len(shape) in (2, 4)]
    for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
        name, shape = found[start]
        vectors = [n for n, s in found[start + 1 : end] if s == (shape[-1],)]
        leaves = {1: ("bias",), 4: NORM}.get(len(vectors), ())
        named = dict(zip(leaves, vectors, strict=False))
        layers.append(Layer(name, name, shape[-2], shape[-1], named))
    return layers


def match_backbone(
    layers: Sequence[Layer], expected: Sequence[tuple[str, int, int]]
) -> dict[str, str]:
    """{our name: source name} if the first layers have the expected sizes, else {}.

    Args:
      expected: (scope, inputs, outputs) in the order in which the network computes.
    """
    sizes = [(layer.inputs, layer.outputs) for layer in layers[: len(expected)]]
    if sizes != [(inputs, outputs) for _, inputs, outputs in expected]:
        return {}
    return _named((scope, x) for x, (scope, *_) in zip(layers, expected, strict=False))


def match_heads(
    layers: Sequence[Layer], block3: int, block4: int
) -> tuple[dict[str, str], list[Layer]]:
    """({our name: source name} of attention, autoencoder and whitening, classifiers).

    Args:
      block3: channels of this map.
      block4: the same; 0 if there is none.
    """
    classifiers = [x for x in layers if re.search(CLASSIFIER, x.scope, re.I)]
    rest = [layer for layer in layers if layer not in classifiers]
    scopes: dict[str, Layer] = {}

    def choose(scope: str, candidates: list[Layer]) -> Layer | None:
        candidates = [x for x in candidates if x not in scopes.values()]
        if len(candidates) > 1:
            words = WORDS[scope]
            candidates = [x for x in candidates if re.search(words, x.scope, re.I)]
        if len(candidates) == 1:
            scopes[scope] = candidates[0]
        return candidates[0] if len(candidates) == 1 else None

    last = choose("local/attention/conv2", [x for x in rest if x.outputs == 1])
    if last:
        first = [x for x in rest if (x.inputs, x.outputs) == (block3, last.inputs)]
        normed = [x for x in first if "scale" in x.vectors or "var" in x.vectors]
        choose("local/attention/conv1", normed or first)
    expand = choose(
        "local/autoencoder/expand",
        [x for x in rest if x.outputs == block3 and x.inputs not in (block3, block4)],
    )
    reduce = [x for x in rest if x.inputs == block3]
    if expand:
        reduce = [x for x in reduce if x.outputs == expand.inputs]
    choose("local/autoencoder/reduce", reduce)
    if block4:
        choose("whitening", [x for x in rest if x.inputs == block4])
    return _named(scopes.items()), classifiers


def _named(layers: Iterable[tuple[str, Layer]]) -> dict[str, str]:
    """{our name: source name} of the layers in these scopes of ours."""
    named = {}
    for scope, layer in layers:
        named[f"params/{scope}/kernel"] = layer.kernel
        for leaf, source in layer.vectors.items():
            part = "batch_stats" if leaf in ("mean", "var") else "params"
            named[f"{part}/{scope}/{leaf}"] = source
    return named


def _scope(name: str) -> str:
    return name.rpartition("/")[0].removesuffix("/BatchNorm")


def _vector_leaf(name: str) -> str | None:
    last = name.rpartition("/")[2]
    found = (leaf for leaf, words in VECTORS.items() if re.fullmatch(words, last))
    return next(found, None)


def _neighbour(name: str, shape: Shape, layers: Mapping[str, Layer]) -> Layer | None:
    """The one layer beside a vector's own scope that has no such vector yet."""
    parent, leaf = _scope(_scope(name) or "/"), _vector_leaf(name)
    beside = [x for x in layers.values() if _scope(x.scope) == parent]
    fits = [x for x in beside if (x.outputs,) == shape and leaf not in x.vectors]
    return fits[0] if len(fits) == 1 else None
