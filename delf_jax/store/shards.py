"""A shard: the features of many images in one safetensors file, read by mapping it.

Arrays hold one row per image (`offsets`, `image_sizes`, `global_descriptors`), per
local feature (`locations`, `scales`, `attention`, `descriptors`; of image i from
offsets[i] to offsets[i + 1]), or, where features are of boxes, too, per region
(`region_boxes`, `region_counts`; by `region_offsets`). The metadata hold a list of
records, one for each image that was extracted, that failed, that was removed, or that
a run is about to extract.

`checksums` [M, 2] are of each image's global descriptor, and of its local features and
regions. They are verified when an image is first read; all that is small when the shard
is opened, by the `checksum` in the metadata. Version 0.1 wrote neither.
"""

import json
import os
import pathlib
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import Bool, Float32, Int64

from delf_jax.features import Features, LocalFeatures, Regions, is_finite
from delf_jax.files import InputError, atomic_write, sha256_of
from delf_jax.formats import tensor_files
from delf_jax.manifests import owned
from delf_jax.store import shard_checks
from delf_jax.store.shard_checks import FORMAT

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
    sound: Bool[np.ndarray, "M 2"]
    """of each image, what this process has verified: global descriptor, all else"""


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
    small = {name: columns[name][0] for name in shard_checks.SMALL if name in columns}
    metadata["checksum"] = shard_checks.checksum_of_small(metadata, tensors, small)
    with atomic_write(owned(path)) as file:
        file.write(tensor_files.encode_header(tensors, metadata))
        for chunks in columns.values():
            for chunk in chunks:
                file.write(chunk.data)


def open_shard(path: str | os.PathLike) -> Shard:
    """The shard at `path`; InputError if it is truncated, damaged or something else.

    Damage of features is noticed when they are read.
    """
    path = pathlib.Path(path)
    try:
        arrays, metadata = tensor_files.map_tensors(path)
        shard_checks.check_small(arrays, metadata)
        records = [Record(*fields) for fields in json.loads(metadata["records"])]
        shard_checks.check_records(records)
        count = sum(record.outcome == "extracted" for record in records)
        shard_checks.check_arrays(arrays, count)
        sound = np.zeros((count, 2), bool)
        return Shard(path, metadata["key"], records, arrays, sound)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _damaged(path) from None


def _damaged(path: pathlib.Path, what: str = "damaged or truncated") -> InputError:
    return InputError(
        f"{path}: {what}; index or extract the same photos again: only images that are "
        "damaged are extracted again"
    )


def hold_shard(
    path: pathlib.Path,
    key: str,
    records: Sequence[Record],
    features: Sequence[Features],
) -> Shard:
    """As `write_shard`, in memory alone: the path is a name for messages."""
    columns = _columns(features)
    arrays = {name: np.concatenate(chunks) for name, chunks in columns.items()}
    return Shard(path, key, list(records), arrays, np.ones((len(features), 2), bool))


def read_features(shard: Shard, row: int) -> Features:
    """Features of image `row` of a shard; the arrays are views of the mapped file.

    InputError if they are damaged.
    """
    features = _view(shard, row)
    if not shard.sound[row].all():
        _check(shard, row, features)
    return features


def read_global(
    shard: Shard, rows: Int64[np.ndarray, " N"]
) -> Float32[np.ndarray, "N G"] | None:
    """The global descriptors of some images; None: the shard has none.

    InputError if one is damaged.
    """
    descriptors = shard.arrays.get("global_descriptors")
    if descriptors is None:
        return None
    todo = rows[~shard.sound[rows, 0]]
    if len(todo) and "checksums" in shard.arrays:
        known = shard.arrays["checksums"][todo, 0]
        for row, checksum in zip(todo.tolist(), known.tolist(), strict=True):
            if google_crc32c.value(descriptors[row]) != checksum:
                raise _damaged(shard.path)
    shard.sound[todo, 0] = True
    return descriptors[rows]


def check_features(shard: Shard, advance: Callable[[], None]) -> None:
    """Reads all images, and calls after each; InputError if one is damaged."""
    for row in range(len(shard.sound)):
        read_features(shard, row)
        advance()


def _view(shard: Shard, row: int) -> Features:
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


def _check(shard: Shard, row: int, features: Features) -> None:
    known = shard.arrays.get("checksums")
    if known is not None and shard_checks.checksums_of(features) != known[row].tolist():
        raise _damaged(shard.path)
    if not is_finite(features):
        raise _damaged(shard.path, "has features that are not finite numbers")
    shard.sound[row] = True


def read_counts(shard: Shard, row: int) -> tuple[int, int]:
    """Numbers of local features and of boxes of image `row`, read without these."""
    boxes = 0
    if "region_offsets" in shard.arrays:
        start, end = shard.arrays["region_offsets"][row : row + 2].tolist()
        boxes = end - start - 1  # The first region is the whole image.
    start, end = shard.arrays["offsets"][row : row + 2].tolist()
    return end - start, boxes


def read_size(shard: Shard, row: int) -> int:
    """Bytes of the features of image `row`, read without these."""
    local, descriptor, _, regions, _ = _view(shard, row)
    arrays = [*(local or ()), descriptor, *(regions or ())]
    return sum(array.nbytes for array in arrays if array is not None)


def _columns(features: Sequence[Features]) -> Mapping[str, list[np.ndarray]]:
    """Arrays by name, in chunks to be written one after the other."""
    if not features:
        return {}
    features = [_as_stored(each) for each in features]
    counts = [0 if x.local is None else len(x.local.scales) for x in features]
    checksums = [shard_checks.checksums_of(each) for each in features]
    columns = {
        "offsets": [_offsets(counts)],
        "image_sizes": [np.array([x.image_size for x in features], np.int32)],
        "checksums": [np.array(checksums, np.uint32)],
    }
    if features[0].global_descriptor is not None:
        columns["global_descriptors"] = [
            np.asarray(x.global_descriptor)[None] for x in features
        ]
    if features[0].local is not None:
        columns |= {
            name: [getattr(x.local, name) for x in features]
            for name in LocalFeatures._fields
        }
    if regions := [x.regions for x in features if x.regions is not None]:
        columns["region_offsets"] = [_offsets([len(each.counts) for each in regions])]
        columns |= {
            f"region_{name}": [getattr(each, name) for each in regions]
            for name in Regions._fields
        }
    return columns


def checksums(features: Sequence[Features]) -> list[list[int]]:
    """What `write_shard` writes as their checksums."""
    return [shard_checks.checksums_of(_as_stored(each)) for each in features]


def _as_stored(features: Features) -> Features:
    """The features, in arrays as they are written."""
    local, descriptor, _, regions, _ = features
    if local is not None:
        local = LocalFeatures(*(np.ascontiguousarray(x, np.float32) for x in local))
    if descriptor is not None:
        descriptor = np.ascontiguousarray(descriptor, np.float32)
    if regions is not None:
        boxes = np.ascontiguousarray(regions.boxes, np.float32)
        regions = Regions(boxes, np.ascontiguousarray(regions.counts, np.int32))
    return features._replace(local=local, global_descriptor=descriptor, regions=regions)


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
