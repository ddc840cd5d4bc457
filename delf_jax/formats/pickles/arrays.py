"""Numpy arrays in pickles: the functions that a pickle calls to make one, made safe."""

import math
import re
from typing import Any

import numpy as np

_NUMBERS = re.compile("b1|[iu][1248]|f[248]")


def dtype_state(state: Any) -> tuple:
    """What dtype.__setstate__ may take: a byte order and nothing structured."""
    version, order, subarray, names, fields = state[:5]
    if order not in ("<", ">", "=", "|") or (subarray, names, fields) != (None,) * 3:
        raise ValueError("a dtype that is not plain numbers")
    return 3, order, None, None, None, -1, -1, 0


def array_state(state: Any) -> tuple:
    """What ndarray.__setstate__ may take: the bytes of its shape and dtype."""
    version, shape, dtype, is_fortran, raw = state
    raw = _as_bytes(raw)
    _check_size(raw, shape, dtype)
    return 1, shape, dtype, bool(is_fortran), raw


def _dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
        raise ValueError(f"a dtype {code!r:.40} that is not plain numbers")
    return np.dtype(code, copy=True)  # One of our own: the pickle sets its byte order.


def _ndarray(*arguments: Any) -> None:
    raise ValueError("a call of ndarray")


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """An empty array, which the pickle fills."""
    if kind is not _ndarray:
        raise ValueError("a subclass of ndarray")
    return np.empty(0, np.int8)


def _scalar(dtype: Any, raw: Any) -> Any:
    return _frombuffer(_as_bytes(raw), dtype, (), "C")[()]


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    _check_size(raw, shape, dtype)
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes as protocols up to 2 write them."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"an encoding {encoding!r:.40}")
    return _as_bytes(text)


def _as_bytes(raw: Any) -> bytes:
    """Python 2 has bytes and text in one type, which is read as latin-1."""
    return raw.encode("latin-1") if isinstance(raw, str) else raw


def _check_size(raw: Any, shape: Any, dtype: Any) -> None:
    if not isinstance(raw, bytes) or not isinstance(dtype, np.dtype):
        raise TypeError("an array without bytes or without a dtype")
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise TypeError("an array without a shape")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("an array of negative size")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of {shape} {dtype}")


# numpy._core was numpy.core before numpy 2.
NUMPY = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",
    ("builtins", "bytes"): lambda: b"",
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}
