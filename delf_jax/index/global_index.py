"""The global descriptors of a store, ready to be searched: in memory, or in one file.

global-<precision>.safetensors, in the folder of the store, holds `values` and, of int8,
`scales`, one row per image in the order of the ids. It is built when first needed,
rebuilt once the store has changed, and mapped: what is read of it is what a search
looks at. Its metadata say how many of the most similar images it finds.

`checksums` are CRC-32C of `_CHUNK` rows each, verified when the file is opened: that
reads it once, as the first search does. Version 0.1 wrote none.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import google_crc32c
import jax
import numpy as np
from jaxtyping import Float, Int, UInt32

from delf_jax.files import InputError, atomic_write, digest
from delf_jax.formats import tensor_files
from delf_jax.index.global_search import AGAIN, GlobalIndex, from_array, largest_norm
from delf_jax.manifests import owned
from delf_jax.progress import track
from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import Best, Rows
from delf_jax.store.feature_store import FeatureStore

FORMAT = 1
# float32 descriptors of so many bytes are read to memory, and no file is made of them.
IN_MEMORY = 256 * 2**20
# Photos whose nearest are looked for to measure recall, and how many nearest.
SAMPLED, NEAREST = 64, 100
# Bytes before the values: a multiple of what devices want arrays to be aligned to.
_HEADER = 2048
_CHUNK = 4096


class Recall(NamedTuple):
    """Share of the most similar by float32 that are found, as measured on photos."""

    photos: int
    nearest: int
    plain: float
    again: float
    """among twice as many, which are then compared in float32"""


def open_descriptors(
    store: FeatureStore, precision: str = "float32", *, progress: bool = True
) -> tuple[GlobalIndex, Recall | None]:
    """What a search needs, and of a reduced precision the recall, where measured.

    InputError if an image has no global descriptor, or one that is not finite.
    """
    if precision not in nearest.PRECISIONS:
        known = ", ".join(nearest.PRECISIONS)
        raise InputError(f"precision {precision!r}: use one of {known}")
    dimension = store.read_global([0]).shape[1] if len(store) else 0
    if precision == "float32" and 4 * dimension * len(store) <= IN_MEMORY:
        check_finite(store, range(len(store)), store.global_descriptors)
        return from_array(store.global_descriptors, precision), None
    path = store.path / f"global-{precision}.safetensors"
    found = _open(path, store, precision, dimension)
    if found is None:
        _write(path, store, precision, dimension, progress)
        found = _open(path, store, precision, dimension)
    if found is None:
        raise InputError(f"{path}: changed while it was opened; run this again")
    rows, norm, recall = found
    originals = None if precision == "float32" else store.read_global
    return GlobalIndex(rows, norm, originals=originals), recall


def format_summary(index: GlobalIndex, recall: Recall | None) -> str:
    """A line on what a reduced precision saves and costs."""
    precision = nearest.precision_of(index.rows)
    values = index.rows.values
    size = values.shape[1] * values.itemsize + 4 * (precision == "int8")
    text = f"{precision}: {size} bytes a photo (float32: {4 * values.shape[1]})"
    if recall is not None:
        text += (
            f"; finds {recall.plain:.2%} of the {recall.nearest} most similar, "
            f"{recall.again:.2%} among the {AGAIN * recall.nearest} that are compared "
            f"again in float32 (measured on {recall.photos} photos of the index)"
        )
    return text


def _write(
    path: pathlib.Path,
    store: FeatureStore,
    precision: str,
    dimension: int,
    progress: bool,
) -> None:
    """Writes the file, whole or not at all, in one pass over the store."""
    count = len(store)
    shape: tuple[int, ...] = (count, dimension)
    tensors = {"values": (nearest.PRECISIONS[precision], shape)}
    if precision == "int8":
        tensors["scales"] = (np.float32, shape[:1])
    sums = -(-count // _CHUNK) + len(tensors) - 1
    tensors["checksums"] = (np.uint32, (sums,))
    measured = None if precision == "float32" else _start_measuring(store)
    scales, checksums, norm = [], [], 0.0
    with (
        atomic_write(owned(path)) as file,
        track("global descriptors", count, "descriptor", progress=progress) as advance,
    ):
        file.write(b" " * _HEADER)
        for start in range(0, count, _CHUNK):
            ids = range(start, min(start + _CHUNK, count))
            descriptors = store.read_global(ids)
            check_finite(store, ids, descriptors)
            rows = nearest.quantize(descriptors, precision)
            data = np.asarray(rows.values).tobytes()
            file.write(data)
            checksums.append(google_crc32c.value(data))
            if rows.scales is not None:
                scales.append(rows.scales)
            norm = max(norm, largest_norm(rows))
            if measured is not None:
                measured = _measure(measured, start, Rows(descriptors), rows)
            advance(len(ids))
        if precision == "int8":
            data = b"".join(each.tobytes() for each in scales)
            file.write(data)
            checksums.append(google_crc32c.value(data))
        file.write(np.array(checksums, np.uint32).tobytes())
        metadata = {
            "format": str(FORMAT),
            "state": store.state,
            "norm": repr(norm),
            "recall": json.dumps(_recall(measured)) if measured else "",
        }
        metadata["checksum"] = digest([[*metadata.values()], checksums], 16)
        file.seek(0)
        file.write(tensor_files.encode_header(tensors, metadata, _HEADER))


def _open(
    path: pathlib.Path, store: FeatureStore, precision: str, dimension: int
) -> tuple[Rows, float, Recall | None] | None:
    """What is in the file; None if it is absent, damaged, or of another store's state.

    That is no error: the file is rebuilt.
    """
    try:
        tensors, metadata = tensor_files.map_tensors(path)
        rows = Rows(tensors["values"], tensors.get("scales"))
        norm, recall = float(metadata["norm"]), _read_recall(metadata["recall"])
        sound = _is_sound(rows, tensors.get("checksums"), metadata)
    except (OSError, InputError, LookupError, ValueError, TypeError, RecursionError):
        return None
    expected: dict[str, Any] = {
        "values": (nearest.PRECISIONS[precision], (len(store), dimension))
    }
    if precision == "int8":
        expected["scales"] = (np.dtype(np.float32), (len(store),))
    found = {name: (tensors[name].dtype, tensors[name].shape) for name in expected}
    current = [metadata["format"], metadata["state"]] == [str(FORMAT), store.state]
    if sound and current and found == expected and np.isfinite(norm):
        return rows, norm, recall
    return None


def _read_recall(text: str) -> Recall | None:
    if not text:
        return None
    photos, count, plain, again = json.loads(text)
    return Recall(int(photos), int(count), float(plain), float(again))


def _is_sound(
    rows: Rows, checksums: np.ndarray | None, metadata: dict[str, str]
) -> bool:
    """Whether rows and metadata are what was written; version 0.1 did not tell."""
    if checksums is None:
        return "checksum" not in metadata
    known = [metadata[name] for name in ("format", "state", "norm", "recall")]
    if metadata["checksum"] != digest([known, checksums.tolist()], 16):
        return False
    return np.array_equal(checksums, _checksums(rows))


def _checksums(rows: Rows) -> UInt32[np.ndarray, " C"]:
    """Of each chunk of the values, and of the scales."""
    starts = range(0, len(rows.values), _CHUNK)
    parts = [rows.values[start : start + _CHUNK] for start in starts]
    parts += [] if rows.scales is None else [rows.scales]
    sums = [google_crc32c.value(each.view(np.uint8)) for each in parts]
    return np.array(sums, np.uint32)


def check_finite(
    store: FeatureStore, rows: Sequence[int], descriptors: Float[np.ndarray, "N G"]
) -> None:
    """InputError if one of the descriptors, of these rows of the store, is not."""
    bad = np.flatnonzero(~np.isfinite(descriptors).all(axis=1))
    if len(bad):
        raise InputError(
            f"{store.path}: the global descriptor of {store.ids[rows[bad[0]]]} is "
            "not finite; remove that image from the index, or index it again"
        )


class _Measured(NamedTuple):
    """What is nearest to some photos of the index so far."""

    photos: Int[np.ndarray, " Q"]
    queries: Float[np.ndarray, "Q G"]
    expected: Best
    """by float32"""
    plain: Best
    again: Best
    """twice as many"""


def _start_measuring(store: FeatureStore) -> _Measured | None:
    """Photos to measure with, none if the index is too small to say anything."""
    k = min(NEAREST, len(store) // 10)
    if not k:
        return None
    count = min(SAMPLED, len(store))
    photos = np.random.default_rng(0).choice(len(store), count, replace=False)
    return _Measured(
        photos,
        store.read_global(photos),
        expected=nearest.nothing_yet(count, k),
        plain=nearest.nothing_yet(count, k),
        again=nearest.nothing_yet(count, AGAIN * k),
    )


def _measure(known: _Measured, start: int, rows: Rows, quantized: Rows) -> _Measured:
    """With a further chunk of the index."""
    precise, coarse = (
        _products(rows, known.queries),
        _products(quantized, known.queries),
    )
    # A photo finds itself: that says nothing.
    places = known.photos - start
    inside = np.flatnonzero((places >= 0) & (places < len(precise)))
    for found in (precise, coarse):
        found[places[inside], inside] = -np.inf
    return known._replace(
        expected=nearest.keep_best(known.expected, precise, start),
        plain=nearest.keep_best(known.plain, coarse, start),
        again=nearest.keep_best(known.again, coarse, start),
    )


def _products(
    rows: Rows, queries: Float[np.ndarray, "Q G"]
) -> Float[np.ndarray, "R Q"]:
    quantized = nearest.quantize(queries, nearest.precision_of(rows))
    sides = jax.device_put((rows, nearest.pad_queries(quantized)))
    return np.array(nearest.products(*sides))[:, : len(queries)]


def _recall(found: _Measured) -> Recall:
    expected = found.expected.ids
    shares = [nearest.recall(e.ids, expected) for e in (found.plain, found.again)]
    return Recall(len(found.photos), expected.shape[1], *shares)
