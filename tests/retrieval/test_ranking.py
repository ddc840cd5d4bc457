import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.retrieval import ranking
from delf_jax.retrieval.ranking import Calibration, rerank, top_k


@given(
    levels=st.lists(st.integers(0, 5), min_size=1, max_size=80), k=st.integers(0, 90)
)
def test_top_k_is_the_head_of_a_stable_sort(levels, k):
    similarities = np.array(levels, np.float32) / 5
    expected = sorted(range(len(levels)), key=lambda i: (-levels[i], i))[:k]
    np.testing.assert_array_equal(top_k(similarities, k), expected)


def test_top_k_of_many_queries_is_that_of_each(rng):
    similarities = rng.integers(0, 4, (3, 40)).astype(np.float32)
    for one, ranked in zip(similarities, top_k(similarities, 4), strict=True):
        np.testing.assert_array_equal(top_k(one, 4), ranked)
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


CALIBRATION = Calibration(
    share=0.7,
    slope=3.0,
    middle=1.0,
    most=8.0,
    background=(5, 6, 6, 7, 7, 8, 8, 9, 10, 12),
    by_chance=(15, 20),
    surprise=(1.5, 2.3),
)


def chance(rng, level=7, count=100):
    """Inliers of unrelated candidates."""
    return rng.integers(0.7 * level, 1.4 * level, count)


@given(counts=st.lists(st.integers(0, 900), min_size=2, max_size=60))
def test_evidence_never_falls_with_inliers_and_is_bounded(counts):
    inliers = np.sort(np.array(counts, np.int32))
    found = ranking.deviations(inliers, CALIBRATION.background)
    ratios = ranking.log_likelihood_ratio(found, CALIBRATION)
    assert (np.diff(ratios) >= -1e-12).all()
    assert np.log(1 - CALIBRATION.share) <= ratios[0] and ratios[-1] <= CALIBRATION.most


def test_a_clear_similarity_is_never_overruled_by_chance(rng):
    # One photo stands out by similarity; the others share inliers by chance.
    for _ in range(20):
        similarities = np.sort(rng.normal(0.5, 0.05, 100))[::-1].copy()
        similarities[0] = 0.95
        inliers = chance(rng)
        inliers[0] = 0
        found = rerank(np.arange(100), similarities, inliers, calibration=CALIBRATION)
        assert found[0] == 0
        # The formula of models without a calibration puts chance first.
        assert rerank(np.arange(100), similarities, inliers)[0] != 0


def test_a_photo_that_geometry_confirms_comes_first(rng):
    similarities = np.sort(rng.normal(0.5, 0.05, 100))[::-1]
    inliers = chance(rng)
    inliers[70] = 80
    found = rerank(np.arange(100), similarities, inliers, calibration=CALIBRATION)
    assert found[0] == 70


def test_what_is_chance_depends_on_the_other_candidates(rng):
    few, many = chance(rng), chance(rng, level=30)
    few[3] = many[3] = 45
    calm, busy = (ranking.deviations(x, CALIBRATION.background)[3] for x in (few, many))
    assert calm > 1.5 * busy > 0
    limits = [ranking.most_by_chance(x, CALIBRATION) for x in (few, many)]
    assert limits[0] < 45 < limits[1]


@pytest.mark.parametrize("share", [0.3, 0.49, 0.51, 0.7])
def test_how_many_candidates_have_no_map_at_all_does_not_matter(rng, share):
    """Where half of them share 0 inliers and the others 4 to 9, 9 is no evidence."""
    inliers = chance(rng, level=6)
    inliers[: round(100 * share)] = 0
    inliers[:4] = 9, 30, 0, 4
    nine, thirty, none, four = ranking.log_likelihood_ratio(
        ranking.deviations(inliers, CALIBRATION.background), CALIBRATION
    )[:4]
    assert none == four < nine < 2 and thirty > 4


def test_alone_a_candidate_is_judged_by_the_background():
    background = CALIBRATION.background
    many, few = (ranking.deviations(np.array([n]), background)[0] for n in (40, 7))
    assert many > 3 > 1 > abs(few)
    assert ranking.most_by_chance(np.array([40]), CALIBRATION) < 40
    assert ranking.most_by_chance(np.zeros(0), CALIBRATION, least=6) >= 6


def test_the_unit_of_similarities_does_not_matter(rng):
    similarities, inliers = rng.exponential(size=50), chance(rng, count=50)
    expected = ranking.log_odds(similarities, inliers, CALIBRATION)
    found = ranking.log_odds(0.3 + 0.01 * similarities, inliers, CALIBRATION)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("similarities", [[], [0.4], [0.4, 0.4, 0.4], [0.9, 0, 0, 0]])
def test_rarity_is_finite_whatever_the_list(similarities):
    found = ranking.rarity(np.array(similarities))
    assert len(found) == len(similarities) and np.isfinite(found).all()
    assert (np.diff(found) <= 0).all()


def test_rarity_of_an_exponential_tail_is_its_logarithm(rng):
    similarities = 0.2 + 0.03 * rng.exponential(size=100_000)
    found = ranking.rarity(similarities)
    np.testing.assert_allclose(
        found, (similarities - np.median(similarities)) / 0.03, rtol=0.05, atol=0.05
    )


def test_infinite_weight_ranks_by_inliers_with_a_calibration_as_well(rng):
    similarities, inliers = rng.uniform(size=30), chance(rng, count=30)
    found = rerank(
        np.arange(30), similarities, inliers, weight=np.inf, calibration=CALIBRATION
    )
    expected = rerank(np.arange(30), similarities, inliers, weight=np.inf)
    np.testing.assert_array_equal(found, expected)
