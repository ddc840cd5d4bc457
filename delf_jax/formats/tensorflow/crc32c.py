"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, masked as in them."""

import google_crc32c

_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


def masked_crc32c(data: bytes | memoryview) -> int:
    """The checksum as TensorFlow stores it: of data that hold checksums themselves."""
    value = google_crc32c.value(bytes(data))  # It takes no memoryview.
    return (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF
