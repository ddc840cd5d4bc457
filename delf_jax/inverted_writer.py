"""Shards of an inverted file: filled image by image, merged, cleared away."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from delf_jax import codebooks, inverted_file, inverted_shards
from delf_jax.files import sha256_of, write_json
from delf_jax.inverted_file import MANIFEST, NORMS, SHARDS
from delf_jax.inverted_shards import Shard
from delf_jax.retrieval import inverted
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.inverted import Layout

# Of aggregated images that are gathered, and a killed build loses: 6000 with 500 words
# of 128 bits each. The seconds are for large codebooks, where an image takes a while.
RUN_BYTES, RUN_SECONDS = 64 * 2**20, 120.0
# Shards smaller than half of this are merged once they have it together, that is
# 400,000 of such images ...
SHARD_BYTES = 4 * 2**30
# ... and, when all is done, if there are more of them than this.
SMALL_SHARDS = 8
# Of a process that was killed; a younger file may still be written.
_STALE_SECONDS = 3600


class Writer:
    """Gathers aggregated images and writes shards of them, and the manifest."""

    def __init__(
        self, out: pathlib.Path, info: dict[str, Any], shards: Sequence[Shard]
    ):
        self.out, self.info, self.shards = out, info, list(shards)
        self.layout: Layout = inverted_file.layout_of(info)
        self._clear()
        self._save()

    def drop_others(self, current: dict[str, str]) -> set[str]:
        """Forgets images of other ids or stamps than these; their ids."""
        gone = set()
        for shard in list(self.shards):
            kept = np.array([current.get(id) == s for id, s in shard.images], bool)
            gone |= {id for (id, _), k in zip(shard.images, kept, strict=True) if not k}
            if not kept.all():
                self._replace([shard], [kept])
        return gone

    def add(self, id: str, stamp: str, aggregated: Aggregated) -> None:
        self._images.append((id, stamp))
        self._aggregated.append(aggregated)
        arrays = aggregated.residuals.nbytes + aggregated.visual_words.nbytes
        self._bytes += arrays + len(id)
        old = time.monotonic() - self._started > RUN_SECONDS
        if old or self._bytes >= RUN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was gathered; merges small shards that make a large one."""
        images, aggregated = self._images, self._aggregated
        # Also on an error they are gone: flushing again would fail again.
        self._clear()
        if images:
            counts = np.array([len(a.visual_words) for a in aggregated], np.int32)
            lists = inverted.invert(aggregated, self.info["words"], self.layout)
            self._take([], images, counts, lists)
            small = _small(self.shards)
            if sum(map(_size, small)) >= SHARD_BYTES:
                self._replace(small)

    def finish(self) -> None:
        """Writes the rest, leaves few shards, and notes that all is done."""
        self.flush()
        small = _small(self.shards)
        if len(small) > SMALL_SHARDS:
            self._replace(small)
        if self.info["rule"]["idf"]:
            self.info["norms"] = _write_norms(self.out, self.info, self.shards)
        self.info["finished"] = True
        self._save()
        _clear_away(self.out, self.shards)

    def _replace(
        self, shards: list[Shard], kept: list[np.ndarray] | None = None
    ) -> None:
        """One shard in place of several, or of some of their images."""
        kept = kept or [np.ones(len(shard.images), bool) for shard in shards]
        pairs = list(zip(shards, kept, strict=True))
        images = [
            image
            for shard, mask in pairs
            for image, keep in zip(shard.images, mask, strict=True)
            if keep
        ]
        counts = np.concatenate([s.lists.word_counts[mask] for s, mask in pairs])
        lists = inverted.merge([checked(shard) for shard in shards], kept)
        self._take(shards, images, counts, lists)

    def _take(self, old: list[Shard], images: list, counts: Any, lists: Any) -> None:
        """Writes a shard in place of others; the manifest names what is there."""
        names = {shard.described["name"] for shard in old}
        self.shards = [s for s in self.shards if s.described["name"] not in names]
        folder = self.out / SHARDS
        if images:
            described = inverted_shards.write_shard(folder, images, counts, lists)
            made = inverted_shards.open_shard(folder, described, self.layout)
            self.shards.append(made)
        self._save()
        for name in names:
            inverted_shards.remove_shard(folder, name)

    def _save(self) -> None:
        described = [shard.described for shard in self.shards]
        self.info["shards"] = described
        self.info["images"] = sum(each["images"] for each in described)
        self.info["postings"] = sum(each["postings"] for each in described)
        write_json(self.out / MANIFEST, self.info)

    def _clear(self) -> None:
        self._images: list[tuple[str, str]] = []
        self._aggregated: list[Aggregated] = []
        self._bytes, self._started = 0, time.monotonic()


def checked(shard: Shard) -> inverted.Lists:
    return inverted_shards.check_lists(shard, np.arange(len(shard.checksums)))


def _size(shard: Shard) -> int:
    return shard.described["bytes"]


def _small(shards: Sequence[Shard]) -> list[Shard]:
    """The shards that it is worth merging: none outweighs all others together."""
    small = sorted((s for s in shards if _size(s) < SHARD_BYTES // 2), key=_size)
    while small and 2 * _size(small[-1]) > sum(map(_size, small)):
        small.pop()
    return small


def _write_norms(out: pathlib.Path, info: dict[str, Any], shards: list[Shard]) -> str:
    """The SHA-256 of the file of norms."""
    counts = sum(
        (s.lists.counts.astype(np.int64) for s in shards), np.zeros(1, np.int64)
    )
    weights = inverted.word_weights(counts, info["images"])
    norms = {
        shard.described["name"]: inverted.squared_norms(checked(shard), weights)
        for shard in shards
    }
    codebooks.write_tensors(out / NORMS, norms, {})
    return sha256_of(out / NORMS)


def _clear_away(out: pathlib.Path, shards: Sequence[Shard]) -> None:
    """Deletes files of no shard, unless they may still be written."""
    names = {shard.described["name"] for shard in shards}
    for path in (out / SHARDS).iterdir():
        stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
        if path.stem not in names and stale:
            path.unlink(missing_ok=True)
