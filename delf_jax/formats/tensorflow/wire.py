"""Protobuf's wire format, read without a schema, for the few fields that we need.

A message parsed is a dict: for each field number the values in the order of the file,
integers as they are and everything of a given length as a view of the bytes.
"""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped, UInt64

from delf_jax.files import InputError

Message = dict[int, list]

_VARINT, _BYTES = 0, 2
_FIXED_WIDTHS = {1: 8, 5: 4}


class Malformed(ValueError):
    """What is wrong with some bytes; whoever knows the file's name adds it."""


@contextlib.contextmanager
def blaming(path: str | os.PathLike) -> Iterator[None]:
    """A context in which malformed bytes are an InputError about `path`."""
    try:
        yield
    except Malformed as error:
        raise InputError(f"{path}: damaged or of another format ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise Malformed("a number is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise Malformed("a number of more than ten bytes")


def read_varints(
    data: bytes | memoryview, count: int, place: int = 0
) -> tuple[list[int], int]:
    """So many numbers one after the other, and the place behind them."""
    numbers = []
    for _ in range(count):
        number, place = read_varint(data, place)
        numbers.append(number)
    return numbers, place


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and the value of each field of a message, in the order of the file."""
    place = 0
    while place < len(data):
        tag, place = read_varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = read_varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = read_varint(data, place)
        elif kind in _FIXED_WIDTHS:
            length = _FIXED_WIDTHS[kind]
        else:
            raise Malformed(f"wire type {kind}, which nothing here has")
        if length > len(data) - place:
            raise Malformed("a field is longer than what holds it")
        content = data[place : place + length]
        place += length
        yield number, content if kind == _BYTES else int.from_bytes(content, "little")


def parse(data: memoryview) -> Message:
    """All fields of a message."""
    message: Message = {}
    for number, value in fields(data):
        message.setdefault(number, []).append(value)
    return message


def integer(message: Message, number: int) -> int:
    """The last value of a field as an int64, as protobuf understands repetition."""
    value = message.get(number, [0])[-1]
    if not isinstance(value, int):
        raise Malformed(f"field {number} is not a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def contents(message: Message, number: int) -> list[memoryview]:
    """The values of a repeated field of messages, bytes or text."""
    values = message.get(number, [])
    if any(isinstance(value, int) for value in values):
        raise Malformed(f"field {number} is a number")
    return values


def content(message: Message, number: int) -> memoryview:
    """The last value of such a field, empty if there is none."""
    return (contents(message, number) or [memoryview(b"")])[-1]


def decode(value: memoryview) -> str:
    """The text that the bytes hold."""
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise Malformed("a name is not UTF-8") from None


def text(message: Message, number: int) -> str:
    """The last value of a field of text."""
    return decode(content(message, number))


def mapping(message: Message, number: int) -> dict[str, memoryview]:
    """A field that maps text to messages."""
    pairs = map(parse, contents(message, number))
    return {text(pair, 1): content(pair, 2) for pair in pairs}


def packed_integers(message: Message, number: int) -> UInt64[np.ndarray, "N"]:
    """A repeated field of varints, packed or not."""
    values = message.get(number, [])
    parts = [_varints(v) if not isinstance(v, int) else [v] for v in values]
    return np.concatenate([np.array(part, np.uint64) for part in [[], *parts]])


def packed_floats(
    message: Message, number: int, dtype: np.dtype
) -> Shaped[np.ndarray, "N"]:
    """A repeated field of numbers of fixed width, packed or not."""
    width = dtype.itemsize
    raw = bytearray()
    for value in message.get(number, []):
        if isinstance(value, int):
            value = value.to_bytes(8, "little")[:width]
        raw += value
    if len(raw) % width:
        raise Malformed(f"field {number} holds no whole number of values")
    return np.frombuffer(bytes(raw), dtype)


def _varints(data: memoryview) -> UInt64[np.ndarray, "N"]:
    """Numbers in groups of seven bits, side by side."""
    groups = np.frombuffer(data, np.uint8)
    if not groups.size:
        return np.empty(0, np.uint64)
    ends = np.flatnonzero(groups < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts[: len(ends)] + 1
    if groups[-1] >= 0x80 or lengths.max() > 10:
        raise Malformed("a packed number is cut off or too long")
    shifts = 7 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    parts = (groups & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(parts, starts)
