"""The wire format of tf.train.Example, read and written without TensorFlow.

An example maps names to lists of bytes, of floats or of integers. Integers and bytes
are read, the latter as views; lists of floats, which no dataset here has, are skipped.
"""

from collections.abc import Iterator, Mapping

Features = dict[str, list[int] | list[memoryview]]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of tf.train.Feature.


def parse_example(data: memoryview) -> Features:
    """The features of a serialised example; ValueError if it is none."""
    features: Features = {}
    for entry in _messages(data, 1, 1):
        name, values = "", []
        for number, value in _fields(entry):
            if number == 1 and isinstance(value, memoryview):
                name = bytes(value).decode("utf-8")
            elif number == 2 and isinstance(value, memoryview):
                values = _values(value)
        features[name] = values
    return features


def serialize_example(features: Mapping[str, int | bytes]) -> bytes:
    """An example with one value for each name."""
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _wrap(_BYTES_LIST, _wrap(1, value))
        else:
            packed = _encode_varint(value & (1 << 64) - 1)
            feature = _wrap(_INT64_LIST, _wrap(1, packed))
        entries.append(_wrap(1, _wrap(1, name.encode("utf-8")) + _wrap(2, feature)))
    return _wrap(1, b"".join(entries))


def _values(feature: memoryview) -> list[int] | list[memoryview]:
    """What a tf.train.Feature holds; of several lists the last one counts."""
    values: list = []
    for number, content in _fields(feature):
        if not isinstance(content, memoryview):
            continue
        if number == _BYTES_LIST:
            values = list(_messages(content, 1))
        elif number == _INT64_LIST:
            values = _integers(content)
    return values


def _integers(message: memoryview) -> list[int]:
    """The 64-bit integers of field 1, packed or one by one."""
    values = []
    for number, content in _fields(message):
        if number == 1 and isinstance(content, memoryview):
            place = 0
            while place < len(content):
                value, place = _decode_varint(content, place)
                values.append(value)
        elif number == 1 and content is not None:
            values.append(content)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _messages(data: memoryview, *numbers: int) -> Iterator[memoryview]:
    """The messages (or bytes) at fields within fields."""
    for number, content in _fields(data):
        if number == numbers[0] and isinstance(content, memoryview):
            if len(numbers) == 1:
                yield content
            else:
                yield from _messages(content, *numbers[1:])


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview | None]]:
    """Numbers and contents of the fields of a message; None for fixed-size numbers."""
    place = 0
    while place < len(data):
        tag, place = _decode_varint(data, place)
        kind, content = tag & 7, None
        if kind == _VARINT:
            content, place = _decode_varint(data, place)
        elif kind == _BYTES:
            size, place = _decode_varint(data, place)
            content = data[place : place + size]
            place += size
        elif kind in (_FIXED32, _FIXED64):
            place += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of type {kind}")
        if place > len(data):
            raise ValueError("a field is longer than the message")
        yield tag >> 3, content


def _decode_varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number below 2^64 in groups of seven bits, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place
    raise ValueError("a number without end")


def _encode_varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _wrap(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _encode_varint(len(content)) + content
