import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_jax.retrieval.affine import (
    Best,
    fit,
    improve,
    maps_of_pairs,
    maps_of_zooms,
    plausible,
    prepare_matches,
    score_matches,
)

AFFINE = np.array([[1.1, -0.2, 30.0], [0.15, 0.9, -20.0]])
SIMILARITY = np.array([[1.1, -0.2, 30.0], [0.2, 1.1, -20.0]])


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:, :2].T + affine[:, 2]


def matches_of(rng, count=30, noise=0.0, threshold=10.0, affine=AFFINE):
    index = rng.uniform(-300, 300, (count, 2))
    query = apply(affine, index) + rng.normal(0, noise, (count, 2))
    return prepare_matches(np.column_stack([index, query]), threshold)


def view(stretch=1.0, zoom=1.0, turn=0.0, mirror=False) -> np.ndarray:
    """A map of known singular values, whose nearest rotation is by `turn`."""
    c, s = np.cos(turn), np.sin(turn)
    root = np.sqrt(stretch)
    linear = np.array([[c, -s], [s, c]]) @ np.diag([zoom * root, zoom / root])
    if mirror:
        linear = linear @ np.diag([1, -1])
    return np.column_stack([linear, [5.0, -7.0]])[None]


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({}, True),
        ({"stretch": 2.9}, True),
        ({"stretch": 3.1}, False),
        ({"zoom": 7.9}, True),
        ({"zoom": 8.1}, False),
        ({"zoom": 1 / 7.9}, True),
        ({"zoom": 1 / 8.1}, False),
        ({"turn": 0.78}, True),
        ({"turn": -0.79}, False),
        ({"turn": np.pi}, False),
        ({"mirror": True}, False),
        ({"stretch": 2.0, "zoom": 3.0, "turn": 0.5}, True),
    ],
)
def test_only_changes_of_viewpoint_are_plausible(change, accepted):
    assert len(plausible(view(**change))) == accepted


def test_a_collapse_is_not_plausible():
    assert not len(plausible(np.zeros((1, 2, 3))))
    assert not len(plausible(np.ones((1, 2, 3))))


def test_any_pair_of_exact_matches_gives_the_similarity(rng):
    matches = matches_of(rng, affine=SIMILARITY)
    pairs = rng.permuted(np.tile(np.arange(30), (40, 1)), axis=1)[:, :2].T
    maps = maps_of_pairs(matches, pairs)
    assert len(maps) > 30
    np.testing.assert_allclose(maps, np.broadcast_to(SIMILARITY, maps.shape), atol=1e-8)


def test_pairs_propose_what_is_plausible_and_nothing_else(rng):
    """The short cut over pairs against `plausible`, of matches without a scene."""
    ends = rng.uniform(-300, 300, (200, 4))
    pairs = rng.integers(200, size=(2, 5000))
    distances = np.diff(ends[pairs].reshape(2, -1, 2, 2), axis=0)[0]
    apart = np.linalg.norm(distances, axis=2).min(axis=1) > 20
    maps = maps_of_pairs(prepare_matches(ends, 10.0), pairs[:, apart])
    expected = 0
    for (index, query), first in zip(
        distances[apart], ends[pairs[0, apart]], strict=True
    ):
        factor = complex(*query) / complex(*index)
        linear = [[factor.real, -factor.imag], [factor.imag, factor.real]]
        (affine,) = np.concatenate([linear, np.zeros((2, 1))], axis=1)[None]
        affine[:, 2] = first[2:] - affine[:, :2] @ first[:2]
        if len(plausible(affine[None])):
            np.testing.assert_allclose(maps[expected], affine, atol=1e-8)
            expected += 1
    assert expected == len(maps) > 500


def test_pairs_closer_than_they_are_exact_give_no_map(rng):
    near = np.array([[0.0, 0, 0, 0], [3, 9, 3, 9], [300, 0, 3, 0], [0, 90, 0, 90]])
    matches = prepare_matches(near, 10.0)
    assert not len(maps_of_pairs(matches, np.array([[0, 0, 2], [0, 1, 0]])))
    assert len(maps_of_pairs(matches, np.array([[0], [3]]))) == 1


def test_a_zoom_maps_its_own_match_exactly(rng):
    matches = matches_of(rng, count=4)
    zooms = np.array([0.5, 1.0, 2.0, 9.0])
    maps = maps_of_zooms(matches, zooms)
    assert len(maps) == 3
    for k, affine in enumerate(maps):
        np.testing.assert_allclose(affine[:, :2], zooms[k] * np.eye(2))
        index, query = np.split(matches.ends[k], 2)
        np.testing.assert_allclose(apply(affine, index), query)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), zoom=st.sampled_from([0.4, 1.0, 2.5]))
def test_scores_equal_a_loop_over_matches(seed, zoom):
    rng = np.random.default_rng(seed)
    matches = matches_of(rng, noise=8.0)
    maps = np.stack([AFFINE, view(zoom=zoom, turn=0.2)[0]])
    expected = np.zeros((2, 30))
    for t, affine in enumerate(maps):
        shrinking = min(1.0, np.linalg.det(affine[:, :2]))
        for p in range(30):
            index, query = np.split(matches.ends[p], 2)
            error = apply(affine, index) - query
            expected[t, p] = max(0, 1 - error @ error / (100 * shrinking))
    np.testing.assert_allclose(score_matches(maps, matches), expected, atol=1e-9)


def test_a_fit_equals_least_squares_of_the_inliers(rng):
    matches = matches_of(rng, count=50, noise=3.0)
    start = AFFINE + [[0, 0, 4.0], [0, 0, -3.0]]
    near = score_matches(start[None], matches)[0] > 0
    assert 10 < near.sum() < 50
    index, query = np.split(matches.ends[near], 2, axis=1)
    homogeneous = np.column_stack([index, np.ones(len(index))])
    expected = np.linalg.lstsq(homogeneous, query)[0].T
    (fitted,) = fit(near[None], matches)
    np.testing.assert_allclose(fitted, expected, atol=1e-5)


def test_without_inliers_or_of_a_line_the_fit_is_not_plausible(rng):
    matches = matches_of(rng)
    none = np.zeros((1, 30), bool)
    assert not len(plausible(fit(none, matches)))
    line = np.linspace(0, 200, 30)[:, None] * [[1.0, 2.0, 1.0, 2.0]]
    assert not len(plausible(fit(~none, prepare_matches(line - line.mean(0), 10.0))))


def test_improving_never_makes_the_score_worse(rng):
    matches = matches_of(rng, noise=3.0)
    rough = AFFINE + rng.normal(0, 0.02, (20, 2, 3)) * [[[1, 1, 300]]]
    best = improve(Best(), rough, matches)
    assert best.score >= score_matches(rough, matches).sum(axis=1).max()
    scores = score_matches(best.map[None], matches)[0]
    assert best.score == pytest.approx(scores.sum())
    np.testing.assert_array_equal(best.inliers, scores > 0)
    assert improve(best, rough[:0], matches) is best
    assert improve(best, AFFINE[None] + [[0, 0, 500.0], [0, 0, 0]], matches) is best


def test_a_similarity_becomes_the_affine_map_that_it_is_near(rng):
    """Two matches cannot tell a slant: what obeys them only roughly must count."""
    sheared = np.array([[1.12, -0.17, 22.0], [0.21, 0.9, -15.0]])
    matches = matches_of(rng, count=100, affine=sheared)
    maps = maps_of_pairs(matches, rng.integers(100, size=(2, 50)))
    raw = (score_matches(maps, matches) > 0).sum(axis=1)
    best = improve(Best(), maps, matches)
    assert best.inliers.all() and raw.max() < 80
    np.testing.assert_allclose(best.map, sheared, atol=1e-4)
