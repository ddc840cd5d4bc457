"""Pairs of photos that show one place, and where: what `fit pairs` finds, as a CSV."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from delf_jax.files import InputError
from delf_jax.formats import tables


class ConfirmedPair(NamedTuple):
    """Two photos, and what of the first the second shows, in parts of their sides."""

    image: str
    counterpart: str
    inliers: int
    yy: float
    """y of the counterpart is yy * y + yx * x + y0, its x is xy * y + xx * x + x0"""
    yx: float
    y0: float
    xy: float
    xx: float
    x0: float
    y_min: float
    """of the region of the first photo where matches lie"""
    x_min: float
    y_max: float
    x_max: float


def write_pairs(path: str | os.PathLike, pairs: Iterable[ConfirmedPair]) -> None:
    """Writes them, atomically."""
    tables.write_rows(path, ConfirmedPair._fields, pairs)


def read_pairs(path: str | os.PathLike) -> list[ConfirmedPair]:
    """The pairs of a file; InputError if it has none, or one without a region."""
    pairs = list(tables.read_rows(path, ConfirmedPair))
    for pair in pairs:
        if not (
            0 <= pair.y_min < pair.y_max <= 1 and 0 <= pair.x_min < pair.x_max <= 1
        ):
            raise InputError(
                f"{path}: {pair.image!r:.80} and {pair.counterpart!r:.80}: the region "
                "has no extent or leaves the photo; make the file anew with fit pairs"
            )
    if not pairs:
        raise InputError(f"{path}: no pairs are listed")
    return pairs
