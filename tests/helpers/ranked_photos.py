"""Random descriptors in the place of a dataset and its store, for tests of ranking."""

from typing import NamedTuple

import numpy as np

from delf_jax.evaluation import ranking
from delf_jax.evaluation.datasets import Protocol
from delf_jax.features import Features, LocalFeatures
from delf_jax.images import SizeBounds
from delf_jax.search import matching, pipeline
from delf_jax.search.matching import Verified


class Rows(NamedTuple):
    """The descriptors of a dataset, in its order."""

    queries: np.ndarray
    images: np.ndarray
    similarities: np.ndarray


class Store:
    """As much of a store as ranking needs."""

    def __init__(self, descriptors):
        self.global_descriptors = descriptors

    def __getitem__(self, row):
        return make_features(self.global_descriptors[row])

    def read_global(self, rows):
        return self.global_descriptors[rows]


def make_features(descriptor):
    empty = LocalFeatures(
        np.zeros((0, 2), np.float32),
        np.zeros(0, np.float32),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
    )
    return Features(empty, descriptor, (100, 100))


def make_inputs(rng, queries=2, images=12, own=None):
    rows = rng.normal(size=(queries + images, 8)) + 0.5
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return pipeline.RankingInputs(
        queries=[make_features(row) for row in rows[:queries]],
        store=Store(rows[queries:][::-1]),
        rows=np.arange(images)[::-1],
        own=np.full(queries, -1) if own is None else np.array(own),
        bounds=SizeBounds(100),
    ), Rows(rows[:queries], rows[queries:], rows[:queries] @ rows[queries:].T)


def protocol(junk=((), ())):
    nothing = [np.zeros(0, np.int32) for _ in junk]
    return Protocol(nothing, [np.array(ids, np.int32) for ids in junk])


def rank_one(inputs, steps, junk=((), ()), **options):
    protocols = {"all": protocol(junk)}
    (found,) = ranking.rank(inputs, [steps], protocols, progress=False, **options)
    return found["all"]


def verify_as(monkeypatch, inliers):
    """Verification that finds these inliers, by id; returns the pairs verified."""
    pairs = []

    def verify(queries, candidates, *_, **__):
        for query, ids in zip(queries, candidates, strict=True):
            descriptor = query.global_descriptor
            name = None if descriptor is None else descriptor.tobytes()
            pairs.extend((name, id) for id in ids.tolist())
            lines = np.zeros((0, 4))
            yield {id: Verified(inliers[id], lines) for id in ids.tolist()}

    monkeypatch.setattr(matching, "verify", verify)
    return pairs
