"""SavedModels and frozen graphs, read without TensorFlow.

Field numbers are those of tensorflow/core/protobuf/{saved_model,meta_graph}.proto.
"""

import os
import pathlib
from typing import NamedTuple

from delf_jax.files import InputError
from delf_jax.formats.delf import messages
from delf_jax.formats.lazy_arrays import LazyArrays
from delf_jax.formats.tensorflow import (
    graph_def,
    object_graph,
    tensor_proto,
    tensorbundle,
    wire,
)

_VARIABLE_OPS = ("VarHandleOp", "VariableV2", "Variable")


class TensorInfo(NamedTuple):
    """An input or output: the tensor's name in the graph, type and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None  # -1 where a size is open; None if the rank is


class Signature(NamedTuple):
    """What a SavedModel can be called with, and what it answers."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


class SavedModel(NamedTuple):
    """What a SavedModel or a frozen graph holds; arrays are read when asked for."""

    tensors: LazyArrays  # variables by name
    constants: LazyArrays  # floating-point constants by the name of their node
    nodes: tuple[graph_def.Node, ...]
    signatures: dict[str, Signature]


def read_saved_model(path: str | os.PathLike) -> SavedModel:
    """The weights, nodes and signatures of a SavedModel or of a frozen graph.

    `path` is the folder of a SavedModel, its `saved_model.pb`, or a GraphDef alone.
    Of several graphs in a SavedModel, the one for serving is read.
    """
    path = pathlib.Path(path)
    file = path / "saved_model.pb" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no SavedModel, as {file} is absent")
    data = memoryview(messages.read_bytes(file))
    with wire.blaming(file):
        number, first = next(wire.fields(data), (0, None))
        if number == 1 and isinstance(first, memoryview):
            nodes = graph_def.graph_nodes(data)
            constants = graph_def.read_constants(nodes, file)
            return SavedModel(LazyArrays({}), constants, nodes, {})
        meta_graph = _serving_graph(wire.parse(data))
        nodes = graph_def.graph_nodes(wire.content(meta_graph, 2))
        variables = _read_variables(wire.content(meta_graph, 7), nodes, file)
        constants = graph_def.read_constants(nodes, file)
        signatures = {
            name: Signature(*(_parse_infos(wire.parse(data), side) for side in (1, 2)))
            for name, data in wire.mapping(meta_graph, 5).items()
        }
        return SavedModel(variables, constants, nodes, signatures)


def _serving_graph(saved_model: wire.Message) -> wire.Message:
    """The MetaGraphDef tagged "serve", or else the first."""
    graphs = list(map(wire.parse, wire.contents(saved_model, 2)))
    if not graphs:
        raise wire.Malformed("no graph in it")
    for graph in graphs:
        information = wire.parse(wire.content(graph, 1))
        if "serve" in map(wire.decode, wire.contents(information, 4)):
            return graph
    return graphs[0]


def _read_variables(
    objects: memoryview, nodes: tuple[graph_def.Node, ...], file: pathlib.Path
) -> LazyArrays:
    """The variables beside `file` by name; none if the graph was frozen.

    Models of TensorFlow 1 know no objects: there the names are the keys.
    """
    index = file.parent / "variables" / "variables.index"
    if not index.is_file():
        if any(node.op in _VARIABLE_OPS for node in nodes):
            raise InputError(
                f"{index}: absent, and {file.name} holds no weights itself"
            )
        return LazyArrays({})
    bundle = tensorbundle.read_bundle(index)
    if not objects or tensorbundle.OBJECT_GRAPH_KEY not in bundle:
        return bundle
    stored = bundle[tensorbundle.OBJECT_GRAPH_KEY]
    if stored.dtype.hasobject and stored.shape == ():
        keys = object_graph.keys_of_variables(objects, memoryview(stored.item()))
        if unknown := [key for key in keys.values() if key not in bundle]:
            raise wire.Malformed(f"the variables lack {unknown[0]!r:.200}")
        return LazyArrays({name: bundle.entries[key] for name, key in keys.items()})
    raise wire.Malformed("the graph of objects is not text")


def _parse_infos(signature: wire.Message, side: int) -> dict[str, TensorInfo]:
    infos = wire.mapping(signature, side).items()
    return {name: _parse_info(wire.parse(info)) for name, info in infos}


def _parse_info(info: wire.Message) -> TensorInfo:
    dtype = tensor_proto.dtype_of(wire.integer(info, 2))
    shape = wire.content(info, 3)
    is_open = bool(wire.integer(wire.parse(shape), 3))
    return TensorInfo(
        wire.text(info, 1),
        "text" if dtype.hasobject else str(dtype),
        None if is_open else tensor_proto.parse_shape(shape),
    )
