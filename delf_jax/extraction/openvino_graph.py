"""Networks as graphs of OpenVINO, translated from what JAX traces of them.

One graph takes canvases of any size. Inside it maps are [B, C, H, W], as OpenVINO's
convolutions want them; other arrays have their axes in the order of JAX.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import export
from jax.extend import core

from delf_jax.files import InputError
from delf_jax.models.convolution import Padding
from delf_jax.models.layers import ConvNorm, MaxPool

# Importing it forks the process, which may hang one with threads, and sends Google that
# it was imported; without this package it does neither.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino as ov
    from openvino import opset1
    from openvino import opset13 as ops
except ImportError:
    raise InputError(
        "the engine openvino is not installed: pip install 'delf_jax[openvino]'"
    ) from None

# Sides of canvases are multiples of it: the networks halve five times.
GRID = 32

Node = Any  # An array until it is needed in the graph: a node of it from then on.
# How often each side of a canvas holds the grid, by the names of these in the trace.
Sides = Mapping[str, Node]


class UntranslatedError(Exception):
    """The name of an operation that has no translation."""


def make_graph(
    module: nn.Module, variables: Any, batch: int, names: Sequence[str], **skipped: Any
) -> ov.Model:
    """From canvases [B, H, W, 3] and sizes [B, 2] to the outputs of these names.

    Raises UntranslatedError.
    """
    height, width = export.symbolic_shape("h, w")
    traced = (
        jax.ShapeDtypeStruct((batch, GRID * height, GRID * width, 3), np.float32),
        jax.ShapeDtypeStruct((batch, 2), np.int32),
    )
    variables = jax.tree.map(jnp.asarray, variables)

    def network(canvases: Any, sizes: Any) -> list[Any]:
        outputs: Any = module.apply(variables, canvases, sizes, **skipped)
        return [outputs[name] for name in names]

    with nn.intercept_methods(_call_layer):
        closed = jax.make_jaxpr(network)(*traced)
    canvases = ops.parameter([batch, -1, -1, 3], np.float32, "canvases")
    sizes = ops.parameter([batch, 2], np.int32, "sizes")
    _, *lengths, _ = ops.split(ops.shape_of(canvases, "i64"), 0, 4).outputs()
    counts = (ops.divide(length, _integers(GRID)) for length in lengths)
    sides = dict(zip("hw", counts, strict=True))
    found = _translate(sides, closed, [_as_inside(canvases, 4), sizes])
    results = [
        ops.result(_as_outside(_full(sides, x, variable), variable.aval.ndim), name)
        for x, variable, name in zip(found, closed.jaxpr.outvars, names, strict=True)
    ]
    return ov.Model(results, [canvases, sizes], "delf_jax")


_convolution, _pool = core.Primitive("convolution"), core.Primitive("pool")


@_convolution.def_abstract_eval
def _shape_of_convolution(
    x: Any, kernel: Any, bias: Any, *, stride: int, padding: Padding, dilation: int, **_
) -> Any:
    extent = (kernel.shape[0] - 1) * dilation + 1
    return _windowed(x, extent, stride, padding, kernel.shape[3])


@_pool.def_abstract_eval
def _shape_of_pool(x: Any, *, padding: Padding) -> Any:
    return _windowed(x, 3, 2, padding, x.shape[3])


def _windowed(x: Any, extent: int, stride: int, padding: Padding, channels: int) -> Any:
    """The shape of a map seen through windows of `extent` cells."""
    height, width = (
        (side + sum(border) - extent) // stride + 1
        for side, border in zip(x.shape[1:3], padding, strict=True)
    )
    return x.update(shape=(x.shape[0], height, width, channels))


def _call_layer(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    """A layer as one operation of the trace, not in the form that suits XLA."""
    layer = context.module
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    if isinstance(layer, MaxPool):
        return _pool.bind(args[0], padding=layer.padding)
    folded = isinstance(layer, ConvNorm) and layer.normalization in ("folded", "none")
    if not folded:
        return call(*args, **kwargs)
    own = layer.variables["params"]
    border = (layer.dilation * (layer.kernel_size // 2),) * 2
    return _convolution.bind(
        args[0],
        own["kernel"],
        own.get("bias", jnp.zeros(layer.features)),
        stride=layer.stride,
        padding=layer.padding or (border, border),
        dilation=layer.dilation,
        depthwise=layer.depthwise,
    )


def _translate(sides: Sides, traced: Any, inputs: Sequence[Node]) -> list[Node]:
    """The outputs of a traced function."""
    jaxpr, constants = getattr(traced, "jaxpr", traced), getattr(traced, "consts", ())
    variables = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(variables, [*constants, *inputs], strict=True))

    def read(variable: Any) -> Node:
        literal = isinstance(variable, core.Literal)
        return variable.val if literal else values[variable]

    for equation in jaxpr.eqns:
        results = _apply(sides, equation, [read(x) for x in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _apply(sides: Sides, equation: Any, inputs: list[Node]) -> list[Node]:
    """The outputs of one operation, or of a function that is called."""
    settings, name = equation.params, equation.primitive.name
    inner = settings.get("jaxpr") or settings.get("call_jaxpr")
    if inner is not None:
        whole = _FUNCTIONS.get(settings.get("name"))
        return [whole(_node(*inputs))] if whole else _translate(sides, inner, inputs)
    if name in _ELEMENTWISE:
        return [_ELEMENTWISE[name](*map(_node, inputs))]
    if name not in _OPERATIONS:
        raise UntranslatedError(name)
    return [_OPERATIONS[name](sides, equation, *inputs)]


def _order(rank: int) -> tuple[int, ...]:
    """The axes of JAX in the order in which they lie in the graph."""
    return (0, 3, 1, 2) if rank == 4 else tuple(range(rank))


def _rank(variable: Any) -> int:
    return len(variable.aval.shape)


def _as_inside(x: Node, rank: int) -> Node:
    return ops.transpose(x, _integers(*_order(rank))) if rank == 4 else x


def _as_outside(x: Node, rank: int) -> Node:
    """x with its axes in the order of JAX."""
    return ops.transpose(x, _integers(0, 2, 3, 1)) if rank == 4 else x


def _placed(x: Node, axes: Sequence[int], rank: int) -> Node:
    """An array of this rank whose `axes`, of JAX, are those of x in turn.

    The others are of length 1; operations on elements repeat them as they need.
    """
    places = [_order(rank).index(axis) for axis in axes]
    if places != sorted(places):
        x = ops.transpose(x, _integers(*np.argsort(places).tolist()))
    missing = [place for place in range(rank) if place not in places]
    return ops.unsqueeze(x, _integers(*missing)) if missing else x


def _node(x: Node) -> Node:
    """A node of what may still be an array or a number."""
    if not isinstance(x, np.ndarray | np.generic | jax.Array | bool | int | float):
        return x
    x = np.asarray(x)
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    x = x.astype(narrow.get(x.dtype, x.dtype))
    return ops.constant(np.array(x.transpose(_order(x.ndim)), order="C"))


def _integers(*numbers: int) -> Node:
    return ops.constant(np.array(numbers, np.int64))


def _lengths(sides: Sides, lengths: Sequence[Any]) -> Node:
    """Lengths of axes, some of which depend on the canvas."""
    # JAX writes such a one as the Python expression that it is: 16*h + 1.
    names = {**sides, "floordiv": ops.divide, "mod": ops.mod, "__builtins__": {}}
    nodes = (
        _integers(length) if isinstance(length, int) else eval(str(length), names)
        for length in lengths
    )
    return ops.concat(list(nodes), 0)


def _full(sides: Sides, x: Node, variable: Any) -> Node:
    """x with all its cells, where axes of length 1 stand for longer ones."""
    x, shape = _node(x), variable.aval.shape
    wanted = [shape[axis] for axis in _order(len(shape))]
    found = x.get_output_partial_shape(0)
    ones = [length == ov.Dimension(1) for length in found]
    if ones == [isinstance(length, int) and length == 1 for length in wanted]:
        return x
    return ops.broadcast(x, _lengths(sides, wanted), broadcast_spec="BIDIRECTIONAL")


def _convolve(sides: Sides, equation: Any, x: Node, kernel: Node, bias: Node) -> Node:
    settings = equation.params
    kernel = np.asarray(kernel).transpose(3, 2, 0, 1)
    if settings["depthwise"]:
        kernel = kernel[:, None]
    convolve = ops.group_convolution if settings["depthwise"] else ops.convolution
    begin, end = zip(*settings["padding"], strict=True)
    y = convolve(
        x,
        ops.constant(np.array(kernel, order="C")),
        [settings["stride"]] * 2,
        list(begin),
        list(end),
        [settings["dilation"]] * 2,
    )
    return ops.add(y, ops.constant(np.asarray(bias)[None, :, None, None]))


def _max_pool(sides: Sides, equation: Any, x: Node) -> Node:
    begin, end = zip(*equation.params["padding"], strict=True)
    return opset1.max_pool(x, [2, 2], list(begin), list(end), [3, 3])


def _sum_windows(sides: Sides, equation: Any, x: Node) -> Node:
    settings = equation.params
    window = settings["window_dimensions"]
    if _rank(equation.invars[0]) != 4 or window[0] != 1 or window[3] != 1:
        raise UntranslatedError(equation.primitive.name)
    begin, end = zip(*settings["padding"][1:3], strict=True)
    strides = list(settings["window_strides"][1:3])
    x = _full(sides, x, equation.invars[0])
    means = ops.avg_pool(x, strides, list(begin), list(end), list(window[1:3]), False)
    return ops.multiply(means, _node(np.float32(math.prod(window))))


def _without_axes(reduce: Callable[[Node, Node], Node], parameter: str) -> Callable:
    """The translation of an operation that removes the axes of a parameter."""

    def translated(sides: Sides, equation: Any, x: Node) -> Node:
        (variable,), gone = equation.invars, equation.params[parameter]
        order = _order(_rank(variable))
        places = _integers(*(order.index(axis) for axis in gone))
        left = [axis for axis in order if axis not in gone]
        axes = [sorted(left).index(axis) for axis in left]
        return _placed(reduce(_full(sides, x, variable), places), axes, len(axes))

    return translated


def _broadcast(sides: Sides, equation: Any, x: Node, *_: Node) -> Node:
    """With the axes that x lacks, of length 1."""
    order, axes = (
        _order(_rank(equation.invars[0])),
        equation.params["broadcast_dimensions"],
    )
    if not axes:
        return _node(x)
    return _placed(_node(x), [axes[axis] for axis in order], _rank(equation.outvars[0]))


def _slice(sides: Sides, equation: Any, x: Node) -> Node:
    settings, order = equation.params, _order(_rank(equation.invars[0]))
    steps = settings["strides"] or (1,) * len(order)
    return ops.slice(
        _full(sides, x, equation.invars[0]),
        _lengths(sides, [settings["start_indices"][axis] for axis in order]),
        _lengths(sides, [settings["limit_indices"][axis] for axis in order]),
        _integers(*(steps[axis] for axis in order)),
    )


def _pad(sides: Sides, equation: Any, x: Node, value: Node) -> Node:
    widths = equation.params["padding_config"]
    before, after, between = np.array(widths)[list(_order(len(widths)))].T.tolist()
    if any(between):
        raise UntranslatedError("pad between cells")
    x = _full(sides, x, equation.invars[0])
    return ops.pad(x, _integers(*before), _integers(*after), "constant", _node(value))


def _reshape(sides: Sides, equation: Any, x: Node, *_: Node) -> Node:
    shape = equation.params["new_sizes"]
    x = _full(sides, x, equation.invars[0])
    x = _as_outside(x, _rank(equation.invars[0]))
    return _as_inside(ops.reshape(x, _lengths(sides, shape), False), len(shape))


def _iota(sides: Sides, equation: Any, *_: Node) -> Node:
    (length,) = equation.params["shape"]
    end = ops.squeeze(_lengths(sides, [length]), _integers(0))
    first, step = (ops.constant(np.int64(number)) for number in (0, 1))
    counted = ops.range(first, end, step, "i64")
    return ops.convert(counted, np.dtype(equation.params["dtype"]))


def _concatenate(sides: Sides, equation: Any, *parts: Node) -> Node:
    nodes = [_full(sides, x, v) for x, v in zip(parts, equation.invars, strict=True)]
    order = _order(_rank(equation.invars[0]))
    return ops.concat(nodes, order.index(equation.params["dimension"]))


def _stack(sides: Sides, equation: Any, *parts: Node) -> Node:
    axis, rank = equation.params["axis"], _rank(equation.outvars[0])
    pairs = zip(parts, equation.invars, strict=True)
    nodes = [_as_outside(_full(sides, x, v), _rank(v)) for x, v in pairs]
    nodes = [ops.unsqueeze(x, _integers(axis)) for x in nodes]
    return _as_inside(ops.concat(nodes, axis), rank)


def _gather(sides: Sides, equation: Any, x: Node, indices: Node) -> Node:
    """x at places along some axes: what a[:, ::2] becomes if lengths are symbolic."""
    numbers = equation.params["dimension_numbers"]
    along, rank = numbers.start_index_map, _rank(equation.outvars[0])
    if along != numbers.collapsed_slice_dims:
        raise UntranslatedError("gather of parts")
    count = _rank(equation.invars[0])
    others = [axis for axis in range(count) if axis not in along]
    x = _as_outside(_full(sides, x, equation.invars[0]), count)
    x = ops.transpose(x, _integers(*along, *others))
    found = ops.gather_nd(x, _full(sides, indices, equation.invars[1]))
    batch = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    return _placed(found, [*batch, *numbers.offset_dims], rank)


def _multiply_matrices(sides: Sides, equation: Any, a: Node, b: Node) -> Node:
    if equation.params["dimension_numbers"] != (((1,), (0,)), ((), ())):
        raise UntranslatedError("dot_general of other axes")
    a, b = (_full(sides, x, v) for x, v in zip((a, b), equation.invars, strict=True))
    return ops.matmul(a, b, False, False)


def _convert(sides: Sides, equation: Any, x: Node) -> Node:
    return ops.convert(_node(x), np.dtype(equation.params["new_dtype"]))


def _power(sides: Sides, equation: Any, x: Node) -> Node:
    return ops.power(_node(x), _node(np.float32(equation.params["y"])))


# Functions that are one operation there.
_FUNCTIONS: dict[Any, Callable] = {
    "relu": ops.relu,
    "relu6": lambda x: ops.clamp(x, 0.0, 6.0),
    "softplus": ops.softplus,
}
# Operations on elements, of nodes alone.
_ELEMENTWISE: dict[str, Callable] = {
    "abs": ops.abs,
    "add": ops.add,
    "and": ops.logical_and,
    "div": ops.divide,
    "eq": ops.equal,
    "exp": ops.exp,
    "gt": ops.greater,
    "log": ops.log,
    "lt": ops.less,
    "max": ops.maximum,
    "min": ops.minimum,
    "mul": ops.multiply,
    "ne": ops.not_equal,
    "neg": ops.negative,
    "pow": ops.power,
    "rem": ops.mod,
    "rsqrt": lambda x: ops.divide(_node(np.float32(1)), ops.sqrt(x)),
    "select_n": lambda which, first, second: ops.select(which, second, first),
    "sign": ops.sign,
    "sqrt": ops.sqrt,
    "square": lambda x: ops.multiply(x, x),
    "stop_gradient": lambda x: x,
    "sub": ops.subtract,
}
_OPERATIONS: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "convolution": _convolve,
    "dot_general": _multiply_matrices,
    "gather": _gather,
    "integer_pow": _power,
    "iota": _iota,
    "pad": _pad,
    "pool": _max_pool,
    "reduce_max": _without_axes(ops.reduce_max, "axes"),
    "reduce_sum": _without_axes(ops.reduce_sum, "axes"),
    "reduce_window_sum": _sum_windows,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _without_axes(ops.squeeze, "dimensions"),
    "stack": _stack,
}
