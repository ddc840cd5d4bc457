"""Safetensors files of our own: written whole or part by part, mapped to be read."""

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from delf_jax.files import InputError, write_bytes
from delf_jax.manifests import owned

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U32": np.dtype(np.uint32),
    "U8": np.dtype(np.uint8),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_BROKEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], info: Any
) -> None:
    """Writes a file with info of any kind that JSON has."""
    info = {"json": json.dumps(info)}
    write_bytes(owned(path), safetensors.numpy.save(dict(tensors), info))


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], Any]:
    """(tensors, info) of `write_tensors`; InputError if the file is broken."""
    tensors, metadata = map_tensors(path)
    try:
        return tensors, json.loads(metadata["json"])
    except _BROKEN as error:
        raise InputError(f"{path}: has no info in JSON ({error})") from None


def encode_header(
    tensors: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]],
    metadata: Mapping[str, str],
    size: int = 0,
) -> bytes:
    """The first bytes of a file, after which the tensors follow in their order.

    Args:
      size: bytes to fill, if the header is shorter.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (kind, shape) in tensors.items():
        dtype = np.dtype(kind)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape)}
        header[name]["data_offsets"] = [start, end]
    text = json.dumps(header).encode()
    text = text.ljust(max(size - 8, len(text) + -len(text) % 8))  # Aligns the rest.
    return struct.pack("<Q", len(text)) + text


def map_tensors(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a file, mapped: what is not looked at is not read.

    OSError if it cannot be opened, InputError if it is truncated or something else.
    """
    try:
        data = np.asarray(np.memmap(path, np.uint8, mode="r"))
        start = 8 + int(data[:8].view("<u8")[0])
        header = json.loads(bytes(data[8:start]))
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata must be strings")
        tensors = {name: _view(data[start:], **x) for name, x in header.items()}
        ends = [0, *sorted(x["data_offsets"][1] for x in header.values())]
        starts = [*sorted(x["data_offsets"][0] for x in header.values())]
        if starts != ends[:-1] or start + ends[-1] != len(data):
            raise ValueError("the tensors do not fill the file one after the other")
    except _BROKEN as error:
        raise InputError(f"{path}: not a safetensors file ({error!s:.200})") from None
    return tensors, metadata


def _view(
    data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    start, end = data_offsets
    if min(start, end, *shape) < 0:
        raise ValueError("sizes must not be negative")
    return data[start:end].view(_DTYPES[dtype]).reshape(shape)
