import numpy as np
import pytest

from delf_jax.index import neighbour_graph
from delf_jax.retrieval import ranking, reranking
from delf_jax.search import pipeline, steps
from tests.helpers.ranked_photos import make_inputs, rank_one


@pytest.fixture(autouse=True)
def graph(tmp_path, monkeypatch):
    """Where the graph of the store below is kept."""
    path = tmp_path / "neighbours.npz"
    monkeypatch.setattr(neighbour_graph, "graph_path", lambda store: path)
    return path


def test_query_expansion_does_not_see_the_query_in_the_index(rng):
    inputs, rows = make_inputs(rng, queries=1, own=[3])
    similarities = rows.similarities.copy()
    similarities[0, 3] = -np.inf
    best = ranking.top_k(similarities, 11)
    expanded = reranking.expand_queries(rows.queries, rows.images, best, alpha=3.0)
    expected = np.argsort(-(expanded @ rows.images.T)[0])
    found = rank_one(inputs, ("alpha_qe",), junk=((),))
    np.testing.assert_array_equal(found[0, :-1], expected[expected != 3])


@pytest.mark.parametrize("name", ["superglobal", "k_reciprocal"])
def test_the_first_are_scored_again_and_the_rest_follow(rng, monkeypatch, name):
    inputs, rows = make_inputs(rng)
    change, options = steps.STEPS[name]
    monkeypatch.setitem(steps.STEPS, name, (change, {**options, "first": 5}))
    score = {
        "superglobal": reranking.rerank_superglobal,
        "k_reciprocal": reranking.rerank_k_reciprocal,
    }[name]
    found = rank_one(inputs, (name,))
    for query in range(2):
        before = np.argsort(-rows.similarities[query])
        scores = score(rows.queries[query], rows.images[before[:5]])
        expected = [*before[:5][np.argsort(-scores)], *before[5:]]
        np.testing.assert_array_equal(found[query], expected)


def test_diffusion_puts_what_it_reaches_first(rng):
    inputs, rows = make_inputs(rng, queries=1)
    graph = reranking.neighbour_graph(rows.images, neighbours=50)
    scores = reranking.diffuse(graph, rows.similarities[0])
    reached = np.flatnonzero(scores > 0)
    found = rank_one(inputs, ("diffusion",), junk=((),))[0]
    first = reached[np.argsort(-scores[reached])]
    np.testing.assert_array_equal(found[: len(reached)], first)


def test_steps_follow_each_other(rng):
    inputs, rows = make_inputs(rng)
    augmented = steps.STEPS["augmentation"]
    (start,) = pipeline.run_steps(inputs, [("global",)])
    index = steps.DenseIndex(rows.images, inputs.own)
    state = steps.RankingState(rows.queries, start, index)
    first = augmented[0](state, **augmented[1])
    expand, options = steps.STEPS["average_qe"]
    expected = expand(first, **options).best.ids
    found = rank_one(inputs, ("augmentation", "average_qe"))
    np.testing.assert_array_equal(found, expected)


def test_the_graph_of_the_photos_is_kept_and_that_of_changed_ones_is_not(rng, graph):
    inputs, _ = make_inputs(rng)
    rank_one(inputs, ("augmentation", "diffusion"))
    assert not graph.exists()
    rank_one(inputs, ("alpha_qe", "diffusion"))
    kept = graph.read_bytes()
    rank_one(inputs, ("augmentation", "diffusion"))
    assert graph.read_bytes() == kept
