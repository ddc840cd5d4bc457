"""Inverted files made of feature stores, and brought up to date with them.

The store is read once. Aggregated images are gathered until they fill a small shard,
and small shards are merged into larger ones, a list at a time: memory does not grow
with the store. The manifest names what is finished after each of these steps, so a
build that was killed goes on there.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from delf_jax import (
    aggregating,
    codebooks,
    inverted_file,
    inverted_shards,
    inverted_writer,
    progress,
)
from delf_jax.aggregating import Words
from delf_jax.files import InputError
from delf_jax.inverted_file import CODEBOOK, MANIFEST, SHARDS, InvertedFile
from delf_jax.inverted_shards import Shard
from delf_jax.retrieval.inverted import Rule
from delf_jax.store import FeatureStore, StoreReport

# Where an index keeps the inverted file of its photos.
OF_INDEX = "asmk"


def update_inverted_file(
    images: FeatureStore,
    words: Words,
    out: str | os.PathLike,
    *,
    binary: bool = True,
    rule: Rule | None = None,
    thorough: bool = True,
    shown: bool = True,
) -> StoreReport:
    """Brings an inverted file up to date with a store, and says what was done.

    What is there already and unchanged is kept; all is made anew for another codebook
    or other options. Searching it gives what searching one made at once would. For one
    process at a time.
    rule: `default_rule` if none is given.
    thorough: read all lists to see whether they are sound; damaged shards are dropped,
    and only their images are aggregated again.
    """
    out = pathlib.Path(out)
    aggregating.check_words(words, images)
    rule = rule or default_rule(words.regional)
    info = _describe(images, words, binary, rule)
    (out / SHARDS).mkdir(parents=True, exist_ok=True)
    shards, useless, other = _find_shards(out, info, thorough)
    if other and shown:
        print(f"{out}: was made with another codebook or options; all is made anew")
    _write_codebook(out, words, info)
    writer = inverted_writer.Writer(out, info, shards)
    for name in useless:
        inverted_shards.remove_shard(out / SHARDS, name)
    current = dict(zip(images.ids, images.stamps, strict=True))
    gone = writer.drop_others(current)
    known = {id for shard in writer.shards for id, _ in shard.images}
    todo = [row for row, id in enumerate(images.ids) if id not in known]
    kind = "asmk_star" if binary else "asmk"
    try:
        with progress.track("aggregate", len(todo), shown=shown) as advance:
            for row in todo:
                id = images.ids[row]
                where = f"{images.path}, image {id}"
                made = aggregating.aggregate(images[row], words, kind, where)
                writer.add(id, current[id], made)
                advance()
    finally:
        writer.flush()
    writer.finish()
    # Changed images are counted as aggregated, not as removed.
    removed = len(gone - current.keys())
    damaged = 0 if other else len(useless)
    return StoreReport(len(todo), len(known), removed, {}, damaged)


def inverted_file_of_index(
    directory: str | os.PathLike,
    images: FeatureStore,
    codebook: str | os.PathLike | None,
    *,
    shown: bool = True,
) -> InvertedFile:
    """The inverted file that an index keeps of its photos, made or brought up to date.

    Without a codebook the one that it was made with is used, and so are its options
    unless the codebook is another. With features of boxes it is one of R-ASMK*, whose
    queries are plain [D2R]. InputError if there is neither codebook nor file.
    """
    path = pathlib.Path(directory) / OF_INDEX
    known: dict[str, Any] = {}
    if (path / MANIFEST).is_file():
        known = inverted_file.read_manifest(path)
    elif codebook is None:
        raise InputError(
            f"{directory}: has no visual words: name a codebook with --codebook (`fit "
            "codebook` makes one)"
        )
    source = path / CODEBOOK if codebook is None else codebook
    regional = images.manifest.get("with_boxes", False)
    words = aggregating.load_words(source)._replace(regional=regional)
    options: dict[str, Any] = {}
    alike = known and known.get("regional", False) == regional
    if alike and known["codebook_sha256"] == _digest(words):
        words = words._replace(assignments=known["assignments"])
        options = {"binary": known["binary"], "rule": Rule(**known["rule"])}
    current = _open_current(path, images, words, **options)
    if current is not None:
        return current
    update_inverted_file(images, words, path, **options, thorough=False, shown=shown)
    return inverted_file.open_inverted_file(path)


def default_rule(regional: bool) -> Rule:
    """How images are compared: the similarity of ASMK is normalised, of R-ASMK not."""
    return Rule(normalize=not regional)


def _describe(
    images: FeatureStore, words: Words, binary: bool, rule: Rule
) -> dict[str, Any]:
    count, dimension = words.codebook.centroids.shape
    parts = {
        "features_key": images.manifest["key"],
        "codebook_sha256": _digest(words),
        "words": count,
        "dimension": dimension,
        "assignments": words.assignments,
        "binary": binary,
        **({"regional": True} if words.regional else {}),
    }
    text = json.dumps([inverted_file.FORMAT, parts])
    return {
        "format": inverted_file.FORMAT,
        "finished": False,
        "key": hashlib.sha256(text.encode()).hexdigest()[:16],
        "model": images.manifest["model"],
        "settings": images.manifest["settings"],
        **parts,
        "rule": rule._asdict(),
        "norms": None,
    }


def _digest(words: Words) -> str:
    return hashlib.sha256(words.codebook.centroids).hexdigest()


def _find_shards(
    out: pathlib.Path, info: dict[str, Any], thorough: bool
) -> tuple[list[Shard], list[str], bool]:
    """(sound shards, names of those of no use, whether these are of another key)."""
    if not (out / MANIFEST).is_file():
        return [], [], False
    known = inverted_file.read_manifest(out)
    if known["key"] != info["key"]:
        return [], [described["name"] for described in known["shards"]], True
    layout = inverted_file.layout_of(info)
    shards, broken = [], []
    for described in known["shards"]:
        try:
            shard = inverted_shards.open_shard(out / SHARDS, described, layout)
            if thorough:
                inverted_writer.checked(shard)
            shards.append(shard)
        except InputError:
            broken.append(described["name"])
    return shards, broken, False


def _write_codebook(out: pathlib.Path, words: Words, info: dict[str, Any]) -> None:
    """Keeps a copy of the codebook, and notes the checksum of its file."""
    path = out / CODEBOOK
    try:
        known = codebooks.load_codebook(path)
        same = np.array_equal(known.centroids, words.codebook.centroids)
    except (InputError, OSError):
        same = False
    if not same:
        provenance = {
            name: value
            for name, value in words.codebook.info.items()
            if name not in ("format", "words", "dimension", "sha256")
        }
        known = codebooks.save_codebook(path, words.codebook.centroids, provenance)
    info["codebook_file"] = known.info["sha256"]


def _open_current(
    path: pathlib.Path, images: FeatureStore, words: Words, **options: Any
) -> InvertedFile | None:
    """The inverted file, if it is that of a store, and sound as far as is seen."""
    try:
        index = inverted_file.open_inverted_file(path)
    except InputError:
        return None
    options = {"binary": True, "rule": default_rule(words.regional)} | options
    same = index.info["key"] == _describe(images, words, **options)["key"]
    known = {image for shard in index.shards for image in shard.images}
    given = set(zip(images.ids, images.stamps, strict=True))
    return index if same and known == given else None
