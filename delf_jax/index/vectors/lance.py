"""LanceDB: a table in a folder, or in a bucket of s3:// or gs://.

Each change is a version, written whole or not at all. Up to EXACT rows a search looks
at all of them, up to GRAPHS at a graph of neighbours, and then at some of the cells
that rows are divided into, each row in few bytes; the best by these are compared again.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from delf_jax.files import InputError
from delf_jax.index.vectors.seam import (
    COLUMNS,
    Count,
    Owner,
    Photos,
    check_owner,
    format_owner,
)

TABLE = "photos"
# A name of the metadata of the table's schema.
_OWNER = b"delf_jax"
# Rows that are all looked at: LanceDB compares 100,000 numbers in a millisecond.
EXACT = 10_000
# Rows for which a graph is built: it finds more, but takes longer to build.
GRAPHS = 2_000_000
# For each one wanted, so many are compared again by all of their numbers.
_REFINED = 4
# With a graph, this many are kept on the way for each unit of effort.
_KEPT = 150
# When so many of the rows are not in the index yet, it is built anew.
_STALE = 0.25
# Ids in one condition.
_REMOVED = 2000


class LanceVectors:
    """A table that is open, at the version that it was opened or changed at."""

    def __init__(self, uri: str, owner: Owner, database: Any, table: Any):
        self._uri, self._owner = uri, owner
        self._database, self._table = database, table

    def add(self, photos: Iterator[Photos]) -> None:
        import pyarrow

        schema, failed = _schema(self._owner), list[InputError]()
        with _errors(self._uri, failed):
            batches = _batches(photos, schema, failed)
            reader = pyarrow.RecordBatchReader.from_batches(schema, batches)
            if self._table is None:
                self._table = self._database.create_table(TABLE, schema=schema)
            if not self._table.count_rows():
                self._table.add(reader)
            else:
                merge = self._table.merge_insert("id").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(reader)
            self._build()

    def remove(self, ids: Collection[str] | None) -> None:
        if self._table is None:
            return
        with _errors(self._uri):
            if ids is None:
                self._database.drop_table(TABLE)
                self._table = None
                return
            quoted = ["'" + id.replace("'", "''") + "'" for id in ids]
            for start in range(0, len(quoted), _REMOVED):
                some = ", ".join(quoted[start : start + _REMOVED])
                self._table.delete(f"id IN ({some})")

    def nearest(
        self,
        queries: Float[np.ndarray, "Q G"],
        k: int,
        where: str = "",
        effort: int = 0,
    ) -> list[list[str]]:
        found: list[list[str]] = [[] for _ in queries]
        if self._table is None or not len(queries):
            return found
        with _errors(self._uri):
            search = self._table.search(
                queries, vector_column_name="vector", query_type="vector"
            )
            search = search.distance_type("dot").limit(k).select(["id", "_distance"])
            if where:
                search = search.where(where, prefilter=True)
            if effort:
                kept = max(_KEPT * effort, k * _REFINED)
                search = search.nprobes(effort).ef(kept).refine_factor(_REFINED)
            else:
                search = search.bypass_vector_index()
            answer = search.to_arrow()
        of = [0] * len(answer)
        if "query_index" in answer.column_names:
            of = answer["query_index"].to_pylist()
        for query, id in zip(of, answer["id"].to_pylist(), strict=True):
            found[query].append(id)
        return found

    def count(self, where: str = "") -> Count:
        if self._table is None:
            return Count(0, "")
        try:
            with _errors(self._uri):
                rows = self._table.count_rows(where or None)
        except InputError as error:
            if not where:
                raise
            reason = str(error.__cause__).split("\n")[0].removeprefix("Invalid input, ")
            raise InputError(
                f"--where={where!r:.200}: {reason:.200}; write it in SQL, with "
                f"{', '.join(['id', *COLUMNS])}, such as \"folder = 'paris'\""
            ) from None
        return Count(rows, str(self._table.version))

    def _build(self) -> None:
        """The index for as many rows as there are, or what it lacks of them."""
        from lancedb import index

        rows = self._table.count_rows()
        if rows <= EXACT:
            return
        wanted = "IVF_HNSW_SQ" if rows <= GRAPHS else "IVF_PQ"
        for found in self._table.list_indices():
            stats = self._table.index_stats(found.name)
            if stats and (found.columns, stats.index_type) != (["vector"], wanted):
                continue
            if stats and stats.num_unindexed_rows <= _STALE * rows:
                self._table.optimize()
                return
        if wanted == "IVF_HNSW_SQ":
            config: Any = index.HnswSq(distance_type="dot")
        else:
            config = index.IvfPq(
                distance_type="dot", num_sub_vectors=_sub_vectors(self._owner.dimension)
            )
        self._table.create_index("vector", config=config, replace=True)


def open_table(uri: str, owner: Owner) -> LanceVectors:
    """The table at a URI; InputError if it is of another index, or cannot be opened."""
    try:
        import lancedb
    except ImportError:
        raise InputError(
            f"{uri}: a table of LanceDB needs its package: pip install "
            "'delf_jax[lance]'"
        ) from None
    with _errors(uri):
        database, table = lancedb.connect(uri), None
        if TABLE in _names(database):
            table = database.open_table(TABLE)
    if table is not None:
        text = (table.schema.metadata or {}).get(_OWNER, b"")
        check_owner(f"{uri}: its table {TABLE!r}", text.decode(), owner)
    return LanceVectors(uri, owner, database, table)


def _names(database: Any) -> list[str]:
    """The tables of a database, all pages of the list."""
    names, page = list[str](), None
    while True:
        answer = database.list_tables(page_token=page)
        names += answer.tables
        page = answer.page_token
        if not page:
            return names


def _schema(owner: Owner) -> Any:
    import pyarrow

    types = {str: pyarrow.string(), int: pyarrow.int64()}
    fields = [("id", pyarrow.string())]
    fields += [(name, types[kind]) for name, kind in COLUMNS.items()]
    fields.append(("vector", pyarrow.list_(pyarrow.float32(), owner.dimension)))
    return pyarrow.schema(fields, metadata={_OWNER: format_owner(owner)})


def _batches(
    photos: Iterator[Photos], schema: Any, failed: list[InputError]
) -> Iterator[Any]:
    """Rows as Arrow takes them; what goes wrong is listed, as Rust loses its type."""
    import pyarrow

    try:
        for ids, columns, descriptors in photos:
            values = pyarrow.array(np.ascontiguousarray(descriptors).ravel())
            vectors = pyarrow.FixedSizeListArray.from_arrays(
                values, descriptors.shape[1]
            )
            arrays = [
                pyarrow.array(each, type)
                for each, type in zip(
                    [ids, *columns.values()], schema.types[:-1], strict=True
                )
            ]
            yield pyarrow.record_batch([*arrays, vectors], schema=schema)
    except InputError as error:
        failed.append(error)
        raise


@contextlib.contextmanager
def _errors(uri: str, failed: list[InputError] | None = None) -> Iterator[None]:
    """A context in which what LanceDB raises is one sentence that names the table."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if failed:
            raise failed[0] from error
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split()).split(", /")[0]  # Of its source, a path.
        raise InputError(
            f"{uri}: LanceDB cannot read or write there ({reason:.200}); check the "
            "address and the rights, and run the same command again"
        ) from error


def _sub_vectors(dimension: int) -> int:
    """Parts of a descriptor that take a byte each: of eight numbers, if that fits."""
    return next(dimension // n for n in (8, 4, 2, 1) if dimension % n == 0)
