import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from delf_jax.retrieval.matching import match_descriptors, principal_directions


def unit_rows(rng: np.random.Generator, rows: int, width: int = 16) -> np.ndarray:
    x = rng.normal(size=(rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def matches_of_a_tree(query, index, max_distance=None, ratio=None, mutual=False):
    """The rules, with the data structure of the released code, in float64."""
    query, index = query.astype(np.float64), index.astype(np.float64)
    distances, ids = cKDTree(index).query(query, k=2)
    keep = np.ones(len(query), bool)
    if max_distance is not None:
        keep &= distances[:, 0] < max_distance
    if ratio is not None:
        keep &= distances[:, 0] < ratio * distances[:, 1]
    if mutual:
        keep &= cKDTree(query).query(index)[1][ids[:, 0]] == np.arange(len(query))
    return np.stack([np.flatnonzero(keep), ids[keep, 0]], axis=1)


@pytest.mark.golden
@pytest.mark.parametrize("rule", ["max_distance", "ratio"])
def test_matches_equal_those_of_the_original(golden, rule):
    arrays = np.load(golden / "matching.npz")
    expected = json.loads((golden / "matching.json").read_text())
    name = rule.removeprefix("max_")
    (key,) = (k for k in expected if k.startswith(f"putative_{name}_") and "/" not in k)
    matches = match_descriptors(
        arrays["query_descriptors"],
        arrays["index_descriptors"],
        **{rule: float(key.rsplit("_", 1)[1])},
    )
    np.testing.assert_array_equal(matches, expected[key])


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 90), st.integers(2, 140)),
    max_distance=st.none() | st.floats(0.2, 1.4),
    ratio=st.none() | st.floats(0.5, 0.99),
    mutual=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_matches_equal_those_of_a_tree(sizes, max_distance, ratio, mutual, seed):
    rng = np.random.default_rng(seed)
    query, index = unit_rows(rng, sizes[0]), unit_rows(rng, sizes[1])
    rules = {"max_distance": max_distance, "ratio": ratio, "mutual": mutual}
    np.testing.assert_array_equal(
        match_descriptors(query, index, **rules),
        matches_of_a_tree(query, index, **rules),
    )


def test_lengths_that_differ_are_taken_into_account(rng):
    query = unit_rows(rng, 30) * rng.uniform(0.2, 3, (30, 1)).astype(np.float32)
    index = unit_rows(rng, 70) * rng.uniform(0.2, 3, (70, 1)).astype(np.float32)
    rules = {"ratio": 0.95, "mutual": True}
    np.testing.assert_array_equal(
        match_descriptors(query, index, **rules),
        matches_of_a_tree(query, index, **rules),
    )


def test_equal_descriptors_go_to_the_lower_id(rng):
    index = np.repeat(unit_rows(rng, 5), 3, axis=0)
    matches = match_descriptors(index[[4, 14]], index)
    np.testing.assert_array_equal(matches, [[0, 3], [1, 12]])


def test_a_distance_at_the_limit_is_dropped():
    query = np.array([[0.0, 0.0]], np.float32)
    index = np.array([[0.5, 0.0], [1.0, 0.0]], np.float32)
    assert len(match_descriptors(query, index, max_distance=0.5)) == 0
    assert len(match_descriptors(query, index, max_distance=0.5001)) == 1
    assert len(match_descriptors(query, index, ratio=0.5)) == 0
    assert len(match_descriptors(query, index, ratio=0.5001)) == 1


def test_a_single_index_descriptor_passes_the_ratio_test(rng):
    matches = match_descriptors(unit_rows(rng, 3), unit_rows(rng, 1), ratio=0.8)
    np.testing.assert_array_equal(matches, [[0, 0], [1, 0], [2, 0]])


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0)])
def test_no_features_give_no_matches(rng, sizes):
    query, index = (unit_rows(rng, size) for size in sizes)
    matches = match_descriptors(query, index, ratio=0.8, mutual=True)
    assert matches.shape == (0, 2) and matches.dtype == np.int32


def test_zero_vectors_match_without_warning():
    zeros = np.zeros((4, 8), np.float32)
    matches = match_descriptors(zeros, zeros, max_distance=0.1)
    np.testing.assert_array_equal(matches, [[0, 0], [1, 0], [2, 0], [3, 0]])
    assert len(match_descriptors(zeros, zeros, ratio=0.9)) == 0


def test_descriptors_of_different_models_are_refused(rng):
    with pytest.raises(ValueError, match="16 dimensions and index descriptors 8"):
        match_descriptors(unit_rows(rng, 3), unit_rows(rng, 3, 8))


def test_of_queries_equally_near_the_first_is_mutual(rng):
    query = np.repeat(unit_rows(rng, 3), 2, axis=0)
    matches = match_descriptors(query, query[[5, 0]], mutual=True)
    np.testing.assert_array_equal(matches, [[0, 1], [4, 0]])


def rows_of_a_subspace(rng, rows: int, basis: np.ndarray) -> np.ndarray:
    x = rng.normal(size=(rows, len(basis))) @ basis
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_along_the_directions_that_hold_all_the_matches_are_the_same(rng):
    basis = rng.normal(size=(12, 64))
    query, index = (rows_of_a_subspace(rng, rows, basis) for rows in (80, 120))
    directions = principal_directions(query, 1 - 1e-6)
    assert directions.basis.shape == (64, 12)
    along = query @ directions.basis
    np.testing.assert_allclose(directions.query[:, 1:-1], along, atol=1e-6)
    # Lengths that differ count here, too.
    index *= rng.uniform(0.9, 1.1, (120, 1)).astype(np.float32)
    rules = {"ratio": 0.95, "mutual": True}
    expected = match_descriptors(query, index, **rules)
    assert len(expected) > 10
    found = match_descriptors(query, index, **rules, directions=directions)
    np.testing.assert_array_equal(found, expected)


def test_distances_are_of_whole_descriptors_whatever_directions_are_looked_in(rng):
    """What lies across the directions tells matches apart, if not which are tried."""
    query = np.zeros((2, 8), np.float32)
    query[:, 0] = 1, -1
    index = query.copy()
    index[0, 7] = 0.5
    directions = principal_directions(query, 0.9)
    assert directions.basis.shape == (8, 1)
    for limit, expected in ((0.4, [[1, 1]]), (0.6, [[0, 0], [1, 1]])):
        matches = match_descriptors(
            query, index, max_distance=limit, directions=directions
        )
        np.testing.assert_array_equal(matches, expected)


def test_where_directions_leave_little_out_all_are_looked_in(rng):
    query = unit_rows(rng, 50)
    for rows, energy in ((query, 0.98), (query, None), (query[:0], 0.98)):
        directions = principal_directions(rows, energy)
        assert directions.basis is None
        np.testing.assert_array_equal(directions.query[:, 1:-1], rows)
    zeros = np.zeros((4, 16), np.float32)
    found = match_descriptors(
        zeros, zeros, max_distance=0.1, directions=principal_directions(zeros, 0.98)
    )
    np.testing.assert_array_equal(found, [[0, 0], [1, 0], [2, 0], [3, 0]])
