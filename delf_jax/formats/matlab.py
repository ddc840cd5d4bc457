"""MATLAB's MAT-files of level 5 (versions 5 to 7) as plain data.

Arrays of numbers become numpy arrays, text becomes str, cell arrays become lists and
struct arrays lists of dicts, both in MATLAB's order. Nothing else is read.

scipy.io.loadmat is not used because a damaged file can bring the process down: of 6061
copies of a file of 1176 bytes with one byte changed or the end cut off, 133 end scipy
1.17 by a segmentation fault.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from delf_jax import files
from delf_jax.files import InputError

MAX_BYTES = 1 << 26  # of the file, and of each variable once decompressed.
MAX_DEPTH = 8  # cells in cells.
_HEADER = 128
# Numbers of the format's element types and array classes.
_NUMBERS = dict(enumerate(["<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<f4"], 1))
_NUMBERS |= {9: "<f8", 12: "<i8", 13: "<u8"}
_MATRIX, _COMPRESSED = 14, 15
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CLASSES = dict(enumerate("f8 f4 i1 u1 i2 u2 i4 u4 i8 u8".split(), 6))
_COMPLEX = 1 << 11  # of the flags of an array.


class _Element(NamedTuple):
    kind: int
    data: memoryview


def read_mat(path: str | os.PathLike) -> dict[str, Any]:
    """The variables of a MAT-file by name; InputError if it is damaged."""
    data = files.read_bytes(path, MAX_BYTES)
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise InputError(f"{path}: a MAT-file of version 7.3; save it with -v7")
    if len(data) < _HEADER or data[124:128] != b"\x00\x01IM":
        raise InputError(f"{path}: not a little-endian MAT-file of version 5 to 7")
    try:
        return dict(_variables(memoryview(data)[_HEADER:]))
    except (ValueError, LookupError, struct.error, zlib.error, OverflowError) as error:
        raise InputError(f"{path}: damaged MAT-file ({error!s:.200})") from None


def _variables(data: memoryview) -> Iterator[tuple[str, Any]]:
    for element in _elements(data):
        if element.kind == _COMPRESSED:
            stream = zlib.decompressobj()
            plain = stream.decompress(element.data, MAX_BYTES)
            if not stream.eof:
                raise ValueError(
                    f"compressed data are cut, or larger than {MAX_BYTES} bytes"
                )
            (element,) = _elements(memoryview(plain))
        if element.kind != _MATRIX:
            raise ValueError(
                f"expected an array, got an element of type {element.kind}"
            )
        yield _array(element.data, 0)


def _elements(data: memoryview) -> Iterator[_Element]:
    """The elements that lie in `data` one after the other, each cut to its size."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        start, end = place + 8, place + 8 + size
        place = end if kind == _COMPRESSED else end + -size % 8
        if kind >> 16:  # up to four bytes stand in the tag itself.
            kind, size = kind & 0xFFFF, kind >> 16
            start, end, place = start - 4, start - 4 + size, start
            if size > 4:
                raise ValueError(f"expected at most 4 bytes, got {size}")
        if end > len(data):
            raise ValueError("an element is longer than the file")
        yield _Element(kind, data[start:end])


def _array(data: memoryview, depth: int) -> tuple[str, Any]:
    """Name and value of an array."""
    if not len(data):
        return "", np.zeros((0, 0))
    if depth > MAX_DEPTH:
        raise ValueError(f"cells nested deeper than {MAX_DEPTH}")
    flags, dimensions, name, *content = _elements(data)
    word = int(_numbers(flags)[0])
    shape = [int(side) for side in _numbers(dimensions)]
    if min(shape) < 0:
        raise ValueError("an array of negative size")
    kind = word & 0xFF
    if word & _COMPLEX:
        raise ValueError("complex numbers are not read")
    if kind == _CELL:
        value: Any = _cells(content, shape, depth)
    elif kind == _STRUCT:
        value = _structs(content, shape, depth)
    elif kind == _CHAR:
        value = _text(content, shape)
    elif kind in _CLASSES:
        (numbers,) = map(_numbers, content)
        value = numbers.astype(_CLASSES[kind]).reshape(shape, order="F")
    else:
        raise ValueError(f"arrays of class {kind} are not read")
    return bytes(name.data).decode("ascii"), value


def _numbers(element: _Element) -> np.ndarray:
    return np.frombuffer(element.data, _NUMBERS[element.kind])


def _cells(content: list[_Element], shape: list[int], depth: int) -> list[Any]:
    if len(content) != math.prod(shape):
        raise ValueError(f"{len(content)} cells in an array of shape {shape}")
    if any(element.kind != _MATRIX for element in content):
        raise ValueError("a cell that is not an array")
    return [_array(element.data, depth + 1)[1] for element in content]


def _structs(
    content: list[_Element], shape: list[int], depth: int
) -> list[dict[str, Any]]:
    width, names, *values = content
    length = int(_numbers(width)[0])
    text = bytes(names.data)
    if length < 1 or len(text) % length:
        raise ValueError("the names of a struct's fields are cut")
    fields = [
        text[start : start + length].split(b"\0")[0].decode("ascii")
        for start in range(0, len(text), length)
    ]
    if len(set(fields)) < len(fields):
        raise ValueError("a struct names a field twice")
    count = math.prod(shape)
    if count and not fields:
        raise ValueError("a struct without fields")
    cells = _cells(values, [count, len(fields)], depth)
    return [
        dict(zip(fields, cells[first : first + len(fields)], strict=True))
        for first in range(0, len(cells), len(fields) or 1)
    ]


def _text(content: list[_Element], shape: list[int]) -> str:
    (characters,) = content
    text = bytes(characters.data).decode(_ENCODINGS[characters.kind])
    if len(text) != math.prod(shape) or len(shape) != 2 or shape[0] > 1:
        raise ValueError(f"text of {len(text)} characters and shape {shape}")
    return text
