import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import Best, Rows


def draw(rng, count, dimension=24):
    rows = rng.normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_rows_come_back_as_closely_as_their_precision_allows(rng, precision):
    rows = draw(rng, 50)
    rows[3] = 0
    kept = nearest.quantize(rows, precision)
    assert nearest.precision_of(kept) == precision
    values = np.asarray(kept.values, np.float32)
    if kept.scales is not None:
        values = values * kept.scales[:, None]
    largest = np.abs(rows).max(axis=1, keepdims=True)
    error = {"float32": 0, "bfloat16": 2**-8, "int8": 0.501 / 127}[precision]
    assert (np.abs(values - rows) <= error * largest).all()
    np.testing.assert_allclose(nearest.norms(kept), np.linalg.norm(values, axis=1))


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_products_and_comparison_are_the_inner_products(rng, precision):
    rows, queries = (
        nearest.quantize(draw(rng, count), precision) for count in (40, 20)
    )
    whole = [
        np.asarray(r.values, np.float64)
        * (1 if r.scales is None else r.scales[:, None].astype(np.float64))
        for r in (rows, queries)
    ]
    expected = whole[0] @ whole[1].T
    padded = nearest.pad_queries(queries)
    found = np.asarray(nearest.products(*jax.device_put((rows, padded))))
    assert (found[:, 20:] == 0).all()
    bounds = nearest.rounding(queries, nearest.norms(rows).max())
    assert (np.abs(found[:, :20] - expected) <= bounds).all()
    for query in range(20):
        one = nearest.compare(nearest.take(queries, slice(query, query + 1)), rows)
        np.testing.assert_allclose(one, expected[:, query], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_a_comparison_depends_on_the_two_descriptors_alone(rng, precision):
    rows = nearest.quantize(draw(rng, 200, 511), precision)
    query = nearest.quantize(draw(rng, 1, 511), precision)
    together = nearest.compare(query, rows)
    alone = [
        nearest.compare(query, nearest.take(rows, slice(i, i + 1)))[0]
        for i in range(200)
    ]
    np.testing.assert_array_equal(together, alone)
    order = rng.permutation(200)
    np.testing.assert_array_equal(
        nearest.compare(query, nearest.take(rows, order)), together[order]
    )


def test_queries_are_padded_to_few_widths(rng):
    for precision, widths in (("float32", {1, 16, 32, 64}), ("int8", {16, 32, 64})):
        found = {
            len(nearest.pad_queries(nearest.quantize(draw(rng, n), precision)).values)
            for n in range(1, 65)
        }
        assert found == widths


@given(
    levels=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    size=st.integers(1, 60),
    k=st.integers(1, 12),
)
def test_the_best_of_pieces_are_the_best_of_all(levels, size, k):
    columns = np.array([levels, levels[::-1]], np.float32).T
    k = min(k, len(levels))
    best = nearest.nothing_yet(2, k)
    for start in range(0, len(levels), size):
        best = nearest.keep_best(best, columns[start : start + size], start)
    for query in range(2):
        kept = np.sort(best.similarities[query])
        np.testing.assert_array_equal(kept, np.sort(columns[:, query])[-k:])
        np.testing.assert_array_equal(
            columns[best.ids[query], query], best.similarities[query]
        )
        assert len(set(best.ids[query])) == k


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
@pytest.mark.parametrize("shards", [1, 4])
def test_devices_pick_the_best_of_their_parts(rng, precision, shards):
    rows = nearest.quantize(draw(rng, 64), precision)
    queries = nearest.quantize(draw(rng, 16), precision)
    all_products = np.asarray(nearest.products(rows, queries))
    values, places = nearest.best_products(rows, queries, np.int32([5, 57]), 9, shards)
    best = nearest.nothing_yet(16, 9)
    merged = nearest.merge_best(
        best, Best(*(np.concatenate(each, axis=1) for each in (values, places)))
    )
    expected = nearest.keep_best(best, all_products[5:57], 5)
    np.testing.assert_array_equal(np.sort(merged.ids), np.sort(expected.ids))


def test_of_equals_the_lower_id_comes_first():
    values = np.array([[0.5, 0.9, 0.5, 0.9]], np.float32)
    order = nearest.order_best(values, np.array([[7, 8, 2, 3]]), 3)
    np.testing.assert_array_equal(order, [[3, 1, 2]])


def test_padding_leaves_rows_and_adds_zeros(rng):
    rows = nearest.quantize(draw(rng, 5), "int8")
    padded = nearest.pad(rows, 8)
    np.testing.assert_array_equal(padded.values[:5], rows.values)
    assert not padded.values[5:].any() and not padded.scales[5:].any()
    assert nearest.pad(rows, 5) is rows


def test_recall_is_the_share_of_the_expected():
    found, expected = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 9], [5, 4]])
    assert nearest.recall(found, expected) == 0.75


def test_nothing_is_nearest_to_nothing():
    query, empty = (
        nearest.quantize(np.zeros((count, 4), np.float32), "int8") for count in (1, 0)
    )
    assert nearest.compare(query, empty).shape == (0,)
    assert nearest.norms(Rows(np.zeros((0, 4), np.float32))).shape == (0,)
