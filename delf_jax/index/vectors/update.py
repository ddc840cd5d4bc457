"""The table of an index, brought up to date with its store."""

import pathlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from delf_jax.files import InputError, changing, digest
from delf_jax.index.global_index import check_finite
from delf_jax.index.photo_places import Places, read_places
from delf_jax.index.vectors import measure, record
from delf_jax.index.vectors.engines import made_by, open_vectors, parse_engine
from delf_jax.index.vectors.find import check_recall, row_ids, text_of
from delf_jax.index.vectors.record import Record, place_of
from delf_jax.index.vectors.seam import Photos, Vectors
from delf_jax.progress import track
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore

# Recall of the hundred nearest below which a table is refused, unless that is asked.
LEAST = 0.95
# Photos handed to an engine at once.
_BATCH = 8192


class Wanted(NamedTuple):
    """The table that an index is to have."""

    engine: str
    """as of `parse_engine`"""
    least: float = LEAST


class _Change(NamedTuple):
    """What a table lacks, and what it has too much."""

    anew: bool
    """nothing is known of what is in it"""
    stamps: dict[str, str]
    todo: list[int]
    """rows of the store"""
    gone: list[str]


def check(
    directory: pathlib.Path, model: str, fingerprint: str, wanted: Wanted | None
) -> None:
    """InputError, before photos are extracted, if the table cannot be opened.

    Args:
      model, fingerprint: of global descriptors.
    """
    target, _ = _records(directory, wanted)
    if target is not None:
        open_vectors(directory, target, model, fingerprint)


def update(
    directory: pathlib.Path, wanted: Wanted | None = None, *, progress: bool = True
) -> None:
    """Puts what is new or changed in the store into the table, and removes the rest.

    Nothing happens where there is no table and none is wanted. InputError if the table
    finds less than is wanted.
    """
    with changing(directory):
        target, known = _records(directory, wanted)
        if target is None:
            return
        store = feature_store.open_store(directory / "store")
        places = read_places(directory)
        if len(store):
            target = target._replace(dimension=_dimension(store))
        vectors = open_vectors(directory, target, *made_by(store))
        change = _compare(directory, vectors, store, places, known, target)
        if (
            known == target
            and target.state == store.state
            and not any((change.anew, change.todo, change.gone))
        ):
            check_recall(directory, target)
            return
        target = target._replace(state="")
        _change(directory, vectors, store, places, change, target, progress)
        found = measure.measure(
            vectors, store, row_ids(store), target.least, progress=progress
        )
        rows, version = vectors.count()
        if rows != len(store):
            record.write_rows(directory, None)
            raise InputError(
                f"{place_of(directory, target)}: has {rows} photos after all were put "
                f"there, expected {len(store)}; run the same command again"
            )
        target = target._replace(
            state=store.state,
            rows=rows,
            version=version,
            effort=found.effort,
            recall=found.share,
            measured=found.photos,
        )
        record.write_record(directory, target)
        check_recall(directory, target)


def _records(
    directory: pathlib.Path, wanted: Wanted | None
) -> tuple[Record | None, Record | None]:
    """What is to be known of the table, and what was, if it stays where it is."""
    known = record.read_record(directory)
    if wanted is None:
        return known, known
    engine, uri = parse_engine(wanted.engine)
    if known is not None and (known.engine, known.uri) == (engine, uri):
        return known._replace(least=wanted.least), known
    return Record(engine, uri, secrets.token_hex(8), wanted.least), None


def _dimension(store: FeatureStore) -> int:
    """Of the global descriptors; InputError if there are none."""
    return store.read_global([0]).shape[1]


def _compare(
    directory: pathlib.Path,
    vectors: Vectors,
    store: FeatureStore,
    places: Places,
    known: Record | None,
    target: Record,
) -> _Change:
    """What has to be done; all anew where somebody else has changed the table."""
    rows = record.read_rows(directory) if known else {}
    anew = (
        rows is None
        or (known is not None and known.dimension != target.dimension)
        or (target.state != "" and vectors.count() != (target.rows, target.version))
    )
    rows = {} if anew or rows is None else rows
    stamps = _stamps(store, places)
    todo = [
        row for row, (id, stamp) in enumerate(stamps.items()) if rows.get(id) != stamp
    ]
    return _Change(anew, stamps, todo, sorted(rows.keys() - stamps.keys()))


def _change(
    directory: pathlib.Path,
    vectors: Vectors,
    store: FeatureStore,
    places: Places,
    change: _Change,
    target: Record,
    progress: bool,
) -> None:
    """Does it, between two notes of what may be there."""
    unsure = dict.fromkeys(
        [*change.gone, *(text_of(store.ids[r]) for r in change.todo)]
    )
    record.write_record(directory, target)
    record.write_rows(directory, change.stamps | dict.fromkeys(unsure, ""))
    if change.anew or not len(store):
        vectors.remove(None)
    elif change.gone:
        vectors.remove(change.gone)
    if len(store):
        with track("table", len(change.todo), "photo", progress=progress) as advance:
            vectors.add(_photos(store, places, change.todo, advance))
    record.write_rows(directory, change.stamps)


def _stamps(store: FeatureStore, places: Places) -> dict[str, str]:
    """By id, in the order of the store: another once a row of the table is another."""
    key = store.manifest["key"]
    stamps = zip(row_ids(store), store.ids, store.stamps, strict=True)
    return {
        text: digest([key, stamp, str(places.file(id))], 16)
        for text, id, stamp in stamps
    }


def _photos(
    store: FeatureStore, places: Places, rows: Sequence[int], advance: Any
) -> Iterator[Photos]:
    """Rows of the table, from rows of the store."""
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        descriptors = store.read_global(some)
        check_finite(store, some, descriptors)
        ids = [store.ids[row] for row in some]
        found = [store.records[id] for id in ids]
        sizes = [place.shard.arrays["image_sizes"][place.row] for place in found]
        columns: dict[str, list] = {
            "path": [text_of(str(places.file(id))) for id in ids],
            "folder": [text_of(id.rpartition("/")[0]) for id in ids],
            "bytes": [place.record.file_size for place in found],
            "height": [int(size[0]) for size in sizes],
            "width": [int(size[1]) for size in sizes],
        }
        yield Photos([text_of(id) for id in ids], columns, descriptors)
        advance(len(some))
