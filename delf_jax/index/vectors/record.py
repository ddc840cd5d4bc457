"""What an index knows of its table: vectors.json, and vectors-rows.json beside it.

The first says where the table is, of which state of the store, and how much it finds;
the second which photos were put there, by stamps that change with the photo. A table
is changed between two writes of both: what a killed run may have put there is known.
"""

import pathlib
from typing import Any, NamedTuple

from delf_jax.files import InputError
from delf_jax.manifests import (
    COUNT,
    PATH,
    Is,
    one_of,
    owned,
    read_manifest,
    write_manifest,
)

FORMAT = 1
NAME, ROWS = "vectors.json", "vectors-rows.json"
# In the folder of the index, where no URI is named.
FOLDER = "vectors"
_SHARE = Is("a number from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1)
SCHEMA = {
    "format": one_of(FORMAT),
    "engine": str,
    "uri": PATH,
    "token": str,
    "dimension": COUNT,
    "state": str,
    "rows": COUNT,
    "version": str,
    "effort": COUNT,
    "recall": _SHARE,
    "measured": COUNT,
    "least": _SHARE,
}
_REPAIR = "remove it, and index the photos again with --vectors"


class Record(NamedTuple):
    """What an index knows of its table."""

    engine: str
    uri: str
    """"": the folder beside"""
    token: str
    """random; the table has it, too"""
    least: float
    """recall below which the table is not searched"""
    dimension: int = 0
    state: str = ""
    """of the store; "": the table is being changed"""
    rows: int = 0
    version: str = ""
    effort: int = 0
    recall: float = 0.0
    """share of the most similar that are found with this effort"""
    measured: int = 0
    """photos that the recall was measured on"""


def read_record(directory: pathlib.Path) -> Record | None:
    """What an index knows of its table; None if it has none."""
    path = directory / NAME
    if not path.exists():
        return None
    content = read_manifest(path, SCHEMA, _REPAIR)
    return Record(*(content[name] for name in Record._fields))


def write_record(directory: pathlib.Path, record: Record) -> None:
    write_manifest(directory / NAME, {"format": FORMAT, **record._asdict()})


def read_rows(directory: pathlib.Path) -> dict[str, str] | None:
    """The photos that a table may have, with their stamps; "": it is not known whether.

    None if that is absent, damaged, or noted: then nothing is known of the table.
    """
    try:
        schema: dict[str, Any] = {"rows": {str: str}}
        return read_manifest(directory / ROWS, schema, _REPAIR)["rows"]
    except (InputError, OSError):
        return None


def write_rows(directory: pathlib.Path, rows: dict[str, str] | None) -> None:
    write_manifest(directory / ROWS, {"rows": rows})


def place_of(directory: pathlib.Path, record: Record) -> str:
    """The URI of the table."""
    return record.uri or str(owned(directory / FOLDER))
