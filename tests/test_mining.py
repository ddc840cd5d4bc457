"""The hard negatives of an epoch."""

import numpy as np
import pytest

from delf_jax.losses import mining


def naive(query, pool, own, clusters, count):
    """Walks down the ranking, as the released code does."""
    taken, seen = [], {own}
    for place in sorted(range(len(pool)), key=lambda i: (-(pool[i] @ query), i)):
        if clusters[place] not in seen:
            seen.add(clusters[place])
            taken.append(place)
        if len(taken) == count:
            return taken
    raise AssertionError


@pytest.mark.parametrize("count", [1, 4])
def test_negatives_are_those_of_a_walk_down_the_ranking(rng, count, monkeypatch):
    monkeypatch.setattr(mining, "_CHUNK", 3)
    queries, pool = (rng.integers(-3, 4, (n, 3)).astype(np.float32) for n in (8, 40))
    own, clusters = rng.integers(6, size=8), rng.integers(6, size=40)
    found = mining.hard_negatives(queries, pool, own, clusters, count)
    for query, row, cluster in zip(queries, found, own, strict=True):
        assert row.tolist() == naive(query, pool, cluster, clusters, count)


def test_no_negative_shows_what_the_query_does_and_no_two_the_same(rng):
    descriptors = rng.normal(size=(60, 4)).astype(np.float32)
    clusters = rng.integers(12, size=60)
    found = mining.hard_negatives(descriptors, descriptors, clusters, clusters, 5)
    for own, row in zip(clusters, clusters[found], strict=True):
        assert own not in row and len(set(row)) == 5


def test_too_few_clusters_are_told():
    ones = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="the pool has 1 clusters besides"):
        mining.hard_negatives(ones, ones, np.array([0, 0, 1]), np.array([0, 0, 1]), 2)
