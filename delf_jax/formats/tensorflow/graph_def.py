"""TensorFlow graphs: their nodes and the constants in them.

Field numbers are those of tensorflow/core/framework/{graph,node_def,attr_value}.proto.
"""

import functools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from delf_jax.formats.lazy_arrays import Entry, LazyArrays
from delf_jax.formats.tensorflow import tensor_proto, wire


class Node(NamedTuple):
    """An operation; names are "function/node" inside the graph's functions."""

    name: str
    op: str
    inputs: tuple[str, ...]  # names of nodes or of a function's arguments, in order
    attributes: tuple[memoryview, ...]  # see `attribute`


def graph_nodes(graph: memoryview) -> tuple[Node, ...]:
    """The nodes of a GraphDef in its order, then those of its functions.

    Inputs have lost the numbers of outputs, and those that are only waited for are
    left out.
    """
    message = wire.parse(graph)
    nodes = list(map(_parse_node, wire.contents(message, 1)))
    for library in wire.contents(message, 2):
        for function in wire.contents(wire.parse(library), 1):
            nodes += _function_nodes(wire.parse(function))
    if len({node.name for node in nodes}) < len(nodes):
        raise wire.Malformed("two nodes of one name")
    return tuple(nodes)


def attribute(node: Node, name: str) -> wire.Message:
    """The AttrValue of that name, empty if there is none."""
    for pair in map(wire.parse, node.attributes):
        if wire.text(pair, 1) == name:
            return wire.parse(wire.content(pair, 2))
    return {}


def integers(node: Node, name: str) -> tuple[int, ...]:
    """An attribute that lists integers, such as "strides"; empty if there is none."""
    values = wire.parse(wire.content(attribute(node, name), 1))
    return tuple(wire.packed_integers(values, 3).astype(np.int64).tolist())


def read_constants(nodes: tuple[Node, ...], path: str | os.PathLike) -> LazyArrays:
    """The floating-point constants among the nodes, by name; `path` is for errors."""
    entries = {}
    for node in nodes:
        if node.op == "Const":
            tensor = wire.parse(wire.content(attribute(node, "value"), 8))
            number = wire.integer(tensor, 1)
            if number in tensor_proto.FLOATING:
                read = functools.partial(_read_constant, tensor, path, node.name)
                shape = tensor_proto.parse_shape(wire.content(tensor, 2))
                entries[node.name] = Entry(tensor_proto.dtype_of(number), shape, read)
    return LazyArrays(entries)


def _read_constant(
    tensor: wire.Message, path: str | os.PathLike, name: str
) -> Shaped[np.ndarray, "..."]:
    with wire.blaming(f"{path}, {name}"):
        return tensor_proto.read_tensor(tensor)


def _parse_node(data: memoryview) -> Node:
    message = wire.parse(data)
    inputs = map(wire.decode, wire.contents(message, 3))
    return Node(
        wire.text(message, 1),
        wire.text(message, 2),
        tuple(name.split(":")[0] for name in inputs if not name.startswith("^")),
        tuple(wire.contents(message, 5)),
    )


def _function_nodes(function: wire.Message) -> Iterator[Node]:
    """The nodes of a FunctionDef, named after it."""
    prefix = wire.text(wire.parse(wire.content(function, 1)), 1) + "/"
    for node in map(_parse_node, wire.contents(function, 3)):
        yield node._replace(
            name=prefix + node.name,
            inputs=tuple(prefix + name for name in node.inputs),
        )
