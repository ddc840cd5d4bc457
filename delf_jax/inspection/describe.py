"""What a file or folder holds, in words and tables."""

import json
import os
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from delf_jax.conversion import weight_files
from delf_jax.conversion.weight_files import WeightFile
from delf_jax.files import InputError, read_text
from delf_jax.formats.delf import boxes, datum, features, pbtxt
from delf_jax.formats.protos import aggregation_config_pb2, delf_config_pb2
from delf_jax.index import codebook, inverted_file, photo_index
from delf_jax.inspection import dataset_files, model_files
from delf_jax.inspection.dataset_files import Format
from delf_jax.progress import format_count
from delf_jax.store import feature_store
from delf_jax.store.shards import is_absent

_WIDTH, _SHOWN_FAILURES, _LARGEST_MODULE = 84, 10, 64
_AGGREGATION_FIELDS = ("aggregation", "codebook", "num_assignments")
_CODEBOOKS = ("codebook", "clusters")  # the second written by TensorFlow 1.
_TITLES = {
    "model": "model folder",
    "training": "training state",
    "tf_checkpoint": "TensorFlow checkpoint",
    "saved_model": "SavedModel",
    "frozen_graph": "frozen TensorFlow graph",
    "keras_h5": "Keras weights",
    "torch": "PyTorch state dict",
    "safetensors": "safetensors",
}


class _Module(NamedTuple):
    """A row of the table of modules."""

    module: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: str


def format_contents(path: str | os.PathLike, *, everything: bool = False) -> str:
    """What `path` holds, ready to be printed; InputError if that is unknown or broken.

    Weights of all kinds, ours and others', feature stores and indexes, and the
    original's files of features, boxes, arrays and configs, ground truth and lists.

    Args:
      everything: of weights also a table of the tensors of each module.
    """
    path = pathlib.Path(path)
    inside = (found for name, found in _FOLDERS.items() if (path / name).is_file())
    format_file: Format | None = next(inside, None)
    if path.is_file():
        format_file = _SUFFIXES.get(path.suffix) or dataset_files.find_format(path)
    if format_file is not None:
        return "\n".join(format_file(path))
    source = model_files.read(path)
    if source is None and path.exists() and weight_files.recognise(path) is None:
        raise InputError(
            f"{path}: {weight_files.not_recognised(path)}; others are feature stores, "
            f"indexes, codebooks, inverted files, {dataset_files.KNOWN}, and files "
            f"that end in {', '.join(_SUFFIXES)}"
        )
    return "\n".join(
        _format_weights(source or weight_files.read_weights(path), everything)
    )


def _format_weights(source: WeightFile, everything: bool) -> Iterator[str]:
    yield f"{source.path}: {_TITLES[source.kind]}"
    # Each is read, and so checked, but only one is kept at a time.
    shapes = {n: _without_values(source.tensors[n]) for n in source.tensors}
    for name, tensor in shapes.items():
        if name.rpartition("/")[2] in _CODEBOOKS and tensor.ndim == 2:
            words, depth = tensor.shape
            yield f"a codebook of {words} visual words of {depth} dimensions"
    if source.kind == "model":
        yield from _format_fields(source.details)
    yield from _format_graph(source.details)
    if source.kind == "training":
        yield f"step: {int(source.tensors['step'])}"
        yield "averaged parameters, which become the model:"
        shapes = _below("ema/", shapes)
    if source.kind in ("model", "training"):
        shapes = _below("params/", shapes) | _below("batch_stats/", shapes)
    yield from _format_parameters(shapes, everything)


def _format_graph(details: Mapping[str, Any]) -> Iterator[str]:
    """The size of a graph, and what it can be called with."""
    if "nodes" in details:
        yield f"graph: {len(details['nodes'])} nodes"
    for name, signature in details.get("signatures", {}).items():
        yield f"signature {name}:"
        for side, tensors in signature._asdict().items():
            for key, info in tensors.items():
                shape = "any shape" if info.shape is None else list(info.shape)
                yield f"  {side}: {key} {info.dtype} {shape}"


def _below(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    inside = {n: tensor for n, tensor in tensors.items() if n.startswith(prefix)}
    return {n.removeprefix(prefix): tensor for n, tensor in inside.items()}


def _without_values(tensor: np.ndarray) -> np.ndarray:
    """An array of the same shape and type that takes no memory."""
    return np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)


def _format_parameters(
    tensors: Mapping[str, np.ndarray], everything: bool
) -> Iterator[str]:
    """A table of all modules with the totals, then one for each module."""
    modules = _by_module(tensors)
    rows = [_sum(module, inside.values()) for module, inside in modules.items()]
    rows.append(_sum("total", tensors.values()))
    yield "\n" + _format_table(_Module._fields, rows)
    for module, inside in modules.items() if everything else ():
        lines = [(n, t.shape, t.dtype, t.size) for n, t in sorted(inside.items())]
        yield f"\n{module}\n" + _format_table(("name", "shape", "dtype", "size"), lines)


def _format_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A frame of rows below the names of their columns."""
    cells = [[name.capitalize() for name in columns]]
    for row in rows:
        cells.append([f"{v:,}" if isinstance(v, int) else str(v) for v in row])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    head, *lines = (
        "|".join(["", *(f" {c:<{w}} " for c, w in zip(line, widths, strict=True)), ""])
        for line in cells
    )
    return "\n".join([rule, head, rule, *lines, rule])


def _by_module(
    tensors: Mapping[str, np.ndarray], depth: int = 2
) -> dict[str, dict[str, np.ndarray]]:
    """{module: {name in it: tensor}}; large modules are split once more."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        separator = "/" if "/" in name else "."
        parts = name.split(separator)
        inside = min(depth, len(parts) - 1)
        module = separator.join(parts[:inside]) or "(top)"
        modules.setdefault(module, {})[separator.join(parts[inside:])] = tensor
    if depth == 2 and max(map(len, modules.values()), default=0) > _LARGEST_MODULE:
        return _by_module(tensors, depth + 1)
    return modules


def _sum(module: str, tensors: Iterable[np.ndarray]) -> _Module:
    tensors = list(tensors)
    return _Module(
        module,
        len(tensors),
        sum(tensor.size for tensor in tensors),
        sum(tensor.nbytes for tensor in tensors),
        ", ".join(sorted({str(tensor.dtype) for tensor in tensors})),
    )


def _format_fields(fields: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A line for each field; those of a mapping below it, and deeper ones cut."""
    for name, value in fields.items():
        if isinstance(value, dict) and value and not indent:
            yield f"{name}:"
            yield from _format_fields(value, "  ")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            line = textwrap.shorten(f"{name}: {text}", _WIDTH, placeholder=" ...")
            yield indent + line


def _format_codebook(folder: pathlib.Path) -> Iterator[str]:
    info = codebook.load_codebook(folder).info
    yield f"{folder}: codebook"
    words, dimension = info.pop("words"), info.pop("dimension")
    yield f"a codebook of {words} visual words of {dimension} dimensions"
    yield from _format_fields(info)


def _format_index(folder: pathlib.Path) -> Iterator[str]:
    index = photo_index.open_index(folder)
    yield f"{folder}: index of {format_count(len(index.store), 'photo')}"
    if index.shortfall:
        yield index.shortfall
    absent = " (absent)" if is_absent(index.places.root) else ""
    yield f"photos in: {index.places.root}{absent}"
    if index.places.outside:
        yield f"added from elsewhere: {len(index.places.outside)}"
    yield from _format_store(folder / "store")


def _format_store(folder: pathlib.Path) -> Iterator[str]:
    found = feature_store.open_store(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    yield f"{folder}: feature store"
    yield f"images: {len(found)}, failed: {len(found.failed)}, bytes: {size:,}"
    if found.shortfall:
        yield found.shortfall
    names = ("model", "global_model", "settings")
    yield from _format_fields({n: v for n in names if (v := found.manifest.get(n))})
    if len(found):  # All of its images were extracted alike.
        first = found[0]
        places = [place for place in found.records.values() if place.extracted]
        counts = (place.counts() for place in places)
        local, regions = map(sum, zip(*counts, strict=True))
        if first.local is not None:
            depth = first.local.descriptors.shape[1]
            yield f"local features: {local}, {depth} dimensions"
        if first.regions is not None:
            yield f"boxes: {regions}, beside the whole images"
        if first.global_descriptor is not None:
            yield f"global descriptors: {len(first.global_descriptor)} dimensions"
    for id, reason in list(found.failed.items())[:_SHOWN_FAILURES]:
        yield f"failed: {id}: {reason}"
    if len(found.failed) > _SHOWN_FAILURES:
        yield f"and {len(found.failed) - _SHOWN_FAILURES} more"


def _format_inverted_file(folder: pathlib.Path) -> Iterator[str]:
    found = inverted_file.open_inverted_file(folder)
    info = found.info
    size = sum(shard["bytes"] for shard in info["shards"])
    kind = "VLAD" if info.get("vlad") else "ASMK*" if info["binary"] else "ASMK"
    yield f"{folder}: inverted file of {kind}"
    yield (
        f"images: {info['images']}, words of them: {info['postings']:,}, shards: "
        f"{len(info['shards'])}, bytes: {size:,}"
    )
    yield (
        f"codebook: {info['words']} visual words of {info['dimension']} dimensions, "
        f"{info['assignments']} for each descriptor"
    )
    yield from _format_fields({n: info[n] for n in ("rule", "model", "settings")})


def _format_datum(path: pathlib.Path) -> Iterator[str]:
    yield f"{path}: array of {_format_array(datum.read_datum(path))}"


def _format_pair(path: pathlib.Path) -> Iterator[str]:
    descriptors, visual_words = datum.read_datum_pair(path)
    yield f"{path}: aggregated descriptors"
    yield f"descriptors: {_format_array(descriptors)}"
    yield f"visual words: {_format_array(visual_words)}"


def _format_local_features(path: pathlib.Path) -> Iterator[str]:
    found = features.read_delf_features(path)
    yield f"{path}: {len(found.scales)} local features"
    for name, array in found._asdict().items():
        if array is not None:
            yield f"{name}: {_format_array(array)}"


def _format_boxes(path: pathlib.Path) -> Iterator[str]:
    found = boxes.read_boxes(path)
    yield f"{path}: {len(found.scores)} boxes"
    for name, array in found._asdict().items():
        yield f"{name}: {_format_array(array)}"


def _format_pbtxt(path: pathlib.Path) -> Iterator[str]:
    text = read_text(path)
    kind: Any = delf_config_pb2.DelfConfig
    if any(field in text for field in _AGGREGATION_FIELDS):
        kind = aggregation_config_pb2.AggregationConfig
    config = pbtxt.read_pbtxt(path, kind)
    yield f"{path}: {kind.DESCRIPTOR.name}"
    yield str(config).rstrip() or "all fields have their defaults"


def _format_array(array: np.ndarray) -> str:
    """Shape, type and range of an array."""
    text = f"{list(array.shape)} {array.dtype}"
    if array.size:
        text += f", {array.min():.6g} to {array.max():.6g}"
    return text


# The file that makes a folder one of ours.
_FOLDERS: dict[str, Format] = {
    "index.json": _format_index,
    "manifest.json": _format_store,
    "codebook.json": _format_codebook,
    "inverted.json": _format_inverted_file,
}
# The original's files do not name their kind; the endings are its own.
_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".datum", ".delg_global", ".vlad", ".rvlad"), _format_datum),
    **dict.fromkeys((".asmk", ".asmk_star", ".rasmk", ".rasmk_star"), _format_pair),
    **dict.fromkeys((".delf", ".delg_local"), _format_local_features),
    ".boxes": _format_boxes,
    ".pbtxt": _format_pbtxt,
}
