"""Inverted files made of feature stores, and brought up to date with them.

The store is read once. Aggregated images are gathered until they fill a small shard,
and small shards are merged into larger ones, a list at a time: memory does not grow
with the store. The manifest names what is finished: a killed build resumes there.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from delf_jax import runtime
from delf_jax.cluster import jobs
from delf_jax.cluster.shares import Share
from delf_jax.files import InputError, clear_leftovers, digest, sha256_of
from delf_jax.formats import tensor_files
from delf_jax.index import aggregation, inverted_file, inverted_shards
from delf_jax.index.aggregation import Vocabulary
from delf_jax.index.codebook import load_codebook, save_codebook
from delf_jax.index.inverted_file import CODEBOOK, MANIFEST, NORMS, SHARDS, InvertedFile
from delf_jax.index.inverted_shards import Shard, open_shard
from delf_jax.manifests import owned, write_manifest
from delf_jax.progress import track
from delf_jax.retrieval import inverted
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.inverted import Layout, Rule
from delf_jax.retrieval.similarity import VLAD
from delf_jax.store import writer as store_files
from delf_jax.store.feature_store import FeatureStore, StoreReport, open_store

# Where an index keeps the inverted files of its photos, by what they are of: ASMK*,
# ASMK and VLAD, or with features of boxes R-ASMK*, R-ASMK and R-VLAD.
ASMK, *_ = OF_INDEX = ("asmk", "float_asmk", "vlad")


def update_inverted_file(
    images: FeatureStore,
    words: Vocabulary,
    out: str | os.PathLike,
    *,
    binary: bool = True,
    rule: Rule | None = None,
    ray: str | None = None,
    thorough: bool = True,
    progress: bool = True,
) -> StoreReport:
    """Brings an inverted file up to date with a store; what was done.

    What is there and unchanged is kept; for another codebook or other options all is
    rebuilt. It is searched as one built at once would be. For one process at a time.

    Args:
      ray: address of a cluster that aggregates; "": one on this machine.
      thorough: read all lists to see whether they are sound; damaged shards are
        dropped, and only their images are aggregated again.
    """
    out = pathlib.Path(out)
    aggregation.check_words(words, images)
    rule = rule or default_rule(words.regional)
    info = _manifest(images, words, binary, rule)
    for name in (SHARDS, CODEBOOK):
        owned(out / name).mkdir(parents=True, exist_ok=True)
    shards, useless, other = _find_shards(out, info, thorough)
    if other and progress:
        print(f"{out}: built with another codebook or options; rebuilding all")
    _write_codebook(out, words, info)
    writer = Writer(out, info, shards)
    for name in useless:
        inverted_shards.remove_shard(out / SHARDS, name)
    current = dict(zip(images.ids, images.stamps, strict=True))
    gone = writer.drop_others(current)
    known = {id for shard in writer.shards for id, _ in shard.images}
    todo = [(id, stamp) for id, stamp in current.items() if id not in known]
    failed: dict[str, str] = {}
    try:
        with track("aggregate", len(todo), progress=progress) as advance:
            for count, failures in _aggregate(writer, images, todo, words, ray):
                failed |= failures
                advance(count)
    finally:
        writer.flush()
    writer.finish()
    # Changed images are counted as aggregated, not as removed.
    removed = len(gone - current.keys())
    damaged = 0 if other else len(useless)
    aggregated = len(todo) - len(failed)
    return StoreReport(aggregated, len(known), removed, failed, damaged)


class _Job(NamedTuple):
    """What a worker of a cluster needs."""

    store: pathlib.Path
    words: Vocabulary
    out: pathlib.Path
    info: dict[str, Any]


def _aggregate(
    writer: "Writer",
    images: FeatureStore,
    todo: Sequence[tuple[str, str]],
    words: Vocabulary,
    ray: str | None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, reasons by id of those that failed) of images that were done."""
    if ray is None:
        for id, stamp in todo:
            writer.add(id, stamp, _aggregated(images, id, words, writer.info))
            yield 1, {}
        return
    job = _Job(images.path, words, writer.out, writer.info)
    work, folder = functools.partial(_open_work, job), writer.out / SHARDS
    seen = images.path / store_files.MANIFEST
    done = jobs.run(ray, work, todo, folder, most=SHARE, seen=seen)
    for share, entry, reason in done:
        if not reason:
            writer.take(entry)
        yield len(share), {id: f"{id}: {reason}" for id, _ in share if reason}


def _open_work(job: _Job) -> Callable[[Share], dict[str, Any]]:
    """What a worker does with a share, (id, stamp) of some images: writes a shard."""
    runtime.enable_compilation_cache()
    images, layout = open_store(job.store), inverted_file.layout_of(job.info)

    def write(share: Sequence[tuple[str, str]]) -> dict[str, Any]:
        found = [_aggregated(images, id, job.words, job.info) for id, _ in share]
        counts = np.array([len(each.visual_words) for each in found], np.int32)
        lists = inverted.invert(found, job.info["words"], layout)
        name = digest([job.info["key"], *share], 12)
        folder = job.out / SHARDS
        return inverted_shards.write_shard(folder, share, counts, lists, name)

    return write


def _aggregated(
    images: FeatureStore, id: str, words: Vocabulary, info: dict[str, Any]
) -> Aggregated:
    kind = "asmk_star" if info["binary"] else "asmk"
    where = f"{images.path}, image {id}"
    return aggregation.aggregate(images[images.row(id)], words, kind, where)


def inverted_file_of_index(
    directory: str | os.PathLike,
    images: FeatureStore,
    codebook: str | os.PathLike | None,
    kind: str = ASMK,
    *,
    progress: bool = True,
) -> InvertedFile:
    """The inverted file that an index keeps of its photos, built or brought up to date.

    Without a codebook the one that it was built with is used, and so are its options
    unless the codebook is another. With features of boxes it is a regional one, whose
    queries are plain [D2R]. InputError if there is neither codebook nor file.

    Args:
      kind: one of OF_INDEX.
    """
    path = pathlib.Path(directory) / kind
    known: dict[str, Any] = {}
    if (path / MANIFEST).is_file():
        known = inverted_file.read_manifest(path)
    elif codebook is None:
        raise InputError(
            f"{directory}: has no visual words: name a codebook with --codebook (`fit "
            "codebook` fits one)"
        )
    source = path / CODEBOOK if codebook is None else codebook
    regional = images.manifest.get("with_boxes", False)
    words = aggregation.load_words(source)
    words = words._replace(regional=regional, vlad=kind == "vlad")
    binary, rule = kind == ASMK, VLAD if words.vlad else default_rule(regional)
    same = known and known.get("regional", False) == regional
    if same and known["codebook_sha256"] == digest(words.codebook.centroids.data):
        words = words._replace(assignments=known["assignments"])
        binary, rule = known["binary"], inverted_file.rule_of(known)
    current = _open_current(path, images, words, binary, rule)
    if current is not None:
        return current
    owned(path)
    update_inverted_file(
        images, words, path, binary=binary, rule=rule, thorough=False, progress=progress
    )
    return inverted_file.open_inverted_file(path)


def default_rule(regional: bool) -> Rule:
    """How images are compared: the similarity of ASMK is normalised, of R-ASMK not."""
    return Rule(normalize=not regional)


def _manifest(
    images: FeatureStore, words: Vocabulary, binary: bool, rule: Rule
) -> dict[str, Any]:
    count, dimension = words.codebook.centroids.shape
    parts = {
        "features_key": images.manifest["key"],
        "codebook_sha256": digest(words.codebook.centroids.data),
        "words": count,
        "dimension": dimension,
        "assignments": words.assignments,
        "binary": binary,
        **({"regional": True} if words.regional else {}),
        **({"vlad": True} if words.vlad else {}),
    }
    return {
        "format": inverted_file.FORMAT,
        "finished": False,
        "key": digest([inverted_file.FORMAT, parts], 16),
        "model": images.manifest["model"],
        "settings": images.manifest["settings"],
        **parts,
        "rule": rule._asdict(),
        "norms": None,
    }


def _find_shards(
    out: pathlib.Path, info: dict[str, Any], thorough: bool
) -> tuple[list[Shard], list[str], bool]:
    """(sound shards, names of those of no use, whether these are of another key)."""
    if not (out / MANIFEST).is_file():
        return [], [], False
    known = inverted_file.read_manifest(out)
    if known["key"] != info["key"]:
        return [], [entry["name"] for entry in known["shards"]], True
    layout = inverted_file.layout_of(info)
    shards, broken = [], []
    for entry in known["shards"]:
        try:
            shard = open_shard(out / SHARDS, entry, layout, info["words"])
            if thorough:
                checked(shard)
            shards.append(shard)
        except InputError:
            broken.append(entry["name"])
    return shards, broken, False


def _write_codebook(out: pathlib.Path, words: Vocabulary, info: dict[str, Any]) -> None:
    """Keeps a copy of the codebook, and notes the checksum of its file."""
    path = out / CODEBOOK
    known, (centroids, provenance, _) = None, words.codebook
    with contextlib.suppress(InputError, OSError):
        known = load_codebook(path)
    if known is None or not np.array_equal(known.centroids, centroids):
        of_file = ("format", "words", "dimension", "sha256")
        provenance = {k: v for k, v in provenance.items() if k not in of_file}
        known = save_codebook(path, centroids, provenance)
    info["codebook_file"] = known.info["sha256"]


def _open_current(
    path: pathlib.Path,
    images: FeatureStore,
    words: Vocabulary,
    binary: bool,
    rule: Rule,
) -> InvertedFile | None:
    """The inverted file, if it is that of a store, and sound as far as is seen."""
    try:
        index = inverted_file.open_inverted_file(path)
    except InputError:
        return None
    same = index.info["key"] == _manifest(images, words, binary, rule)["key"]
    known = {image for shard in index.shards for image in shard.images}
    current = set(zip(images.ids, images.stamps, strict=True))
    return index if same and known == current else None


# Of aggregated images that are gathered, and a killed build loses: 6000 with 500 words
# of 128 bits each. The seconds are for large codebooks, where an image takes a while.
RUN_BYTES, RUN_SECONDS = 64 * 2**20, 120.0
# Images of a worker's share: they are as many, and small shards are merged later.
SHARE = 4096
# 400,000 of such images. Shards of less than half are merged once they fill one,
SHARD_BYTES = 4 * 2**30
# and, when all is done, if there are more of them than this.
SMALL_SHARDS = 8
# Files of no shard are of a killed process; a younger one may still be written.
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
            if not kept.all():
                gone |= {id for id, _ in itertools.compress(shard.images, ~kept)}
                self._replace([shard], [kept])
        return gone

    def add(self, id: str, stamp: str, aggregated: Aggregated) -> None:
        self._images.append((id, stamp))
        self._aggregated.append(aggregated)
        self._bytes += sum(array.nbytes for array in aggregated) + len(id)
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
            self._merge_what_fills_one()

    def take(self, entry: dict[str, Any]) -> None:
        """Names a shard that somebody else has written."""
        words = self.info["words"]
        self.shards.append(open_shard(self.out / SHARDS, entry, self.layout, words))
        self._save()
        self._merge_what_fills_one()

    def _merge_what_fills_one(self) -> None:
        small = _small(self.shards)
        if sum(map(_size, small)) >= SHARD_BYTES:
            self._replace(small)

    def finish(self) -> None:
        """Writes the rest, leaves few shards, and notes that all is done."""
        self.flush()
        if len(small := _small(self.shards)) > SMALL_SHARDS:
            self._replace(small)
        if self.info["rule"]["idf"]:
            self.info["norms"] = _write_norms(self.out, self.info, self.shards)
        self.info["finished"] = True
        self._save()
        clear_leftovers(self.out / SHARDS)
        names = {shard.entry["name"] for shard in self.shards}
        for path in inverted_shards.list_files(self.out / SHARDS):
            stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
            if path.stem not in names and stale:
                path.unlink(missing_ok=True)

    def _replace(
        self, shards: list[Shard], kept: list[np.ndarray] | None = None
    ) -> None:
        """One shard in place of several, or of some of their images."""
        kept = kept or [np.ones(len(shard.images), bool) for shard in shards]
        pairs = list(zip(shards, kept, strict=True))
        images = [i for s, mask in pairs for i in itertools.compress(s.images, mask)]
        counts = np.concatenate([s.lists.word_counts[mask] for s, mask in pairs])
        lists = inverted.merge([checked(shard) for shard in shards], kept)
        self._take(shards, images, counts, lists)

    def _take(self, old: list[Shard], images: list, counts: Any, lists: Any) -> None:
        """Writes a shard in place of others; the manifest names what is there."""
        names = {shard.entry["name"] for shard in old}
        self.shards = [s for s in self.shards if s.entry["name"] not in names]
        folder = self.out / SHARDS
        if images:
            entry = inverted_shards.write_shard(folder, images, counts, lists)
            words = self.info["words"]
            self.shards.append(open_shard(folder, entry, self.layout, words))
        self._save()
        for name in names:
            inverted_shards.remove_shard(folder, name)

    def _save(self) -> None:
        entries = [shard.entry for shard in self.shards]
        self.info["shards"] = entries
        self.info["images"] = sum(entry["images"] for entry in entries)
        self.info["postings"] = sum(entry["postings"] for entry in entries)
        write_manifest(self.out / MANIFEST, self.info)

    def _clear(self) -> None:
        self._images: list[tuple[str, str]] = []
        self._aggregated: list[Aggregated] = []
        self._bytes, self._started = 0, time.monotonic()


def checked(shard: Shard) -> inverted.Lists:
    return inverted_shards.check_lists(shard, np.arange(len(shard.checksums)))


def _size(shard: Shard) -> int:
    return shard.entry["bytes"]


def _small(shards: Sequence[Shard]) -> list[Shard]:
    """The shards that it is worth merging: none outweighs all others together."""
    small = sorted((s for s in shards if _size(s) < SHARD_BYTES // 2), key=_size)
    while small and 2 * _size(small[-1]) > sum(map(_size, small)):
        small.pop()
    return small


def _write_norms(out: pathlib.Path, info: dict[str, Any], shards: list[Shard]) -> str:
    """The SHA-256 of the file of norms."""
    weights = inverted_file.weights_of(shards, info["words"])
    norms = {
        shard.entry["name"]: inverted.squared_norms(checked(shard), weights)
        for shard in shards
    }
    tensor_files.write_tensors(out / NORMS, norms, {})
    return sha256_of(out / NORMS)
