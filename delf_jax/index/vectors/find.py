"""The candidates of queries from a table, as similar as the store says they are."""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.files import InputError, encode_name
from delf_jax.index.vectors import measure, record
from delf_jax.index.vectors.engines import made_by, open_vectors
from delf_jax.index.vectors.record import Record, place_of
from delf_jax.index.vectors.seam import Vectors
from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import Best, Rows
from delf_jax.store.feature_store import FeatureStore

# Of so many photos that match a condition, all are looked at: they may lie anywhere.
_FEW = 50_000
# Recall is measured for the hundred nearest: of many more, all are looked at.
_MANY = 10 * measure.NEAREST


class Table(NamedTuple):
    """A table that can be searched."""

    vectors: Vectors
    store: FeatureStore
    rows: dict[str, int]
    """of the store, by the ids of the table"""
    size: int
    """photos that can be found"""
    where: str
    effort: int
    """0: all are looked at"""


def has_table(directory: pathlib.Path) -> bool:
    """Whether an index has a table, as it is known there."""
    return (directory / record.NAME).exists()


def open_table(
    directory: pathlib.Path, store: FeatureStore, where: str, mend: str
) -> Table:
    """The table of an index; InputError if it is not what the index knows of it.

    Args:
      where: a condition on what can be found; "": none.
      mend: the command that brings it up to date.
    """
    known = record.read_record(directory)
    if known is None:
        raise InputError(
            f"{directory}: has no table, which --where goes with; make one with: "
            f"{mend} --vectors=lancedb"
        )
    place = place_of(directory, known)
    vectors = open_vectors(directory, known, *made_by(store))
    if not known.state:
        raise InputError(
            f"{place}: a run that was changing this table has not ended; finish it "
            f"with: {mend}"
        )
    count = vectors.count()
    if known.state != store.state or count != (known.rows, known.version):
        raise InputError(
            f"{place}: this table (version {count.version}, {count.rows} photos) does "
            f"not match {directory} (version {known.version}, {len(store)} photos); "
            f"bring it up to date with: {mend}"
        )
    check_recall(directory, known)
    effort = known.effort
    if where:
        count = vectors.count(where)
        effort = effort if count.rows > _FEW else 0
        if not count.rows:
            raise InputError(f"--where={where!r:.200}: matches no photo of {directory}")
    return Table(vectors, store, row_ids(store), count.rows, where, effort)


def find_nearest(
    table: Table, queries: Float[np.ndarray, "Q G"], k: int
) -> list[tuple[Float[np.ndarray, " K"], Int[np.ndarray, " K"]]]:
    """(similarities, rows) of each query, best first; of equals the lower row.

    Similarities are those that an exact search gives.
    """
    if not len(queries):
        return []
    queries = np.asarray(queries, np.float32)
    effort = table.effort if k <= _MANY else 0
    k = min(k, table.size)
    found = table.vectors.nearest(queries, k, table.where, effort)
    if effort and any(len(ids) < k for ids in found):  # Those that match lie elsewhere.
        found = table.vectors.nearest(queries, k, table.where)
    answers = []
    for query, ids in zip(queries[:, None], found, strict=True):
        if not table.rows.keys() >= {*ids}:
            raise InputError(f"{table.store.path}: its table has changed; search again")
        rows = np.array([table.rows[id] for id in ids], np.int64)
        values = nearest.compare(Rows(query), Rows(table.store.read_global(rows)))
        best = nearest.sort_best(Best(values[None], rows[None]), k)
        answers.append((best.similarities[0], best.ids[0]))
    return answers


def check_recall(directory: pathlib.Path, known: Record) -> None:
    """InputError if a table finds less than is wanted."""
    if known.rows and known.recall < known.least:
        raise InputError(
            f"{place_of(directory, known)}: this table finds {known.recall:.2%} of the "
            f"{measure.NEAREST} most similar, less than --recall={known.least:g}; "
            f"accept that with --vectors={known.engine}{':' * bool(known.uri)}"
            f"{known.uri} --recall={int(known.recall * 100) / 100:g}, or remove "
            f"{directory / record.NAME} to search exactly"
        )


def summary(directory: str | os.PathLike) -> str:
    """A line on the table of an index; "" if it has none."""
    directory = pathlib.Path(directory)
    known = record.read_record(directory)
    if known is None:
        return ""
    text = f"{place_of(directory, known)}: {known.rows} photos in {known.engine}"
    text += f", version {known.version}" if known.version else ""
    nearest_few = min(measure.NEAREST, max(known.rows - 1, 1))
    return (
        f"{text}; finds {known.recall:.2%} of the {nearest_few} most similar "
        f"(measured on {known.measured} photos, effort {known.effort})"
    )


def row_ids(store: FeatureStore) -> dict[str, int]:
    """Rows of a store by the ids that a table has, in their order."""
    rows = {text_of(id): row for row, id in enumerate(store.ids)}
    if len(rows) < len(store):
        raise InputError(
            f"{store.path}: two names of photos differ in bytes that are not UTF-8 "
            "alone; give one of them another name"
        )
    return rows


def text_of(name: str) -> str:
    """A name as UTF-8: of other bytes, what is written for them."""
    if name.isascii():
        return name
    return encode_name(name).decode("utf-8", "backslashreplace")
