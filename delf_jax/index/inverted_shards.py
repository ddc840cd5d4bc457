"""Shards of an inverted file: the inverted lists of some images, in two files each.

    NAME.postings     the lists, one after the other (see retrieval/inverted.py)
    NAME.safetensors  counts [K], word_counts [M], checksums [K]: CRC-32 of each list,
                      and images: [id, stamp] of each, as JSON

Shards are written whole and never changed. The small file is checked when it is opened,
and a list when it is first read: nothing that is used goes unchecked.
"""

import json
import mmap
import pathlib
import re
import uuid
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt32, UInt64

from delf_jax.files import InputError, atomic_write, sha256_of
from delf_jax.formats.tensor_files import read_tensors, write_tensors
from delf_jax.manifests import COUNT, POSITIVE, SHA256, matching, owned
from delf_jax.retrieval import inverted
from delf_jax.retrieval.inverted import Layout, Lists

POSTINGS, TENSORS = ".postings", ".safetensors"
# Names of shards: what is called otherwise is not ours, and leads nowhere else.
_NAME = "[0-9a-f]{12}"
# What the manifest says of a shard.
ENTRY = {
    "name": matching(_NAME, "12 hex digits"),
    "images": POSITIVE,
    "postings": COUNT,
    "bytes": COUNT,
    "sha256": SHA256,
}
_FILE = re.compile(rf"\.?{_NAME}({POSTINGS}|{TENSORS})(\..+)?")


class Shard(NamedTuple):
    """A shard whose lists are mapped, not read."""

    entry: dict[str, Any]
    """of the manifest"""
    path: pathlib.Path
    """of the lists"""
    images: list[tuple[str, str]]
    """(id, stamp): the stamp changes with the features of an image"""
    mapped: mmap.mmap | None
    """the file of the lists; None if it is empty"""
    lists: Lists
    checksums: UInt32[np.ndarray, "K"]
    checked: Bool[np.ndarray, "K"]
    """the lists that were found sound"""


def write_shard(
    folder: pathlib.Path,
    images: Sequence[tuple[str, str]],
    word_counts: Int32[np.ndarray, " M"],
    lists: Iterable[tuple[int, UInt64[np.ndarray, " n"]]],
    name: str = "",
) -> dict[str, Any]:
    """Writes a shard, one list after the other; its entry of the manifest.

    Args:
      name: that its content has; by default one that no other shard has.
    """
    name = name or uuid.uuid4().hex[:12]
    path = folder / (name + POSTINGS)
    counts, checksums = [], []
    with atomic_write(owned(path)) as file:
        for count, block in lists:
            counts.append(count)
            checksums.append(zlib.crc32(block.data))
            file.write(block)
    text = json.dumps(list(images)).encode()
    tensors = {
        "counts": np.array(counts, np.int32),
        "word_counts": word_counts,
        "checksums": np.array(checksums, np.uint32),
        "images": np.frombuffer(text, np.uint8),
    }
    write_tensors(folder / (name + TENSORS), tensors, {})
    return {
        "name": name,
        "images": len(images),
        "postings": sum(counts),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(folder / (name + TENSORS)),
    }


def open_shard(
    folder: pathlib.Path, entry: dict[str, Any], layout: Layout, words: int
) -> Shard:
    """A shard, mapped; InputError if it is absent, truncated or damaged."""
    small = folder / (entry["name"] + TENSORS)
    path = folder / (entry["name"] + POSTINGS)
    if not small.is_file() or sha256_of(small) != entry["sha256"]:
        raise damaged(small)
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        raise damaged(path)
    tensors, _ = read_tensors(small)
    images = _read_images(tensors, entry, words, small)
    mapped = None
    if entry["bytes"]:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        data = np.frombuffer(mapped or b"", np.uint64)
        counts, word_counts = tensors["counts"], tensors["word_counts"]
        lists = inverted.make_lists(layout, counts, word_counts, data)
    except (ValueError, OverflowError):
        raise damaged(path) from None
    checksums, checked = tensors["checksums"], np.zeros(len(counts), bool)
    return Shard(entry, path, images, mapped, lists, checksums, checked)


def _read_images(
    tensors: dict[str, np.ndarray],
    entry: dict[str, Any],
    words: int,
    path: pathlib.Path,
) -> list[tuple[str, str]]:
    """The images of a shard; InputError if its arrays are not those of its entry."""
    layout = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    i32, u32, bytes_ = map(np.dtype, (np.int32, np.uint32, np.uint8))
    expected = {
        "counts": (i32, (words,)),
        "word_counts": (i32, (entry["images"],)),
        "checksums": (u32, (words,)),
        "images": (bytes_, tensors.get("images", np.zeros(0)).shape),
    }
    if (
        not expected.items() <= layout.items()
        or min(tensors["counts"].min(), tensors["word_counts"].min()) < 0
        or tensors["counts"].sum(dtype=np.int64) != entry["postings"]
    ):
        raise damaged(path)
    try:
        listed = json.loads(tensors["images"].tobytes())
        images = [(id, stamp) for id, stamp in listed]
    except (ValueError, TypeError, RecursionError):
        raise damaged(path) from None
    if len(images) != entry["images"] or {type(x) for i in images for x in i} != {str}:
        raise damaged(path)
    return images


def check_lists(shard: Shard, words: Int[np.ndarray, " W"]) -> Lists:
    """The lists, those of these words checked; InputError if one is damaged."""
    lists = shard.lists
    _read_ahead(shard, words)
    todo = words[~shard.checked[words]]
    columns = lists.starts[todo], lists.starts[todo + 1], shard.checksums[todo]
    for start, end, checksum in zip(*(c.tolist() for c in columns), strict=True):
        if zlib.crc32(lists.data[start:end].data) != checksum:
            raise damaged(shard.path)
    if not all(inverted.is_list(lists, word) for word in todo.tolist()):
        raise damaged(shard.path)
    shard.checked[todo] = True
    return lists


def _read_ahead(shard: Shard, words: Int[np.ndarray, " W"]) -> None:
    """Asks the system for all lists at once, where it can be asked.

    A disk then serves them side by side: a first query of 500 lists of 1 GB on it took
    0.05 to 0.15 s, and 1.3 s when it waited for one after the other.
    """
    if shard.mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
        return
    starts = shard.lists.starts[words] * 8 // mmap.PAGESIZE * mmap.PAGESIZE
    lengths = shard.lists.starts[words + 1] * 8 - starts
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        if length:
            shard.mapped.madvise(mmap.MADV_WILLNEED, start, length)


def remove_shard(folder: pathlib.Path, name: str) -> None:
    for suffix in (TENSORS, POSTINGS):
        (owned(folder) / (name + suffix)).unlink(missing_ok=True)


def list_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that have names of ours, half-written ones as well."""
    return [path for path in owned(folder).iterdir() if _FILE.fullmatch(path.name)]


def damaged(path: pathlib.Path) -> InputError:
    what = "is damaged or truncated; delete it and" if path.exists() else "is missing;"
    return InputError(
        f"{path}: {what} run the same command again: only the images of this shard are "
        "aggregated again"
    )
