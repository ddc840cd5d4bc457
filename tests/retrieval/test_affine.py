import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_jax.retrieval.affine import (
    fit,
    improve,
    maps_of_triples,
    maps_of_zooms,
    plausible,
    prepare_matches,
    score_matches,
)

AFFINE = np.array([[1.1, -0.2, 30.0], [0.15, 0.9, -20.0]])


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:, :2].T + affine[:, 2]


def matches_of(rng, count=30, noise=0.0, threshold=10.0, affine=AFFINE):
    index = rng.uniform(-300, 300, (count, 2))
    query = apply(affine, index) + rng.normal(0, noise, (count, 2))
    return prepare_matches(query, index, threshold)


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


def test_any_triple_of_exact_matches_gives_the_map(rng):
    matches = matches_of(rng)
    triples = rng.permuted(np.tile(np.arange(30), (40, 1)), axis=1)[:, :3]
    maps = maps_of_triples(matches, triples)
    assert len(maps) > 30
    np.testing.assert_allclose(maps, np.broadcast_to(AFFINE, maps.shape), atol=1e-8)


def test_triples_with_repeats_or_on_a_line_give_no_map(rng):
    matches = matches_of(rng)
    line = np.linspace(0, 200, 5)[:, None] * [[1.0, 2.0]]
    on_line = prepare_matches(line, line, 10.0)
    assert not len(maps_of_triples(matches, np.array([[0, 0, 1], [2, 2, 2]])))
    assert not len(maps_of_triples(on_line, np.array([[0, 1, 2], [4, 2, 0]])))


def test_a_zoom_maps_its_own_match_exactly(rng):
    matches = matches_of(rng, count=4)
    zooms = np.array([0.5, 1.0, 2.0, 9.0])
    maps = maps_of_zooms(matches, zooms)
    assert len(maps) == 3
    for k, affine in enumerate(maps):
        np.testing.assert_allclose(affine[:, :2], zooms[k] * np.eye(2))
        np.testing.assert_allclose(apply(affine, matches.index[k]), matches.query[k])


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
            error = apply(affine, matches.index[p : p + 1])[0] - matches.query[p]
            expected[t, p] = max(0, 1 - error @ error / (100 * shrinking))
    np.testing.assert_allclose(score_matches(maps, matches), expected, atol=1e-4)


def test_a_fit_equals_least_squares_of_the_inliers(rng):
    matches = matches_of(rng, count=50, noise=3.0)
    start = AFFINE + [[0, 0, 4.0], [0, 0, -3.0]]
    near = score_matches(start[None], matches)[0] > 0
    assert 10 < near.sum() < 50
    homogeneous = np.column_stack([matches.index, np.ones(50)])[near]
    expected = np.linalg.lstsq(homogeneous, matches.query[near])[0].T
    (fitted,) = fit(start[None], matches, 1.0)
    np.testing.assert_allclose(fitted, expected, atol=1e-5)


def test_a_map_without_inliers_is_not_fitted(rng):
    far = AFFINE + [[0, 0, 5000.0], [0, 0, 0]]
    assert not len(fit(far[None], matches_of(rng), 1.0))


def test_improving_never_makes_the_score_worse(rng):
    matches = matches_of(rng, noise=3.0)
    rough = AFFINE + rng.normal(0, 0.02, (20, 2, 3)) * [[[1, 1, 300]]]
    raw = score_matches(rough, matches).sum(axis=1).max()
    best, score = improve(None, 0.0, rough, matches)
    assert score >= raw
    assert score == pytest.approx(score_matches(best[None], matches).sum())
    same, kept = improve(best, score, rough[:0], matches)
    assert same is best and kept == score
