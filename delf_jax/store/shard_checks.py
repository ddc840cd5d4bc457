"""What makes a shard sound: checksums, and arrays that fit each other.

Checksums alone do not suffice: a forged shard may have correct ones, and offsets that
are out of range. They are CRC-32C, which takes a second for some 8 GB.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Int64

from delf_jax.features import Features, LocalFeatures

FORMAT = 1
# What is read, and verified, when a shard is opened.
SMALL = ("offsets", "image_sizes", "region_offsets", "checksums")
_RECORD = [str, int, str, str, int, int, str]
_OUTCOMES = ("extracted", "failed", "removed", "pending")
Layout = Mapping[str, tuple[np.dtype, tuple[int, ...]]]


def checksums_of(features: Features) -> list[int]:
    """Of the global descriptor, and of local features and regions; all contiguous."""
    whole = () if features.global_descriptor is None else (features.global_descriptor,)
    return [_crc(whole), _crc([*(features.local or ()), *(features.regions or ())])]


def checksum_of_small(
    metadata: Mapping[str, str], layout: Layout, arrays: Mapping[str, np.ndarray]
) -> str:
    """Of what is read when a shard is opened, in decimal digits."""
    texts = [metadata[name] for name in ("format", "key", "records")]
    shapes = [[name, dtype.str, *shape] for name, (dtype, shape) in layout.items()]
    small = [arrays[name] for name in SMALL if name in arrays]
    return str(_crc([json.dumps([texts, shapes]).encode(), *small]))


def _crc(parts: Iterable[Any]) -> int:
    value = 0
    for part in parts:
        value = google_crc32c.extend(value, part)
    return value


def check_small(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """ValueError if what is read at once is not what was written."""
    if metadata["format"] != str(FORMAT):
        raise ValueError("another format")
    # Version 0.1 wrote neither the one nor the others.
    known = metadata.get("checksum")
    if ("checksums" in arrays) != (known is not None and bool(arrays)):
        raise ValueError("without some checksums")
    layout = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    if known is not None and known != checksum_of_small(metadata, layout, arrays):
        raise ValueError("another checksum")


def check_records(records: Sequence[tuple]) -> None:
    """ValueError if one is not of the right types."""
    for record in records:
        if [*map(type, record)] != _RECORD or record[2] not in _OUTCOMES:
            raise ValueError(f"no record: {record}")


def check_arrays(arrays: Mapping[str, np.ndarray], count: int) -> None:
    """ValueError if arrays do not fit each other and this number of images."""
    if not count:
        if arrays:
            raise ValueError("arrays of no image")
        return
    f32, i32, i64 = map(np.dtype, (np.float32, np.int32, np.int64))
    layout = {"offsets": (i64, (count + 1,)), "image_sizes": (i32, (count, 2))}
    if "checksums" in arrays:
        layout["checksums"] = (np.dtype(np.uint32), (count, 2))
    if "global_descriptors" in arrays:
        dimension = arrays["global_descriptors"].shape[1]
        layout["global_descriptors"] = (f32, (count, dimension))
    total = _end(arrays["offsets"])
    if "descriptors" in arrays:
        shapes = (total, 2), (total,), (total, arrays["descriptors"].shape[1]), (total,)
        names = zip(LocalFeatures._fields, shapes, strict=True)
        layout |= {name: (f32, shape) for name, shape in names}
    elif total:
        raise ValueError("no local features")
    if "region_offsets" in arrays:
        regions = _end(arrays["region_offsets"])
        layout["region_offsets"] = (i64, (count + 1,))
        layout["region_boxes"] = (f32, (regions, 4))
        layout["region_counts"] = (i32, (regions,))
    for name, expected in layout.items():
        if (arrays[name].dtype, arrays[name].shape) != expected:
            raise ValueError(f"{name} has another shape")
    if arrays["image_sizes"].min() < 0:
        raise ValueError("a size below 0")
    if "region_offsets" in arrays:
        _check_regions(arrays)


def _end(offsets: Int64[np.ndarray, " _"]) -> int:
    """The last of offsets that begin at 0 and do not fall; else ValueError."""
    if offsets.ndim != 1 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise ValueError("offsets that fall")
    return int(offsets[-1])


def _check_regions(arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError if the regions of an image do not have all of its features."""
    offsets, counts = arrays["region_offsets"], arrays["region_counts"]
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    if (
        (counts < 0).any()
        or (np.diff(offsets) < 1).any()
        or (ends[offsets] != arrays["offsets"]).any()
    ):
        raise ValueError("regions of other features")
