"""Local features of one image as the original stores them: .delf and .delg_local.

A file is one DelfFeatures, a list of small messages. As the original writes them they
all have one length and the same bytes between their numbers, so that a file is an array
of records; what else protobuf allows is read one message at a time.
"""

import functools
import os
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import Float

from delf_jax.files import InputError, write_bytes
from delf_jax.formats.delf import datum, messages
from delf_jax.formats.protos import feature_pb2
from delf_jax.formats.tensorflow import wire

# The numbers after the descriptor, in the order of the file, and their tags.
_NUMBERS = {"x": 0x15, "y": 0x1D, "scale": 0x25, "orientation": 0x2D, "strength": 0x35}


class DelfFeatures(NamedTuple):
    """Local features of one image, in the order of the original's functions."""

    locations: Float[np.ndarray, "N 2"]
    """(y, x) in pixels of the original image, unless extracted by another config"""
    scales: Float[np.ndarray, "N"]
    """1 / image scale; not corrected for a resize before the pyramid"""
    descriptors: Float[np.ndarray, "N D"]
    attention: Float[np.ndarray, "N"]
    orientations: Float[np.ndarray, "N"] | None = None
    """radians; the original never computes them: None is written as zeros"""


def read_delf_features(path: str | os.PathLike) -> DelfFeatures:
    """The float32 features of a file; InputError if it is damaged, or not finite.

    Without features descriptors are [0, 0]: such a file does not have their length.
    """
    data = messages.read_bytes(path)
    records = _records(data)
    read = _parse(data, path) if records is None else _of_records(records)
    for name, numbers in read._asdict().items():
        if not np.isfinite(numbers).all():
            raise InputError(f"{path}: has {name} that are not finite numbers")
    return read


def _of_records(records: np.ndarray) -> DelfFeatures:
    # Arrays of their own: the records share one buffer that is not aligned.
    locations = np.stack([records["y"], records["x"]], axis=1).astype(np.float32)
    names = ("scale", "descriptor", "strength", "orientation")
    return DelfFeatures(locations, *(records[n].astype(np.float32) for n in names))


def write_delf_features(path: str | os.PathLike, features: DelfFeatures) -> None:
    """Writes features as float32, to the same bytes as the original."""
    write_bytes(path, encode_delf_features(features))


def encode_delf_features(features: DelfFeatures) -> bytes:
    """The bytes of a file of these features; ValueError if their numbers disagree."""
    count, depth = features.descriptors.shape
    head, dtype = _layout(depth)
    records = np.empty(count, dtype)
    records["head"] = head
    records["descriptor"] = features.descriptors
    for name, tag in _NUMBERS.items():
        records[f"{name}_tag"] = tag
    records["y"], records["x"] = features.locations.T
    records["scale"], records["strength"] = features.scales, features.attention
    orientations = features.orientations
    records["orientation"] = 0.0 if orientations is None else orientations
    return records.tobytes()


@functools.lru_cache(maxsize=16)
def _layout(depth: int) -> tuple[np.ndarray, np.dtype]:
    """The bytes before a descriptor, and the dtype of a whole feature."""
    descriptor = datum.encode_datum(np.zeros(depth, np.float32))
    body = messages.field(1, descriptor)
    empty = bytes(len(body) + 5 * len(_NUMBERS))
    head = messages.field(1, empty)[: -len(empty)] + body[: len(body) - 4 * depth]
    numbers = [[(f"{name}_tag", "u1"), (name, "<f4")] for name in _NUMBERS]
    fields = [("head", "u1", (len(head),)), ("descriptor", "<f4", (depth,))]
    return np.frombuffer(head, np.uint8), np.dtype([*fields, *sum(numbers, [])])


def _records(data: bytes) -> np.ndarray | None:
    """The features as records; None if they are not laid out as the original does."""
    try:
        length, start = wire.read_varint(data, 1)  # of the first field, if a message.
        first = feature_pb2.DelfFeatures.FromString(data[: start + length]).feature
    except (DecodeError, wire.Malformed):
        return None
    if len(first) != 1:
        return None
    head, dtype = _layout(len(first[0].descriptor.float_list.value))
    if len(data) % dtype.itemsize:
        return None
    records = np.frombuffer(data, dtype)
    same = (records["head"] == head).all()
    for name, tag in _NUMBERS.items():
        same &= (records[f"{name}_tag"] == tag).all()
    return records if same else None


def _parse(data: bytes, path: str | os.PathLike) -> DelfFeatures:
    """The features of any file that protobuf can read."""
    features = messages.parse(data, feature_pb2.DelfFeatures, path).feature
    rows = [datum.to_array(feature.descriptor, path) for feature in features]
    if any(row.ndim != 1 or len(row) != len(rows[0]) for row in rows):
        raise InputError(f"{path}: damaged: its descriptors differ in length")
    found = [(f.y, f.x, f.scale, f.strength, f.orientation) for f in features]
    numbers = np.array(found).reshape(-1, 5).astype(np.float32)
    descriptors = np.stack(rows).astype(np.float32) if rows else np.zeros((0, 0), "f4")
    scales, attention, orientations = numbers.T[2:]
    return DelfFeatures(numbers[:, :2], scales, descriptors, attention, orientations)
