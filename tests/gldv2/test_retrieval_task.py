import numpy as np
import pytest

from delf_jax.gldv2 import retrieval_task
from delf_jax.gldv2.collection import Images
from delf_jax.images import SizeBounds
from delf_jax.ops import l2_normalize
from delf_jax.search import steps
from tests.helpers.ranked_photos import Store


def drawn(rng, count, dimension=12):
    """Images whose rows in the store are in another order than they are."""
    rows = rng.normal(size=(count, dimension)).astype(np.float32)
    rows = np.array(l2_normalize(rows))
    order = rng.permutation(count)
    ids = [f"{place:016x}" for place in range(count)]
    return Images(ids, None, Store(rows), order), rows[order]


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
@pytest.mark.parametrize("penalised", [False, True])
def test_the_nearest_are_those_of_brute_force(rng, rows_at_once, penalised):
    index, descriptors = drawn(rng, 30)
    _, queries = drawn(rng, 5)
    penalties = rng.random(30).astype(np.float32) if penalised else None
    expected = queries.astype(float) @ descriptors.T
    if penalised:
        expected -= penalties
    found = retrieval_task.find_nearest(
        index, queries, 9, penalties, memory=rows_at_once * 4 * 13
    )
    order = np.argsort(-expected, axis=1)[:, :9]
    np.testing.assert_array_equal(found.ids, order)
    values = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(found.similarities, values, atol=1e-6)


def test_of_equals_the_one_that_is_listed_first_comes_first(rng):
    index, descriptors = drawn(rng, 6)
    same = index._replace(store=Store(np.tile(descriptors[:1], (6, 1))))
    found = retrieval_task.find_nearest(same, descriptors[:1], 6, memory=100)
    assert found.ids.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_hundred_are_ranked_and_of_a_small_index_all(rng):
    index, descriptors = drawn(rng, 130)
    test, queries = drawn(rng, 3)
    ranked = list(
        retrieval_task.rank(test, index, ("global",), SizeBounds(), progress=False)
    )
    order = np.argsort(-(queries @ descriptors.T), axis=1)[:, :100]
    assert ranked == [[index.ids[id] for id in row] for row in order.tolist()]
    few, _ = drawn(rng, 7)
    for step in ("average_qe", "alpha_qe", "superglobal", "k_reciprocal"):
        for row in retrieval_task.rank(
            test, few, (step,), SizeBounds(), progress=False
        ):
            assert sorted(row) == few.ids


@pytest.mark.parametrize("step", ["alpha_qe", "superglobal", "k_reciprocal"])
def test_lists_of_the_first_are_ranked_as_those_of_all(rng, step):
    index, descriptors = drawn(rng, 600)
    test, queries = drawn(rng, 3)
    dense = steps.DenseIndex(descriptors, np.full(3, -1))
    start = steps.RankingState(queries, dense.find(queries), dense)
    expected = steps.follow((step,), start).best.ids[:, :100]
    found = retrieval_task.rank(test, index, (step,), SizeBounds(), progress=False)
    assert list(found) == [[index.ids[id] for id in row] for row in expected.tolist()]


def test_query_expansion_searches_with_what_was_found(rng):
    index, descriptors = drawn(rng, 40)
    test, queries = drawn(rng, 300)  # more than are expanded together.
    expanded = []
    for query in queries:
        best = np.argsort(-(descriptors @ query))[:3]
        expanded.append(query + descriptors[best].sum(axis=0))
    expected = np.argsort(-(np.array(expanded) @ descriptors.T), axis=1)
    found = retrieval_task.rank(
        test, index, ("average_qe",), SizeBounds(), progress=False
    )
    for row, order in zip(found, expected.tolist(), strict=True):
        assert row == [index.ids[id] for id in order]


def test_steps_that_compare_all_images_are_not_allowed_among_millions():
    assert retrieval_task.ALLOWED == (
        "global",
        "average_qe",
        "alpha_qe",
        "superglobal",
        "k_reciprocal",
        "verification",
    )
