"""TensorFlow's types, shapes and tensors as its messages spell them.

Field numbers are those of tensorflow/core/framework/{types,tensor_shape,tensor}.proto.
"""

import math

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from delf_jax.formats.tensorflow import wire

# half, float, double and bfloat16
FLOATING = (19, 1, 2, 14)

_STRING = 7
_CODES = dict(enumerate("<f4 <f8 <i4 u1 <i2 i1 O <c8 <i8 ?".split(), 1))
_CODES |= {17: "<u2", 18: "<c16", 19: "<f2", 22: "<u4", 23: "<u8"}
_DTYPES = {number: np.dtype(code) for number, code in _CODES.items()}
_DTYPES[14] = np.dtype(ml_dtypes.bfloat16)
# The field of a TensorProto that lists values, where the bytes are not there as one.
_FIXED_FIELDS = {1: 5, 2: 6, 8: 9, 18: 12}
_VARINT_FIELDS = dict.fromkeys((3, 4, 5, 6, 17), 7)
_VARINT_FIELDS |= {9: 10, 10: 11, 14: 13, 19: 13, 22: 16, 23: 17}
# Constants are often one value repeated, which takes no memory here but does where it
# is computed with; no layer has a constant weight of more. Two and more values, of
# which the last is repeated, are only met in small constants.
_LARGEST_REPEATED = 1 << 24
_LARGEST_FILLED = 1 << 20
_LARGEST_RANK = 32


def dtype_of(number: int) -> np.dtype:
    """The type; object for text and for types that numpy lacks."""
    return _DTYPES.get(number, np.dtype(object))


def check_dtype(number: int) -> None:
    """Refuses types that cannot be read, by their number."""
    if number not in _DTYPES:
        raise wire.Malformed(f"values of TensorFlow's type {number} are not supported")


def parse_shape(data: memoryview) -> tuple[int, ...]:
    """The shape in a TensorShapeProto, -1 for sizes that are left open."""
    message = wire.parse(data)
    if wire.integer(message, 3):
        raise wire.Malformed("a shape of unknown rank")
    dimensions = wire.contents(message, 2)
    shape = tuple(wire.integer(wire.parse(d), 1) for d in dimensions)
    if len(shape) > _LARGEST_RANK or any(size < -1 for size in shape):
        raise wire.Malformed("a shape that no array has")
    return shape


def count_bytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """The bytes of an array; refuses sizes that numpy could not even name."""
    if any(size < 0 for size in shape):
        raise wire.Malformed("an array of which a size is left open")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 1 << 62:
        raise wire.Malformed("a shape that no array has")
    return math.prod(shape) * dtype.itemsize


def array_of(
    raw: bytes | memoryview, dtype: np.dtype, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "..."]:
    """The array of some bytes, without a copy."""
    if len(raw) != count_bytes(dtype, shape):
        raise wire.Malformed(f"{len(raw)} bytes for {dtype} {list(shape)}")
    if dtype == np.bool_:  # Bytes other than 0 and 1 would make odd truths.
        return np.frombuffer(raw, np.uint8).reshape(shape) != 0
    return np.frombuffer(raw, dtype).reshape(shape)


def read_tensor(tensor: wire.Message) -> Shaped[np.ndarray, "..."]:
    """The array that a TensorProto holds, in whichever of its fields."""
    number = wire.integer(tensor, 1)
    check_dtype(number)
    dtype, shape = dtype_of(number), parse_shape(wire.content(tensor, 2))
    count_bytes(dtype, shape)
    if number == _STRING:
        texts = [bytes(value) for value in wire.contents(tensor, 8)]
        return _fill(np.array(texts, object), shape)
    if raw := wire.content(tensor, 4):
        return array_of(raw, dtype, shape)
    if number in _FIXED_FIELDS:
        return _fill(wire.packed_floats(tensor, _FIXED_FIELDS[number], dtype), shape)
    values = wire.packed_integers(tensor, _VARINT_FIELDS[number])
    if _VARINT_FIELDS[number] == 13:  # half_val: bits
        return _fill(values.astype(np.uint16).view(dtype), shape)
    return _fill(values.astype(dtype), shape)


def _fill(
    values: Shaped[np.ndarray, "N"], shape: tuple[int, ...]
) -> Shaped[np.ndarray, "..."]:
    """The values as an array; missing ones are like the last, or zero if all miss."""
    count = math.prod(shape)
    if len(values) > count:
        raise wire.Malformed(f"{len(values)} values for {list(shape)}")
    if len(values) == count:
        return values.reshape(shape)
    if count > (_LARGEST_REPEATED if len(values) < 2 else _LARGEST_FILLED):
        raise wire.Malformed(f"only {len(values)} values for {list(shape)}")
    if len(values) < 2:
        return np.broadcast_to(np.resize(values, ()), shape)  # Of none it makes 0.
    return np.pad(values, (0, count - len(values)), mode="edge").reshape(shape)
