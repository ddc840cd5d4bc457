"""The seam: what an engine does for an index, in four functions.

Ids are text in UTF-8. An engine may keep rows wherever it likes; which photos there
are, and how alike they are, the feature store says.
"""

import json
from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from delf_jax.files import InputError

# What can be filtered by, beside `id`, and of which type it is.
COLUMNS: dict[str, type] = {
    "path": str,
    "folder": str,
    "bytes": int,
    "height": int,
    "width": int,
}


class Owner(NamedTuple):
    """Whose a table is, as the table itself says."""

    token: str
    """random, of one index"""
    model: str
    fingerprint: str
    dimension: int


class Photos(NamedTuple):
    """Some rows of a table."""

    ids: list[str]
    columns: dict[str, list]
    """of COLUMNS, in their order"""
    descriptors: Float[np.ndarray, "N G"]


class Count(NamedTuple):
    """What tells one state of a table from another."""

    rows: int
    version: str
    """another after each change; "" where an engine has none"""


@runtime_checkable
class Vectors(Protocol):
    """A table that is open."""

    def add(self, photos: Iterator[Photos]) -> None:
        """Adds photos, or puts them in the place of those with their ids.

        Builds what a search needs, also where none is added: the last call may have
        been killed before that.
        """
        ...

    def remove(self, ids: Collection[str] | None) -> None:
        """Removes photos, which need not be there; None: the whole table."""
        ...

    def nearest(
        self,
        queries: Float[np.ndarray, "Q G"],
        k: int,
        where: str = "",
        effort: int = 0,
    ) -> list[list[str]]:
        """The ids of some k photos with the largest products with each query.

        Args:
          where: a condition on COLUMNS.
          effort: how much of the table is looked at, from 1 on; 0: all of it.
        """
        ...

    def count(self, where: str = "") -> Count:
        """How many photos there are; InputError for a condition that is none."""
        ...


def format_owner(owner: Owner) -> str:
    """What a table keeps of its owner."""
    return json.dumps(owner)


def check_owner(table: str, text: str, expected: Owner) -> None:
    """InputError if a table is of another index, and if it is, model or dimension.

    Args:
      table: what it is called in the message.
      text: what it keeps, of `format_owner`; "": nothing.
    """
    other = "name another folder or bucket with --vectors"
    try:
        found = Owner(*json.loads(text))
    except (ValueError, TypeError):
        raise InputError(f"{table} was not made by this program; {other}") from None
    if found.token == expected.token:
        return
    if found.fingerprint != expected.fingerprint:
        raise InputError(
            f"{table} has descriptors of model {found.model} ({found.fingerprint:.8}), "
            f"not of {expected.model} ({expected.fingerprint:.8}); {other}"
        )
    if expected.dimension not in (0, found.dimension):
        raise InputError(
            f"{table} has descriptors of {found.dimension} dimensions, not of "
            f"{expected.dimension}; {other}"
        )
    raise InputError(f"{table} is of another index; {other}")
