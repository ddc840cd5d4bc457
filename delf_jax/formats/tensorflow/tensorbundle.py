"""TensorFlow's checkpoints (TensorBundle, "V2"), read with numpy.

`X.index` is a sorted table, whose first value is a BundleHeaderProto and the others are
a BundleEntryProto for each tensor. The bytes of the tensors lie in the data files
`X.data-00000-of-00001` and so on. Everything carries checksums. Field numbers are those
of tensorflow/core/protobuf/tensor_bundle.proto.
"""

import functools
import math
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from delf_jax import files
from delf_jax.files import InputError
from delf_jax.formats.lazy_arrays import Entry, LazyArrays
from delf_jax.formats.tensorflow import sorted_table, tensor_proto, wire
from delf_jax.formats.tensorflow.crc32c import masked_crc32c

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Far above what real checkpoints have: a thousand variables make an index of 30 kB.
_LARGEST_INDEX = 1 << 28
_LARGEST_STATE = 1 << 20

# The path in a state file, with the escapes that protobuf's text format writes.
_STATE = re.compile(
    rb'^\s*model_checkpoint_path\s*:\s*"'
    rb"((?:[^\"\\\n]|\\[abfnrtv'\"\\]|\\[0-3][0-7]{2})*)\"",
    re.MULTILINE,
)


def read_bundle(path: str | os.PathLike) -> LazyArrays:
    """The tensors of a checkpoint by key, in the order of their keys.

    `path` is whatever `find_bundle` takes. The index is checked at once, as is that
    all tensors lie within their files; a tensor's checksum is when it is read.
    """
    prefix = find_bundle(path)
    index = _beside(prefix, ".index")
    entries = {}
    with wire.blaming(index):
        table = sorted_table.read_table(files.read_bytes(index, _LARGEST_INDEX))
        shards = _count_shards(*next(table, (b"", memoryview(b""))))
        size_of = functools.cache(os.path.getsize)
        for key, value in table:
            # Parts of partitioned variables; the whole has an entry of its own.
            if not key.startswith(b"\0"):
                stored = _parse_entry(wire.parse(value))
                name = wire.decode(memoryview(key))
                suffix = f".data-{stored.shard:05d}-of-{shards:05d}"
                file = _beside(prefix, suffix)
                with wire.blaming(file):
                    size = size_of(file)
                if stored.offset + stored.size > size:
                    raise InputError(f"{file}: too short, {name} is not all there")
                read = functools.partial(_read_stored, stored, file, name)
                dtype = tensor_proto.dtype_of(stored.type)
                entries[name] = Entry(dtype, stored.shape, read)
    return LazyArrays(entries)


def find_bundle(path: str | os.PathLike) -> pathlib.Path:
    """The checkpoint's prefix: what its files' names have in common.

    `path` may be that prefix, one of the files, a SavedModel or its `variables`, or a
    folder with one checkpoint or with a state file, which names the latest of several.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _find_in_folder(path)
    prefix = path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name))
    if not _beside(prefix, ".index").is_file():
        raise InputError(
            f"{path}: no TensorFlow checkpoint, as {prefix}.index is absent"
        )
    return prefix


def is_bundle(path: str | os.PathLike) -> bool:
    """Whether `read_bundle` would find a checkpoint there."""
    try:
        find_bundle(path)
    except InputError:
        return False
    return True


def variable_path(key: str) -> str:
    """The key without what object-based checkpoints add: "model/conv1/kernel"."""
    return key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")


def _find_in_folder(folder: pathlib.Path) -> pathlib.Path:
    if (folder / "checkpoint").is_file():
        return find_bundle(_latest(folder / "checkpoint"))
    for inner in (folder / "variables", folder):
        if (inner / "variables.index").is_file():
            return inner / "variables"
    found = sorted(folder.glob("*.index"))
    if not found:
        raise InputError(f"{folder}: no checkpoint here (no .index file)")
    if len(found) > 1:
        names = ", ".join(file.stem for file in found[:20])
        raise InputError(f"{folder}: name one of the checkpoints there ({names})")
    return found[0].with_suffix("")


def _latest(state: pathlib.Path) -> pathlib.Path:
    """The prefix that a state file names, which must lie in the same folder.

    Absolute names are of the machine that wrote the file: their last part counts.
    """
    found = _STATE.search(files.read_bytes(state, _LARGEST_STATE))
    nameless = InputError(f"{state}: names no checkpoint; pass the name of one")
    if found is None:
        raise nameless
    try:
        name = found[1].decode("unicode_escape").encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise nameless from None
    if re.match(r"/|[A-Za-z]:|\\\\", name):
        name = re.split(r"[/\\]", name)[-1]
    parts = pathlib.PurePosixPath(name).parts
    if not parts or ".." in parts or not name.isprintable():
        raise InputError(f"{state}: names {name!r:.80}, which is not in its folder")
    return state.parent / name


def _beside(prefix: pathlib.Path, suffix: str) -> pathlib.Path:
    return prefix.with_name(prefix.name + suffix)


def _count_shards(key: bytes, value: memoryview) -> int:
    """The number of data files in the header, which is the first entry."""
    header = wire.parse(value)
    if key or not header:
        raise wire.Malformed("the header is missing")
    if wire.integer(header, 2):
        raise wire.Malformed("big-endian numbers are not supported")
    version = wire.parse(wire.content(header, 3))
    if wire.integer(version, 2) > 1:
        raise wire.Malformed("a format newer than any known version")
    return wire.integer(header, 1)


class _Stored(NamedTuple):
    """A BundleEntryProto."""

    type: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    parts: int


def _parse_entry(entry: wire.Message) -> _Stored:
    """Where and as what a tensor is stored, as far as seen without its file."""
    stored = _Stored(
        wire.integer(entry, 1),
        tensor_proto.parse_shape(wire.content(entry, 2)),
        shard=wire.integer(entry, 3),
        offset=wire.integer(entry, 4),
        size=wire.integer(entry, 5),
        checksum=wire.integer(entry, 6),
        parts=len(wire.contents(entry, 7)),
    )
    if min(stored.shard, stored.offset, stored.size) < 0 or stored.shard > 99999:
        raise wire.Malformed("a tensor at a place that no file has")
    dtype = tensor_proto.dtype_of(stored.type)
    size = tensor_proto.count_bytes(dtype, stored.shape)
    if not dtype.hasobject and not stored.parts and size != stored.size:
        raise wire.Malformed(f"{stored.size} bytes for {dtype} {list(stored.shape)}")
    return stored


def _read_stored(
    stored: _Stored, file: pathlib.Path, name: str
) -> Shaped[np.ndarray, "..."]:
    """The tensor called `name`, its checksum compared."""
    if stored.parts:
        raise InputError(
            f"{file}: {name} is partitioned into {stored.parts} parts, which is not"
            " supported; save it as one variable"
        )
    with wire.blaming(f"{file}, {name}"):
        tensor_proto.check_dtype(stored.type)
        with open(file, "rb") as opened:
            opened.seek(stored.offset)
            raw = opened.read(stored.size)
        dtype = tensor_proto.dtype_of(stored.type)
        if dtype.hasobject:
            return _read_text(raw, stored)
        if masked_crc32c(raw) != stored.checksum:
            raise wire.Malformed("its checksum is wrong")
        return tensor_proto.array_of(raw, dtype, stored.shape)


def _read_text(raw: bytes, stored: _Stored) -> Shaped[np.ndarray, "..."]:
    """Bytes per element: all lengths, the checksum of these, then the contents.

    The checksum covers the lengths as numbers of four bytes, not as they are stored.
    """
    count = math.prod(stored.shape)
    if count > len(raw):
        raise wire.Malformed(f"{len(raw)} bytes for {count} texts")
    lengths, place = wire.read_varints(raw, count)
    start = place + 4
    if sum(lengths) != len(raw) - start:
        raise wire.Malformed("texts that do not fill their place")
    numbers = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths)
    if masked_crc32c(numbers + raw[place:]) != stored.checksum:
        raise wire.Malformed("its checksum is wrong")
    texts = np.empty(count, object)
    for number, length in enumerate(lengths):
        texts[number] = raw[start : start + length]
        start += length
    return texts.reshape(stored.shape)
