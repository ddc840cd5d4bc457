"""The original's training images in TFRecords, without TensorFlow.

A file is a row of records: length (8 bytes), its checksum (4), data, their checksum
(4). The data are a tf.train.Example with the bytes of a JPEG file, its size, id and
label.
"""

import glob
import itertools
import os
import pathlib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from delf_jax.files import InputError, atomic_write, encode_name, reading
from delf_jax.formats.tensorflow import tf_example
from delf_jax.formats.tensorflow.crc32c import masked_crc32c

_HEAD, _FOOT = 12, 4  # bytes around the data of a record.
_SHARD = re.compile(r"([^.].*)-\d{5}-of-\d{5}")


class Example(NamedTuple):
    """An image as it is stored."""

    id: str
    encoded: bytes
    """the image file"""
    label: int | None
    """None in the test split"""
    height: int
    width: int


class Place(NamedTuple):
    """Where in a file an example begins, and what it is of."""

    offset: int
    id: str
    label: int | None


def find_shards(path: str | os.PathLike) -> list[pathlib.Path]:
    """The TFRecords of a file, a pattern as `train-*-of-*`, or a folder of one split.

    Empty if there are none; InputError if a folder has several splits.
    """
    if os.path.isdir(path):
        inside = [p for p in pathlib.Path(path).iterdir() if p.is_file()]
        matches = {p: match for p in inside if (match := _SHARD.fullmatch(p.name))}
        splits = sorted({match[1] for match in matches.values()})
        if len(splits) > 1:
            raise InputError(
                f"{path}: TFRecords of {' and '.join(splits)}; name those you want, as "
                f"in {os.path.join(path, splits[-1])}-*"
            )
        return sorted(matches)
    names = [os.fspath(path)] if os.path.isfile(path) else glob.glob(os.fspath(path))
    paths = sorted(pathlib.Path(name) for name in names)
    return [p for p in paths if _SHARD.fullmatch(p.name) or p.suffix == ".tfrecord"]


def read_examples(paths: Iterable[str | os.PathLike]) -> Iterator[Example]:
    """All examples, file by file; InputError, naming file and record, on damage."""
    for path in paths:
        for where, _, record in _records(path, verified=True):
            yield _example(record, where)


def list_examples(path: str | os.PathLike) -> Iterator[Place]:
    """Where the examples of a file are.

    The images are skipped, their bytes neither looked at nor checked: ten times as
    fast as reading, at 100 kB an image.
    """
    for where, offset, record in _records(path, verified=False):
        features = _features(record, where)
        yield Place(offset, _id(features, where), _label(features))


def read_example(path: str | os.PathLike, offset: int) -> Example:
    """The example at a place of `list_examples`."""
    where = f"{path}, record at byte {offset}"
    return _example(_record(_map(path), offset, where, verified=True), where)


def write_examples(
    directory: str | os.PathLike, split: str, examples: Sequence[Example], shards: int
) -> list[pathlib.Path]:
    """Writes <split>-00000-of-<shards> and so on, cut as the original cuts them.

    Args:
      examples: taken one by one, so that a lazy sequence need not fit in memory.
    """
    paths = []
    for name, places in shards_of(split, len(examples), shards):
        paths.append(pathlib.Path(directory, name))
        write_shard(paths[-1], (examples[place] for place in places))
    return paths


def shards_of(split: str, count: int, shards: int) -> list[tuple[str, range]]:
    """The name of each shard, and which of `count` examples the original puts there."""
    bounds = np.linspace(0, count, shards + 1, dtype=int).tolist()
    places = itertools.starmap(range, itertools.pairwise(bounds))
    names = (f"{split}-{shard:05d}-of-{shards:05d}" for shard in range(shards))
    return list(zip(names, places, strict=True))


def write_shard(path: str | os.PathLike, examples: Iterable[Example]) -> None:
    """Writes one file, atomically, example by example."""
    with atomic_write(path) as file:
        for example in examples:
            file.write(_serialize(example))


def _serialize(example: Example) -> bytes:
    features: dict[str, int | bytes] = {
        "image/height": example.height,
        "image/width": example.width,
        "image/colorspace": b"RGB",
        "image/channels": 3,
        "image/format": b"JPEG",
        "image/id": encode_name(example.id),
        "image/encoded": example.encoded,
    }
    if example.label is not None:
        features["image/class/label"] = example.label
    data = tf_example.serialize_example(features)
    parts = (struct.pack("<Q", len(data)), data)
    return b"".join(x + struct.pack("<I", masked_crc32c(x)) for x in parts)


def _map(path: str | os.PathLike) -> memoryview:
    """The bytes of a file, read where they are looked at."""
    with reading(path):
        if os.path.getsize(path) == 0:  # which cannot be mapped, and is fine.
            return memoryview(b"")
        return np.memmap(path, np.uint8, mode="r").data


def _records(
    path: str | os.PathLike, *, verified: bool
) -> Iterator[tuple[str, int, memoryview]]:
    """For each record its name in messages, where it begins, and its data."""
    data, offset, number = _map(path), 0, 0
    while offset < len(data):
        where = f"{path}, record {number}"
        record = _record(data, offset, where, verified=verified)
        yield where, offset, record
        offset, number = offset + _HEAD + len(record) + _FOOT, number + 1


def _record(data: memoryview, offset: int, where: str, *, verified: bool) -> memoryview:
    """The data of a record; InputError if it is cut or a checksum is wrong.

    Args:
      verified: whether the checksum of the data is compared, not only the length's.
    """
    head = bytes(data[offset : offset + _HEAD])
    if len(head) < _HEAD:
        raise InputError(f"{where}: the file ends here; fetch or make it again")
    length, checksum = struct.unpack("<QI", head)
    if masked_crc32c(head[:8]) != checksum:
        raise InputError(
            f"{where}: damaged, or not a TFRecord (checksum of the length)"
        )
    start, end = offset + _HEAD, offset + _HEAD + length
    if end + _FOOT > len(data):
        raise InputError(f"{where}: the file ends here; fetch or make it again")
    (checksum,) = struct.unpack("<I", data[end : end + _FOOT])
    if verified and masked_crc32c(data[start:end]) != checksum:
        raise InputError(f"{where}: damaged (checksum of the data); fetch it again")
    return data[start:end]


def _features(record: memoryview, where: str) -> tf_example.Features:
    try:
        return tf_example.parse_example(record)
    except ValueError as error:
        raise InputError(f"{where}: not a tf.train.Example ({error})") from None


def _example(record: memoryview, where: str) -> Example:
    features = _features(record, where)
    height, width = (
        _value(features, f"image/{side}", int, where) for side in ("height", "width")
    )
    encoded = bytes(_value(features, "image/encoded", memoryview, where))
    return Example(_id(features, where), encoded, _label(features), height, width)


def _id(features: tf_example.Features, where: str) -> str:
    try:
        return str(_value(features, "image/id", memoryview, where), "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{where}: its image/id is not UTF-8") from None


def _label(features: tf_example.Features) -> int | None:
    values = features.get("image/class/label")
    return values[0] if values and isinstance(values[0], int) else None


def _value(features: tf_example.Features, name: str, kind: type, where: str) -> Any:
    values = features.get(name)
    if not values or not isinstance(values[0], kind):
        raise InputError(f"{where}: has no {name}; is this a file of training images?")
    return values[0]
