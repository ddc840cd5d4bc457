"""Pickles of datasets, and the lists of numbers and ids in them, checked."""

import os
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from delf_jax import files
from delf_jax.files import InputError
from delf_jax.formats.pickles import arrays, unpickler

MAX_BYTES = 1 << 26  # of a pickle; that of SfM-120k has some 10 million.


def read_pickle(path: str | os.PathLike) -> Any:
    """What a pickle of plain data and numpy arrays holds; all else is refused."""
    content = files.read_bytes(path, MAX_BYTES)
    return unpickler.load(content, arrays.NUMPY, name=str(path))


def read_numbers(value: Any, where: str) -> Float[np.ndarray, " _"]:
    """A list or array of finite numbers, flat; InputError if it is not one."""
    try:
        numbers = np.asarray(value)
        if numbers.size and numbers.dtype.kind not in "iuf":
            raise ValueError
        numbers = numbers.astype(np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{where}: not a list of numbers") from None
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: has numbers that are not finite")
    return numbers


def read_ids(value: Any, where: str, first: int, count: int) -> Int[np.ndarray, " _"]:
    """Ids from 0 of ids from `first`, of `count` images; InputError for others."""
    numbers = read_numbers(value, where) - first
    wrong = numbers[(numbers < 0) | (numbers >= count) | (numbers % 1 != 0)]
    if len(wrong):
        raise InputError(
            f"{where}: {wrong[0] + first:g} is not an image; there are {count}, "
            f"counted from {first}"
        )
    return numbers.astype(np.int32)
