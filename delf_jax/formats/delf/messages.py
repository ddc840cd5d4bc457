"""Serialised messages: files read whole and parsed, and the bytes of single fields."""

import os
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import Integer

from delf_jax import files
from delf_jax.files import InputError

# No implementation of protobuf reads or writes more.
MAX_BYTES = 2**31 - 1


def read_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a file; InputError if it cannot be read or is too long."""
    if os.path.exists(path) and not os.path.isfile(path):  # A FIFO is waited for.
        raise InputError(f"{path}: cannot be read (no regular file)")
    return files.read_bytes(path, MAX_BYTES)


def parse(data: bytes, kind: Any, path: str | os.PathLike) -> Any:
    """The message of a class `kind` in `data`; InputError, naming `path`, if none."""
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise InputError(f"{path}: damaged, or no {name} of DELF or DELG") from None


def field(number: int, data: bytes) -> bytes:
    """A field whose content, a message or a packed list, is `data`."""
    return bytes([number << 3 | 2]) + encode_varints(np.array([len(data)])) + data


def encode_varints(values: Integer[np.ndarray, "N"]) -> bytes:
    """Numbers >= 0 in groups of seven bits, lowest first; all but the last marked."""
    values = values.astype(np.uint64)
    width = max(1, -(-int(values.max(initial=0)).bit_length() // 7))
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    rest = values[:, None] >> shifts
    used, marked = rest > 0, rest >> np.uint64(7) > 0
    used[:, 0] = True  # zero has one group, too.
    groups = rest & np.uint64(0x7F) | marked * np.uint64(0x80)
    return groups.astype(np.uint8)[used].tobytes()
