"""Lists of labelled training images: folders, CSVs, GLDv2's tables and TFRecords."""

import csv
import itertools
import operator
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from delf_jax.files import InputError
from delf_jax.formats import gldv2, tables, tfrecord
from delf_jax.images import SUFFIXES, decode_image, read_image


class Record(NamedTuple):
    """One labelled image."""

    id: str
    path: pathlib.Path
    label: str | int
    """a number where the source numbers its landmarks; empty: none"""
    offset: int = -1
    """where in a file of TFRecords it begins; -1: the file is the image"""


def list_records(
    path: str, images: str = "", label_column: str = "label"
) -> list[Record]:
    """The images of a source of training images, ordered by id.

    Args:
      path: a folder, whose subfolders are classes; a .csv file with a header, a column
        `image` and a column of labels; train.csv or train_clean.csv of [GLDv2], or the
        folder of one, with images at a/b/c/abc....jpg; or the original's TFRecords, as
        a folder of one split or a pattern such as `train-*-of-*`.
      images: folder that a CSV's image names are relative to; empty: the CSV's own.
      label_column: of a CSV with a column `image`.
    """
    source = pathlib.Path(path)
    if shards := tfrecord.find_shards(path):
        found = (record for shard in shards for record in _of_shard(shard))
    elif table := _landmark_table(source):
        found = _of_landmarks(table, pathlib.Path(images or table.parent))
    elif source.is_dir():
        found = _of_folder(source)
    elif source.is_file():
        root = pathlib.Path(images or source.parent)
        found = _of_csv(source, root, label_column)
    else:
        raise InputError(f"{path}: no such folder, CSV or TFRecords of training images")
    records = sorted(found, key=operator.attrgetter("id"))
    if not records:
        raise InputError(f"{path}: no images found to train on")
    for one, other in itertools.pairwise(records):
        if one.id == other.id:
            raise InputError(f"{path}: image {one.id} is listed twice")
    return records


def read_record(record: Record) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB image of a record; InputError, naming it, if it cannot be read."""
    if record.offset < 0:
        return read_image(record.path)
    encoded = tfrecord.read_example(record.path, record.offset).encoded
    try:
        return decode_image(encoded)
    except InputError as error:
        raise InputError(f"{record.path}, image {record.id}: {error}") from None


def _of_folder(source: pathlib.Path) -> Iterator[Record]:
    for path in source.rglob("*"):
        if path.suffix.lower() in SUFFIXES:
            name = path.relative_to(source)
            label = name.parts[0] if len(name.parts) > 1 else ""
            yield Record(name.as_posix(), path, label)


def _of_csv(source: pathlib.Path, root: pathlib.Path, label: str) -> Iterator[Record]:
    with source.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = {"image", label} - set(rows.fieldnames or ())
        if missing:
            raise InputError(f"{source}: the CSV has no column {min(missing)!r}")
        for row in rows:
            yield Record(row["image"], root / row["image"], row[label])


def _landmark_table(source: pathlib.Path) -> pathlib.Path | None:
    """The table of [GLDv2] that a source is or holds; InputError if it holds two."""
    inside = [source / "train.csv", source / "train_clean.csv"]
    candidates = inside if source.is_dir() else [source]
    found = [p for p in candidates if p.is_file() and _lists_landmarks(p)]
    if len(found) > 1:
        raise InputError(
            f"{source}: name the one to train on, {found[0]} or {found[1]}"
        )
    return found[0] if found else None


def _lists_landmarks(path: pathlib.Path) -> bool:
    columns = set(tables.read_header(path)) if path.suffix == ".csv" else set()
    return "landmark_id" in columns and bool(columns & {"id", "images"})


def _of_landmarks(table: pathlib.Path, root: pathlib.Path) -> Iterator[Record]:
    for image in gldv2.read_train(table):
        path = gldv2.image_path(root, image.id)
        yield Record(image.id, path, image.landmark_id)


def _of_shard(path: pathlib.Path) -> Iterator[Record]:
    for place in tfrecord.list_examples(path):
        label = "" if place.label is None else place.label
        yield Record(place.id, path, label, place.offset)
