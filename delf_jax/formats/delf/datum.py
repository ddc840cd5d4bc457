"""Arrays as the original stores them: .datum, .delg_global, and pairs (.asmk, .vlad).

A file is one DatumProto, or a DatumPairProto: aggregated descriptors and visual words.
A .vlad or .rvlad holds a single one.
"""

import math
import os
from typing import Any

import numpy as np
from jaxtyping import Shaped

from delf_jax.files import InputError, write_bytes
from delf_jax.formats.delf import messages
from delf_jax.formats.protos.datum_pb2 import DatumPairProto, DatumProto

# As many dimensions as arrays of every version of numpy may have.
MAX_RANK = 32

AnyArray = Shaped[np.ndarray, "..."]


def read_datum(path: str | os.PathLike) -> AnyArray:
    """The float32 or uint32 array of a file; InputError if it is damaged."""
    return to_array(messages.parse(messages.read_bytes(path), DatumProto, path), path)


def read_datum_pair(path: str | os.PathLike) -> tuple[AnyArray, AnyArray]:
    """Two arrays: in the original, aggregated descriptors and their visual words."""
    pair = messages.parse(messages.read_bytes(path), DatumPairProto, path)
    return to_array(pair.first, path), to_array(pair.second, path)


def write_datum(path: str | os.PathLike, array: AnyArray) -> None:
    """Writes an array, floats as float32 and unsigned integers as uint32.

    Of uint64 the lower half is stored, as the original does. InputError for any other
    dtype.
    """
    write_bytes(path, encode_datum(array, path))


def write_datum_pair(
    path: str | os.PathLike, first: AnyArray, second: AnyArray
) -> None:
    """Writes two arrays; the rules are those of `write_datum`."""
    data = [encode_datum(array, path) for array in (first, second)]
    write_bytes(path, messages.field(1, data[0]) + messages.field(2, data[1]))


def to_array(datum: DatumProto, path: str | os.PathLike) -> AnyArray:
    """The array of a message; InputError if its shape and its values disagree."""
    kind = datum.WhichOneof("kind_oneof")
    if kind is None:
        raise InputError(f"{path}: damaged: an array of neither floats nor integers")
    values = _floats(datum.float_list)
    if kind == "uint32_list":
        values = np.fromiter(datum.uint32_list.value, np.uint32)
    shape = tuple(datum.shape.dim)
    good = len(shape) <= MAX_RANK and min(shape, default=0) >= 0
    if not good or math.prod(shape) != len(values):
        raise InputError(
            f"{path}: damaged: its shape does not fit {len(values)} values"
        )
    try:
        return values.reshape(shape)
    except (OverflowError, ValueError):  # Such as no rows, but 2**62 columns.
        raise InputError(f"{path}: damaged: no array has such a shape") from None


def encode_datum(array: AnyArray, path: str | os.PathLike = "array") -> bytes:
    """The bytes of an array; see `write_datum`. `path` is for the error alone."""
    dtype = array.dtype
    if dtype in (np.float16, np.float32, np.float64):
        number, values = 2, array.astype("<f4").tobytes()
    elif dtype.kind == "u":
        number, values = 3, messages.encode_varints(array.astype(np.uint32).ravel())
    else:
        raise InputError(
            f"{path}: arrays of {dtype} cannot be stored; make it float32 or uint32"
        )
    shape = messages.encode_varints(np.array(array.shape, np.int64))
    return messages.field(1, _packed(shape)) + messages.field(number, _packed(values))


def _packed(values: bytes) -> bytes:
    """The list `value` of a message; nothing if it is empty."""
    return messages.field(1, values) if values else b""


def _floats(message: Any) -> np.ndarray:
    """The values of a FloatList, without a Python number for each."""
    count = len(message.value)
    # Serialised, they lie in a row, in however many pieces the file had them.
    head = len(_packed(bytes(4 * count))) - 4 * count
    data = message.SerializeToString()
    return np.frombuffer(data, "<f4", count, head if count else 0).astype(np.float32)
