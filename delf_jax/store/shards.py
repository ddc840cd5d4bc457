"""A shard: the features of many images in one safetensors file, read by mapping it.

Arrays hold one row per image (`offsets`, `image_sizes`, `global_descriptors`), per
local feature (`locations`, `scales`, `attention`, `descriptors`; of image i from
offsets[i] to offsets[i + 1]), or, where features are of boxes, too, per region
(`region_boxes`, `region_counts`; by `region_offsets`). The metadata hold a list of
records, one for each image that was extracted, that failed, that was removed, or that
a run is about to extract.
"""

import json
import os
import pathlib
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from delf_jax.features import Features, LocalFeatures, Regions
from delf_jax.files import InputError, atomic_write, sha256_of
from delf_jax.formats import tensor_files

FORMAT = 1
SUFFIX = ".safetensors"


class Record(NamedTuple):
    """What became of one image, and how its file looked then."""

    id: str
    sequence: int
    """number of the run; the record of the latest run is the one that counts"""
    outcome: str
    """"extracted", "failed", "removed", or "pending": a run has it to do"""
    reason: str = ""
    file_size: int = -1
    modified: int = -1
    """time of the last change of the file, in nanoseconds"""
    sha256: str = ""


class Shard(NamedTuple):
    """A shard whose arrays are mapped, not read."""

    path: pathlib.Path
    key: str
    """of model and settings; see `feature_store.store_key`"""
    records: list[Record]
    arrays: dict[str, np.ndarray]


def write_shard(
    path: str | os.PathLike,
    key: str,
    records: Sequence[Record],
    features: Sequence[Features],
) -> None:
    """Writes a shard, whole or not at all.

    `features` belong to the records whose outcome is "extracted", in their order.
    """
    columns = _columns(features)
    tensors = {
        name: (chunks[0].dtype, (sum(map(len, chunks)), *chunks[0].shape[1:]))
        for name, chunks in columns.items()
    }
    metadata = {"format": str(FORMAT), "key": key, "records": json.dumps(records)}
    with atomic_write(path) as file:
        file.write(tensor_files.encode_header(tensors, metadata))
        for chunks in columns.values():
            for chunk in chunks:
                file.write(np.ascontiguousarray(chunk).data)


def open_shard(path: str | os.PathLike) -> Shard:
    """The shard at `path`; InputError if it is truncated or something else."""
    path = pathlib.Path(path)
    try:
        arrays, metadata = tensor_files.map_tensors(path)
        records = [Record(*fields) for fields in json.loads(metadata["records"])]
        return Shard(path, metadata["key"], records, arrays)
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: damaged or truncated; index or extract the same photos again: "
            "only its images are extracted again"
        ) from None


def hold_shard(
    path: pathlib.Path,
    key: str,
    records: Sequence[Record],
    features: Sequence[Features],
) -> Shard:
    """As `write_shard`, in memory alone: the path is a name for messages."""
    columns = _columns(features)
    arrays = {name: np.concatenate(chunks) for name, chunks in columns.items()}
    return Shard(path, key, list(records), arrays)


def read_features(shard: Shard, row: int) -> Features:
    """Features of image `row` of a shard; the arrays are views of the mapped file."""
    arrays = shard.arrays
    local = descriptor = regions = None
    if "descriptors" in arrays:
        part = slice(*arrays["offsets"][row : row + 2].tolist())
        local = LocalFeatures(*(arrays[name][part] for name in LocalFeatures._fields))
    if "global_descriptors" in arrays:
        descriptor = arrays["global_descriptors"][row]
    if "region_offsets" in arrays:
        part = slice(*arrays["region_offsets"][row : row + 2].tolist())
        parts = (arrays[f"region_{name}"][part] for name in Regions._fields)
        regions = Regions(*parts)
    height, width = arrays["image_sizes"][row].tolist()
    return Features(local, descriptor, (height, width), regions)


def read_counts(shard: Shard, row: int) -> tuple[int, int]:
    """Numbers of local features and of boxes of image `row`, read without these."""
    boxes = 0
    if "region_offsets" in shard.arrays:
        start, end = shard.arrays["region_offsets"][row : row + 2].tolist()
        boxes = end - start - 1  # The first region is the whole image.
    start, end = shard.arrays["offsets"][row : row + 2].tolist()
    return end - start, boxes


def _columns(features: Sequence[Features]) -> Mapping[str, list[np.ndarray]]:
    """Arrays by name, in chunks to be written one after the other."""
    if not features:
        return {}
    counts = [0 if x.local is None else len(x.local.scales) for x in features]
    columns = {
        "offsets": [_offsets(counts)],
        "image_sizes": [np.array([x.image_size for x in features], np.int32)],
    }
    if features[0].global_descriptor is not None:
        columns["global_descriptors"] = [
            np.asarray(x.global_descriptor, np.float32)[None] for x in features
        ]
    if features[0].local is not None:
        columns |= {
            name: [np.asarray(getattr(x.local, name), np.float32) for x in features]
            for name in LocalFeatures._fields
        }
    if regions := [x.regions for x in features if x.regions is not None]:
        columns |= {
            "region_offsets": [_offsets([len(each.counts) for each in regions])],
            "region_boxes": [np.asarray(each.boxes, np.float32) for each in regions],
            "region_counts": [np.asarray(each.counts, np.int32) for each in regions],
        }
    return columns


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def look_at(record: Record, *paths: pathlib.Path) -> Record:
    """The record with size and time of the files, if they are there."""
    try:
        status = [path.stat() for path in paths]
    except OSError:
        return record
    size, modified = sum(s.st_size for s in status), max(s.st_mtime_ns for s in status)
    return record._replace(file_size=size, modified=modified)


def checksum(path: pathlib.Path, record: Record) -> str:
    """The SHA-256 of the file; "" if it has changed since the record was made."""
    try:
        found = sha256_of(path)
    except OSError:
        return ""
    return found if look_at(record, path) == record else ""


def is_changed(path: pathlib.Path, known: Record, now: Record) -> bool:
    """Whether an image must be extracted: its bytes decide if only the time differs."""
    if known.outcome != "extracted" or known.file_size != now.file_size:
        return True
    if known.modified == now.modified:
        return False
    return known.sha256 == "" or checksum(path, now) != known.sha256


def is_absent(path: pathlib.Path) -> bool:
    """Whether there is no such file; one that cannot be looked at may be there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def why_unreadable(path: pathlib.Path) -> str:
    """What keeps a file from being read, whatever is in it; "" if nothing does."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            sha256_of(path)
    except OSError as error:
        return error.strerror or str(error)
    return ""
