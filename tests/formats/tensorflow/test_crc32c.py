"""The checksum of TensorFlow's files."""

import pytest

from delf_jax.formats.tensorflow.crc32c import masked_crc32c


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
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_published_checksums_come_out(data, expected, kind):
    masked = masked_crc32c(kind(data))
    turned = (masked - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned << 15 | turned >> 17) & 0xFFFFFFFF == expected


def test_a_record_of_tensorflow_is_masked_alike():
    record = bytes.fromhex("0300000000000000b099490e6162636e57f121")  # of b"abc"
    assert masked_crc32c(record[:8]) == int.from_bytes(record[8:12], "little")
    assert masked_crc32c(memoryview(record)[12:15]) == int.from_bytes(
        record[15:], "little"
    )
