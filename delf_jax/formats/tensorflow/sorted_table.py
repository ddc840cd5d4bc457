"""Sorted tables of keys and values as LevelDB and TensorFlow write them, read.

Blocks of entries in a row, each key sharing the beginning of the one before; then a
block that says where those lie; then a footer that says where that one lies. See
https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

import struct
from collections.abc import Iterator

from delf_jax.formats.tensorflow import snappy, wire
from delf_jax.formats.tensorflow.crc32c import masked_crc32c

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5  # how a block is compressed, and its checksum
# Keys share beginnings, so that few bytes can stand for many; far above real tables.
_MOST_KEY_BYTES = 1 << 26


def read_table(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The keys and values of a table, keys in growing order; checksums are compared."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        reason = "its last bytes are not the magic number"
        raise wire.Malformed(f"not a table of keys: {reason}")
    # Handles: the offset and the size of a block.
    (_, _, *index), _ = wire.read_varints(memoryview(data)[-_FOOTER:], 4)
    end, last, key_bytes = 0, None, 0
    for _, handle in _read_block(data, *index):
        (offset, size), _ = wire.read_varints(handle, 2)
        if offset < end:  # Each byte is read once, whatever the file says.
            raise wire.Malformed("blocks that overlap")
        end = offset + size
        for key, value in _read_block(data, offset, size):
            if last is not None and key <= last:
                raise wire.Malformed("keys that do not grow")
            last, key_bytes = key, key_bytes + len(key)
            if key_bytes > _MOST_KEY_BYTES:
                raise wire.Malformed("keys of more than 64 MiB")
            yield key, value


def _read_block(
    data: bytes, offset: int, size: int
) -> Iterator[tuple[bytes, memoryview]]:
    """The keys and values of a block."""
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise wire.Malformed("a block reaches beyond the end")
    stored = struct.unpack_from("<I", data, end + 1)[0]
    if masked_crc32c(memoryview(data)[offset : end + 1]) != stored:
        raise wire.Malformed("the checksum of a block is wrong")
    block = memoryview(data)[offset:end]
    if data[end] == 1:
        block = memoryview(snappy.decompress(block))
    elif data[end] != 0:
        raise wire.Malformed(f"a block of compression {data[end]}, expected Snappy")
    return _read_entries(block)


def _read_entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The keys and values; where to start a search, at the end, is not used."""
    if len(block) < 4:
        raise wire.Malformed("a block is cut off")
    end = len(block) - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    place, key = 0, b""
    while place < end:
        (shared, unshared, length), place = wire.read_varints(block, 3, place)
        if shared > len(key) or unshared + length > end - place:
            raise wire.Malformed("an entry of a block is cut off")
        key = key[:shared] + bytes(block[place : place + unshared])
        place += unshared + length
        yield key, block[place - length : place]
    if place != end:
        raise wire.Malformed("a block is cut off")
