"""Safetensors files: written whole, read by name, mapped from disk."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from delf_jax.files import InputError, atomic_write


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Any
) -> None:
    """Writes a safetensors file with metadata of any kind that JSON has."""
    data = safetensors.numpy.save(dict(tensors), {"json": json.dumps(metadata)})
    with atomic_write(path) as file:
        file.write(data)


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], Any]:
    """(tensors, metadata) of `write_tensors`; InputError if the file is broken."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("json", "{}"))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


_TYPES = {"I64": np.int64, "I32": np.int32, "F32": np.float32}
DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in _TYPES.items()}


def view_tensor(
    data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    """An array of a shard; ValueError if the file ends before it does."""
    start, end = data_offsets
    return np.asarray(data)[start:end].view(_TYPES[dtype]).reshape(shape)
