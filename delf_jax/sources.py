"""Files of weights, ours and others', recognised by what is in them, and read."""

import os
import pathlib
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from delf_jax.files import InputError

Tensors = Mapping[str, np.ndarray]

_TABLE_END = struct.pack("<Q", 0xDB4775248B80FB57)  # of TensorFlow's .index files
_VARIABLE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NEWEST = re.compile(r'^model_checkpoint_path:\s*"(.*)"', re.MULTILINE)


class Source(NamedTuple):
    """What a path holds."""

    kind: str
    """a key of `READERS`"""
    path: pathlib.Path
    """for "tf_checkpoint" the prefix, otherwise the file or folder"""
    tensors: Tensors
    """by name, in the order of the source; see `read_source` for the names"""
    details: dict[str, Any]
    """what the source says beside its tensors"""


def read_source(path: str | os.PathLike) -> Source:
    """The weights at a path; InputError, one sentence, if there are none to be read.

    Names of tensors: in a model folder or a training's checkpoint those of the tree,
    with "/"; in TensorFlow's files those of the variables, without the ending
    "/.ATTRIBUTES/VARIABLE_VALUE" or ":0"; in others as they stand there.

    details: of a "model" its config; of "training" the step; of a "saved_model" and a
    "frozen_graph" the nodes of the graph, (name, operation, inputs) each.
    """
    found = recognise(path)
    if found is None:
        raise InputError(f"{path}: {_not_recognised(pathlib.Path(path))}")
    kind, place = found
    tensors, details = READERS[kind](place)
    return Source(kind, place, tensors, details)


def recognise(path: str | os.PathLike) -> tuple[str, pathlib.Path] | None:
    """(kind, path to read) of weights; None if it holds none that are known."""
    path = pathlib.Path(path)
    if path.is_dir():
        return _recognise_folder(path)
    if path.is_file():
        return _recognise_file(path)
    if path.with_name(path.name + ".index").is_file():
        return "tf_checkpoint", path
    return None


def _not_recognised(path: pathlib.Path) -> str:
    if not path.exists():
        return "no such file, folder or checkpoint prefix"
    what = "folder" if path.is_dir() else "file"
    return (
        f"a {what} of no kind that is known; weights are a model folder, a training, a "
        "SavedModel, a TensorFlow checkpoint, a frozen graph, or a .h5, .pth or "
        ".safetensors file"
    )


def _recognise_folder(folder: pathlib.Path) -> tuple[str, pathlib.Path] | None:
    if (folder / "model.safetensors").is_file():
        return "model", folder
    if (folder / "saved_model.pb").is_file():
        return "saved_model", folder
    for checkpoints in (folder / "checkpoints", folder):
        if any((step / "state").is_dir() for step in checkpoints.glob("[0-9]*")):
            return "training", checkpoints
    if (folder / "checkpoint").is_file() or any(folder.glob("*.index")):
        return "tf_checkpoint", _newest_prefix(folder)
    return None


def _newest_prefix(folder: pathlib.Path) -> pathlib.Path:
    """The checkpoint that the folder's state file names, or the only one there."""
    prefixes = [path.with_suffix("") for path in sorted(folder.glob("*.index"))]
    if (folder / "checkpoint").is_file():
        text = (folder / "checkpoint").read_bytes()[:65536].decode("utf-8", "replace")
        newest = _NEWEST.search(text)
        # A folder that was moved still says where it was.
        name = pathlib.PurePath(newest.group(1)).name if newest else ""
        if folder / name in prefixes:
            return folder / name
    if len(prefixes) != 1:
        names = ", ".join(prefix.name for prefix in prefixes[:10]) or "none"
        raise InputError(
            f"{folder}: name one of its checkpoints, such as {folder}/ckpt-1; it "
            f"holds {names}"
        )
    return prefixes[0]


def _recognise_file(path: pathlib.Path) -> tuple[str, pathlib.Path] | None:
    with open(path, "rb") as file:
        start, size = file.read(64), os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 8))
        end = file.read(8)
    if end == _TABLE_END:
        return "tf_checkpoint", path.with_suffix("")
    shard = re.fullmatch(r"(.+)\.data-\d{5}-of-\d{5}", path.name)
    if shard and path.with_name(shard.group(1) + ".index").is_file():
        return "tf_checkpoint", path.with_name(shard.group(1))
    for kind, is_kind in _STARTS.items():
        if is_kind(start, size):
            return kind, path.parent if kind == "saved_model" else path
    return None


def _is_torch(start: bytes, size: int) -> bool:
    from delf_jax.formats import pytorch

    return start[:4] == b"PK\3\4" or pytorch.is_legacy(start)


def _is_safetensors(start: bytes, size: int) -> bool:
    header = int.from_bytes(start[:8], "little")
    return 2 <= header <= size - 8 and start[8:9] == b"{"


def _is_graph(start: bytes, size: int) -> bool:
    """Whether it starts as a GraphDef: a node (field 1), its name (field 1)."""
    node = re.match(rb"\x0a[\x80-\xff]{0,4}[\0-\x7f]\x0a[\1-\x7f]", start)
    return node is not None and start[node.end() :][:1].isalnum()


# A SavedModel starts with its version, a number, and then has a graph.
_STARTS: dict[str, Callable[[bytes, int], bool]] = {
    "keras_h5": lambda start, size: start[:8] == b"\x89HDF\r\n\x1a\n",
    "torch": _is_torch,
    "safetensors": _is_safetensors,
    "saved_model": lambda start, size: start[:3] == b"\x08\x01\x12",
    "frozen_graph": _is_graph,
}


def _read_model(folder: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    from delf_jax import weights

    config, _ = weights.read_model(folder)
    return _read_safetensors(folder / "model.safetensors")[0], config


def _read_training(folder: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    import jax

    from delf_jax import checkpoints

    leaves = jax.tree_util.tree_leaves_with_path(checkpoints.read_state(folder))
    tensors = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }
    return tensors, {}


def _read_tf_checkpoint(prefix: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    from delf_jax.formats import tensorbundle

    tensors = tensorbundle.read_bundle(prefix)
    return {name.removesuffix(_VARIABLE): x for name, x in tensors.items()}, {}


def _read_keras_h5(path: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    from delf_jax.formats import keras_h5

    return keras_h5.read_h5(path), {}


def _read_torch(path: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    from delf_jax.formats import pytorch

    return pytorch.read_state_dict(path), {}


def _read_safetensors(path: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = file.offset_keys()
            tensors = {name: file.get_tensor(name) for name in names}
            return tensors, dict(file.metadata() or {})
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


READERS: dict[str, Callable[[pathlib.Path], tuple[Tensors, dict[str, Any]]]] = {
    "model": _read_model,
    "training": _read_training,
    "tf_checkpoint": _read_tf_checkpoint,
    "keras_h5": _read_keras_h5,
    "torch": _read_torch,
    "safetensors": _read_safetensors,
}
