import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.retrieval.ranking import rerank, top_k


@given(
    levels=st.lists(st.integers(0, 5), min_size=1, max_size=80), k=st.integers(0, 90)
)
def test_top_k_is_the_head_of_a_stable_sort(levels, k):
    similarities = np.array(levels, np.float32) / 5
    expected = sorted(range(len(levels)), key=lambda i: (-levels[i], i))[:k]
    np.testing.assert_array_equal(top_k(similarities, k), expected)


def test_top_k_of_many_queries_is_that_of_each(rng):
    similarities = rng.integers(0, 4, (3, 40)).astype(np.float32)
    for one, ranking in zip(similarities, top_k(similarities, 4), strict=True):
        np.testing.assert_array_equal(top_k(one, 4), ranking)
    assert top_k(similarities).shape == (3, 40)


def test_inliers_beyond_chance_outrank_similarity():
    candidates = np.array([10, 11, 12])
    similarities = np.array([0.9, 0.6, 0.3])
    inliers = np.array([1, 60, 2])
    np.testing.assert_array_equal(
        rerank(candidates, similarities, inliers), [11, 10, 12]
    )


def test_without_inliers_the_similarities_rank(rng):
    similarities = rng.uniform(size=20)
    ranking = rerank(np.arange(20), similarities, np.zeros(20, int))
    np.testing.assert_array_equal(ranking, top_k(similarities))


def test_infinite_weight_is_the_rule_of_the_original():
    ranking = rerank(
        np.arange(4),
        np.array([0.9, 0.1, 0.3, 0.3]),
        np.array([0, 2, 1, 1]),
        weight=np.inf,
    )
    np.testing.assert_array_equal(ranking, [1, 2, 3, 0])


@given(order=st.permutations(range(8)))
def test_candidates_may_come_in_any_order(order):
    candidates = np.arange(8) * 3
    similarities = np.array([0.5, 0.5, 0.4, 0.2, 0.2, 0.9, 0.1, 0.5])
    inliers = np.array([10, 10, 3, 40, 40, 0, 7, 2])
    order = list(order)
    np.testing.assert_array_equal(
        rerank(candidates[order], similarities[order], inliers[order]),
        rerank(candidates, similarities, inliers),
    )


@pytest.mark.parametrize("weight", [1.0, np.inf])
def test_no_candidates_give_an_empty_ranking(weight):
    empty = np.zeros(0)
    ranking = rerank(empty.astype(int), empty, empty.astype(int), weight=weight)
    assert ranking.shape == (0,) and ranking.dtype == np.int32
