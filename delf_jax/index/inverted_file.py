"""Inverted files on disk: images that are found by the visual words they share.

    inverted.json       settings of aggregation; the shards, with sizes and checksums
    codebook/           the visual words
    shards/             the lists of many images each, see inverted_shards.py
    norms.safetensors   with idf alone: of each image the weights of its words, summed

Similarities are those of `retrieval.similarity.asmk_similarities`, to the same bits: an
image lies in one shard, and its words are added up in ascending order. VLAD is kept in
the same way, as residuals that are normalised together, not each by itself.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32

from delf_jax import manifests
from delf_jax.features import Features
from delf_jax.files import InputError, sha256_of
from delf_jax.formats import tensor_files
from delf_jax.index import aggregation, inverted_shards
from delf_jax.index.aggregation import Vocabulary
from delf_jax.index.inverted_shards import Shard, open_shard
from delf_jax.manifests import COUNT, MODEL, POSITIVE, SHA256, one_of
from delf_jax.retrieval import inverted
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.inverted import Layout, Rule

FORMAT = 1
MANIFEST, CODEBOOK, SHARDS = "inverted.json", "codebook", "shards"
NORMS = "norms.safetensors"

_SCHEMA = {
    "format": one_of(FORMAT),
    **dict.fromkeys(("finished", "binary"), bool),
    **dict.fromkeys(("words", "dimension", "assignments"), POSITIVE),
    **dict.fromkeys(("images", "postings"), COUNT),
    "key": str,
    **dict.fromkeys(("codebook_sha256", "codebook_file"), SHA256),
    "model": MODEL,
    "settings": {},
    "rule": {
        **dict.fromkeys(("alpha", "tau"), float),
        **dict.fromkeys(("strict", "normalize", "idf"), bool),
    },
    "norms": (SHA256, None),
    **dict.fromkeys(("regional?", "vlad?"), bool),
    "shards": [inverted_shards.ENTRY],
}


_REPAIR = "remove it and run `aggregate`, or `search` with --codebook, again"


class InvertedFile(NamedTuple):
    """What can be searched."""

    path: pathlib.Path
    info: dict[str, Any]
    """inverted.json"""
    ids: list[str]
    """of the images, ascending: rows below are places in this list"""
    words: Vocabulary
    rule: Rule
    shards: list[Shard]
    rows: list[Int32[np.ndarray, "_"]]
    """of the images of each shard"""
    norms: list[Float64[np.ndarray, "_"]]
    """squared, of the images of each shard"""
    weights: Float64[np.ndarray, "K"] | None
    """of the words; None: 1"""


def open_inverted_file(path: str | os.PathLike) -> InvertedFile:
    """The inverted file at `path`, mapped.

    InputError if it is absent, not finished, or damaged as far as that is seen without
    reading all of it; lists are checked when a query first reads them.
    """
    path = pathlib.Path(path)
    info = read_manifest(path)
    if not info["finished"]:
        raise InputError(f"{path}: not finished: resume with `aggregate`")
    words = aggregation.load_words(path / CODEBOOK, info["assignments"])
    words = words._replace(
        regional=info.get("regional", False), vlad=info.get("vlad", False)
    )
    shape = info["words"], info["dimension"]
    known = words.codebook.info.get("sha256"), words.codebook.centroids.shape
    if known != (info["codebook_file"], shape):
        raise InputError(
            f"{path / CODEBOOK}: not the codebook of this inverted file; run "
            "`aggregate` again"
        )
    folder, layout = path / SHARDS, layout_of(info)
    shards = [open_shard(folder, e, layout, info["words"]) for e in info["shards"]]
    rule = rule_of(info)
    ids, rows = _number(shards)
    norms = [shard.lists.word_counts.astype(np.float64) for shard in shards]
    weights = None
    if rule.idf:
        weights, file = weights_of(shards, info["words"]), path / NORMS
        if not file.is_file() or sha256_of(file) != info["norms"]:
            raise InputError(f"{file}: damaged or missing; run `aggregate` again")
        tensors, _ = tensor_files.read_tensors(file)
        found = [tensors.get(shard.entry["name"], norms[0][:0]) for shard in shards]
        if not all(map(_are_norms, found, norms)):
            raise InputError(f"{file}: not the norms of these shards; {_REPAIR}")
        norms = found
    return InvertedFile(path, info, ids, words, rule, shards, rows, norms, weights)


def aggregate_query(index: InvertedFile, features: Features) -> Aggregated:
    """A query, aggregated as the images were, but never by region [D2R]."""
    kind = "asmk_star" if index.info["binary"] else "asmk"
    plain = index.words._replace(regional=False)
    return aggregation.aggregate(features, plain, kind, "query")


def similarities(index: InvertedFile, query: Aggregated) -> Float64[np.ndarray, " M"]:
    """The similarity of the query with each image, in the order of their ids."""
    found = np.zeros(len(index.ids))
    for place, rows in enumerate(index.rows):
        found[rows] = _shard_similarities(index, place, query)
    return found


def search(
    index: InvertedFile, query: Aggregated, k: int
) -> tuple[Int32[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """(rows, similarities) of the k most similar images, best first.

    Of equals the lower id comes first. In memory is a number for each image of a shard.
    """
    rows, values = np.zeros(0, np.int32), np.zeros(0)
    for place, of_shard in enumerate(index.rows):
        found = _shard_similarities(index, place, query)
        # Those that can be among the first k, all that tie at the border included.
        if k < len(found):
            kept = np.flatnonzero(found >= np.partition(found, -k)[-k])
            of_shard, found = of_shard[kept], found[kept]
        rows = np.concatenate([rows, of_shard])
        values = np.concatenate([values, found])
        best = np.lexsort((rows, -values))[:k]
        rows, values = rows[best], values[best]
    return rows, values


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """inverted.json; InputError if it is absent or of another format."""
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path}: no inverted file here ({MANIFEST} is missing)")
    return manifests.read_manifest(path / MANIFEST, _SCHEMA, _REPAIR)


def rule_of(info: dict[str, Any]) -> Rule:
    return Rule(**{name: info["rule"][name] for name in Rule._fields})


def layout_of(info: dict[str, Any]) -> Layout:
    return Layout(info["dimension"], info["binary"])


def _shard_similarities(
    index: InvertedFile, place: int, query: Aggregated
) -> Float64[np.ndarray, " _"]:
    lists = inverted_shards.check_lists(index.shards[place], query.visual_words)
    found = inverted.scores(lists, query, index.rule, index.weights)
    if not index.rule.normalize:
        return found
    own = float(len(query.visual_words))
    if index.weights is not None:
        own = float(index.weights[query.visual_words].sum())
    return inverted.normalized(found, own, index.norms[place])


def _are_norms(found: np.ndarray, wanted: Float64[np.ndarray, " M"]) -> bool:
    """Whether these are as many finite numbers, none below 0."""
    alike = (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    return alike and bool((np.isfinite(found) & (found >= 0)).all())


def _number(shards: list[Shard]) -> tuple[list[str], list[Int32[np.ndarray, " _"]]]:
    """The ids of all images, ascending, and the places there of those of each shard."""
    ids = [id for shard in shards for id, _ in shard.images]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    rows = np.empty(len(ids), np.int32)
    rows[order] = np.arange(len(ids), dtype=np.int32)
    ends = np.cumsum([len(shard.images) for shard in shards])
    return [ids[place] for place in order], np.split(rows, ends)[: len(shards)]


def weights_of(shards: list[Shard], words: int) -> Float64[np.ndarray, " K"]:
    """The weight of each word, by how many images of all shards have it."""
    counts = np.zeros(words, np.int64)
    for shard in shards:
        counts += shard.lists.counts
    return inverted.word_weights(counts, sum(len(shard.images) for shard in shards))
