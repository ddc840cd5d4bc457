import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.formats.tensorflow import sorted_table, wire
from delf_jax.formats.tensorflow.crc32c import masked_crc32c
from tests.helpers import tensorflow_files

ITEMS = [(f"layer_{n // 7}/unit_{n:03d}".encode(), bytes([n] * n)) for n in range(50)]


def read(data):
    return [(key, bytes(value)) for key, value in sorted_table.read_table(data)]


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 18])
def test_keys_and_values_come_back(snappy, block_bytes):
    assert read(tensorflow_files.table(ITEMS, block_bytes, snappy)) == ITEMS


@given(st.dictionaries(st.binary(max_size=9), st.binary(max_size=9)), st.booleans())
def test_any_keys_and_values_come_back(items, snappy):
    assert read(tensorflow_files.table(sorted(items.items()), 20, snappy)) == sorted(
        items.items()
    )


def test_a_changed_byte_is_noticed_or_without_effect():
    data = tensorflow_files.table(ITEMS[:9], 30, snappy=True)
    for broken in tensorflow_files.damaged(data):
        try:
            assert read(broken) == ITEMS[:9]
        except wire.Malformed:
            pass


def test_a_changed_byte_with_a_right_checksum_is_no_other_error():
    data = tensorflow_files.table(ITEMS[:9])
    size = wire.read_varint(data[-48:], 0)[0] - 5  # of the block of entries
    for block in tensorflow_files.damaged(data[:size]):
        checksum = struct.pack("<I", masked_crc32c(block + b"\0"))
        if len(block) == size:
            try:
                read(block + b"\0" + checksum + data[size + 5 :])
            except wire.Malformed:
                pass


def test_a_block_that_is_named_twice_is_malformed():
    # Each key of the index costs bytes, so that no file makes more work than its size.
    block = b"\0\0\0\0\1\0\0\0"
    block += b"\0" + struct.pack("<I", masked_crc32c(block + b"\0"))
    index = b"".join(b"\0\1\2" + key + b"\0\x08" for key in (b"a", b"b"))
    index += struct.pack("<2I", 0, 1)
    index += b"\0" + struct.pack("<I", masked_crc32c(index + b"\0"))
    footer = tensorflow_files.varint(0) * 2 + tensorflow_files.varint(len(block))
    footer = (footer + tensorflow_files.varint(len(index) - 5)).ljust(40, b"\0")
    data = block + index + footer + struct.pack("<Q", 0xDB4775248B80FB57)
    with pytest.raises(wire.Malformed, match="overlap"):
        read(data)


def test_keys_must_grow():
    with pytest.raises(wire.Malformed, match="do not grow"):
        read(tensorflow_files.table([(b"b", b""), (b"a", b"")]))
    with pytest.raises(wire.Malformed, match="do not grow"):
        read(tensorflow_files.table([(b"a", b""), (b"a", b"")], block_bytes=1))


def test_long_keys_of_few_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(sorted_table, "_MOST_KEY_BYTES", 10_000)
    items = [(b"\0" * 1000 + bytes([n]), b"") for n in range(11)]
    data = tensorflow_files.table(items)
    assert len(data) < 10_000
    with pytest.raises(wire.Malformed, match="64 MiB"):
        read(data)


@pytest.mark.parametrize("data", [b"", b"\0" * 48, b"a" * 100])
def test_other_files_are_no_table(data):
    with pytest.raises(wire.Malformed, match="not a table"):
        read(data)
