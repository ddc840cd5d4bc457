"""Released and foreign weights, recognised by what is in them, and read."""

import os
import pathlib
import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors

from delf_jax.files import InputError
from delf_jax.formats import keras_h5
from delf_jax.formats.lazy_arrays import LazyArrays
from delf_jax.formats.pickles import pytorch
from delf_jax.formats.tensorflow import saved_model, tensorbundle

_TABLE_END = struct.pack("<Q", 0xDB4775248B80FB57)  # of TensorFlow's .index files


class WeightFile(NamedTuple):
    """What a path holds."""

    kind: str
    """as `recognise` has it, but "frozen_graph" of a SavedModel without variables"""
    path: pathlib.Path
    """for "tf_checkpoint" the prefix, otherwise the file or folder"""
    tensors: Mapping[str, np.ndarray]
    """by name, in the order of the source; see `read_weights` for the names"""
    details: dict[str, Any]
    """what the source has beside its tensors"""


def read_weights(path: str | os.PathLike) -> WeightFile:
    """The weights at a path; InputError, one sentence, if there are none to be read.

    Names of tensors: in TensorFlow's files those of the variables, without the ending
    "/.ATTRIBUTES/VARIABLE_VALUE" or ":0"; in others as they stand there.

    A SavedModel that keeps its weights in the graph is read as a "frozen_graph".

    details: of "safetensors" the metadata; of a "saved_model" and a "frozen_graph" the
    `nodes` of the graph, see `graph_def.Node`, and the `signatures`, of the first the
    floating-point `constants`, too.
    """
    path = pathlib.Path(path)
    kind = recognise(path)
    if kind is None:
        raise InputError(f"{path}: {not_recognised(path)}")
    if kind == "tf_checkpoint":
        path = tensorbundle.find_bundle(path)
        return WeightFile(kind, path, _numbers(tensorbundle.read_bundle(path)), {})
    if kind == "keras_h5":
        return WeightFile(kind, path, keras_h5.read_h5(path), {})
    if kind == "torch":
        return WeightFile(kind, path, pytorch.read_state_dict(path), {})
    return read_safetensors(path) if kind == "safetensors" else _read_graph(path)


def recognise(path: str | os.PathLike) -> str | None:
    """The kind of weights at a path; None if it holds no such.

    "tf_checkpoint", "saved_model", "frozen_graph", "keras_h5", "torch", "safetensors".
    """
    path = pathlib.Path(path)
    if path.is_file():
        return _recognise_file(path)
    if not path.is_dir():
        return "tf_checkpoint" if tensorbundle.is_bundle(path) else None
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    has_bundle = (path / "checkpoint").is_file() or any(path.glob("*.index"))
    return "tf_checkpoint" if has_bundle else None


def not_recognised(path: pathlib.Path) -> str:
    """Why a path is not read as weights."""
    if not path.exists():
        return "no such file, folder or checkpoint prefix"
    what = "folder" if path.is_dir() else "file"
    return (
        f"a {what} of no kind that is known; weights are a model folder, a training, a "
        "SavedModel, a TensorFlow checkpoint, a frozen graph, or a .h5, .pth or "
        ".safetensors file"
    )


def _recognise_file(path: pathlib.Path) -> str | None:
    with open(path, "rb") as file:
        start, size = file.read(512), os.fstat(file.fileno()).st_size
        file.seek(max(0, size - len(_TABLE_END)))
        end = file.read()
    if end == _TABLE_END or tensorbundle.is_bundle(path):
        return "tf_checkpoint"
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return "keras_h5"
    if start[:4] == b"PK\3\4" or pytorch.is_legacy(start):
        return "torch"
    if 2 <= int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{":
        return "safetensors"
    # A SavedModel starts with its version, a number, and then has a graph.
    if start[:3] == b"\x08\x01\x12":
        return "saved_model"
    return "frozen_graph" if _is_graph(start) else None


def _is_graph(start: bytes) -> bool:
    """Whether it starts as a GraphDef does: a node with a name and an operation."""
    node = re.match(rb"\x0a[\x80-\xff]{0,4}[\0-\x7f]\x0a([\1-\x7f])", start)
    operation = start[node.end() + node[1][0] :] if node else b""
    return re.match(rb"\x12[\1-\x7f][A-Z_]", operation) is not None


def _read_graph(path: pathlib.Path) -> WeightFile:
    found = saved_model.read_saved_model(path)
    details = {"nodes": found.nodes, "signatures": found.signatures}
    if not found.tensors:
        return WeightFile("frozen_graph", path, found.constants, details)
    details["constants"] = found.constants
    return WeightFile("saved_model", path, _numbers(found.tensors), details)


def _numbers(arrays: LazyArrays) -> LazyArrays:
    """Those of numbers, by the names of their variables."""
    return LazyArrays(
        {
            tensorbundle.variable_path(name).removesuffix(":0"): entry
            for name, entry in arrays.entries.items()
            if not entry.dtype.hasobject
        }
    )


def read_safetensors(path: pathlib.Path) -> WeightFile:
    """All tensors of a .safetensors file, and its metadata."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = file.offset_keys()
            tensors = {name: file.get_tensor(name) for name in names}
            return WeightFile("safetensors", path, tensors, file.metadata() or {})
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None
