"""The checksum of TensorFlow's files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.formats.tensorflow.crc32c import crc32c, masked_crc32c


def _eight_steps(state: int) -> int:
    for _ in range(8):
        state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state


STEPS = [_eight_steps(byte) for byte in range(256)]


def byte_by_byte(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state = STEPS[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (b"\0" * 32, 0x8A9136AA),  # this and the next ones from RFC 3720, B.4.
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_checksums_come_out(data, expected):
    assert crc32c(data) == expected


@given(size=st.integers(0, 3000), offset=st.integers(0, 9), seed=st.integers(0, 99))
def test_the_lanes_give_what_single_bytes_give(size, offset, seed):
    data = np.random.default_rng(seed).bytes(size + offset)
    assert crc32c(memoryview(data)[offset:]) == byte_by_byte(data[offset:])


@pytest.mark.parametrize("size", [(1 << 20) - 1, (1 << 20) + 257, (2 << 20) + 5])
def test_blocks_continue_each_other(size, rng):
    data = rng.bytes(size)
    assert crc32c(data) == byte_by_byte(data)


def test_a_record_of_tensorflow_is_masked_alike():
    record = bytes.fromhex("0300000000000000b099490e6162636e57f121")  # of b"abc"
    assert masked_crc32c(record[:8]) == int.from_bytes(record[8:12], "little")
    assert masked_crc32c(b"abc") == int.from_bytes(record[15:], "little")
