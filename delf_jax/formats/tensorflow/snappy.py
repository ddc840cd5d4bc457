"""Blocks compressed with Snappy, decompressed; without the framing format.

https://github.com/google/snappy/blob/main/format_description.txt
"""

from delf_jax.formats.tensorflow import wire

# A copy turns three bytes into at most 64, and no element does better.
_LARGEST_RATIO = 22


def decompress(data: bytes | memoryview) -> bytes:
    """What was compressed; at most 22 times as long as `data`, or it is refused."""
    length, place = wire.read_varint(data, 0)
    if length > _LARGEST_RATIO * len(data):
        raise wire.Malformed("the length of a Snappy block is larger than possible")
    result = bytearray()
    while place < len(data):
        append = _copy if data[place] & 3 else _literal
        place = append(data, place, result)
        if len(result) > length:
            raise wire.Malformed("a Snappy block is longer than its length")
    if len(result) != length:
        raise wire.Malformed("a Snappy block is shorter than its length")
    return bytes(result)


def _literal(data: bytes | memoryview, place: int, result: bytearray) -> int:
    """Appends bytes that stand in the block themselves."""
    length, place = (data[place] >> 2) + 1, place + 1
    if length > 60:  # The length itself, less one, follows, in one to four bytes.
        width = length - 60
        length, place = _number(data, place, width) + 1, place + width
    if length > len(data) - place:
        raise wire.Malformed("a literal of a Snappy block is cut off")
    result += data[place : place + length]
    return place + length


def _copy(data: bytes | memoryview, place: int, result: bytearray) -> int:
    """Appends bytes that came before; they may overlap with what they make."""
    tag, place = data[place], place + 1
    if tag & 3 == 1:
        width, length = 1, (tag >> 2 & 7) + 4
        offset = (tag >> 5) << 8 | _number(data, place, 1)
    else:
        width, length = (2, 4)[tag & 1], (tag >> 2) + 1
        offset = _number(data, place, width)
    if not 0 < offset <= len(result):
        raise wire.Malformed("a copy of a Snappy block reaches before its beginning")
    start = len(result) - offset
    pattern = result[start : start + length]
    result += (pattern * (length // len(pattern) + 1))[:length]
    return place + width


def _number(data: bytes | memoryview, place: int, width: int) -> int:
    if width > len(data) - place:
        raise wire.Malformed("a Snappy block is cut off")
    return int.from_bytes(data[place : place + width], "little")
