import numpy as np
import pytest

from delf_jax.retrieval import ranking, reranking


def unit_rows(rng, count, dimension=8):
    rows = rng.normal(size=(count, dimension)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_expanded_queries_are_weighted_sums(rng, alpha):
    queries, index = unit_rows(rng, 3), unit_rows(rng, 10)
    rankings = ranking.top_k(queries @ index.T, 4)
    found = reranking.expand_queries(queries, index, rankings, alpha=alpha)
    for query, ranked, got in zip(queries, rankings, found, strict=True):
        total = query.copy()
        for image in ranked:
            total += max(query @ index[image], 0) ** alpha * index[image]
        np.testing.assert_allclose(got, total / np.linalg.norm(total), atol=1e-6)


def test_images_unlike_the_query_do_not_expand_it():
    query, index = np.eye(2, dtype=np.float32)[:1], -np.eye(2, dtype=np.float32)
    rankings = np.array([[1, 0]], np.int32)
    found = reranking.expand_queries(query, index, rankings, alpha=3.0)
    np.testing.assert_array_equal(found, query)


def test_nothing_ranked_leaves_the_query(rng):
    queries, index = unit_rows(rng, 2), unit_rows(rng, 3)
    none = np.zeros((2, 0), np.int32)
    found = reranking.expand_queries(queries, index, none, alpha=0.0)
    np.testing.assert_allclose(found, queries, atol=1e-6)


def test_an_augmented_image_is_a_query_expanded_by_the_others(rng):
    index = unit_rows(rng, 9)
    found = reranking.augment_index(index, count=3, alpha=2.0)
    for image in range(9):
        others = np.delete(np.arange(9), image)
        ranked = others[np.argsort(-(index[others] @ index[image]))[:3]]
        expected = reranking.expand_queries(
            index[image : image + 1], index, ranked[None].astype(np.int32), alpha=2.0
        )
        np.testing.assert_allclose(found[image], expected[0], atol=1e-6)


def naive_superglobal(query, candidates, neighbours, beta):
    refined = []
    for me, image in enumerate(candidates):
        others = [i for i in range(len(candidates)) if i != me]
        others.sort(key=lambda i: -float(candidates[i] @ image))
        total, weights = image.astype(np.float64), 1.0
        for other in others[:neighbours]:
            weight = beta * float(candidates[other] @ image)
            total, weights = total + weight * candidates[other], weights + weight
        refined.append(total / weights)
    first = [float(each @ query) for each in refined]
    best = sorted(range(len(first)), key=lambda i: -first[i])[: neighbours + 1]
    expanded = np.max([refined[i] for i in best], axis=0)
    return [(s + float(r @ expanded)) / 2 for s, r in zip(first, refined, strict=True)]


@pytest.mark.parametrize("count", [1, 5, 30])
def test_superglobal_is_the_two_stages_of_the_paper(rng, count):
    query, candidates = unit_rows(rng, 1)[0], unit_rows(rng, count)
    found = reranking.rerank_superglobal(query, candidates, neighbours=9, beta=0.15)
    expected = naive_superglobal(query, candidates, 9, 0.15)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def naive_k_reciprocal(query, candidates, k1, k2, weight):
    points = np.concatenate([query[None], candidates]).astype(np.float64)
    size = len(points)
    distance = [[max(0.0, (1 - float(a @ b)) / 2) for b in points] for a in points]
    order = [
        [p, *sorted((i for i in range(size) if i != p), key=lambda i: distance[p][i])]
        for p in range(size)
    ]

    def reciprocal(p, k):
        return {g for g in order[p][: k + 1] if p in order[g][: k + 1]}

    described = np.zeros((size, size))
    for p in range(size):
        near = reciprocal(p, k1)
        for q in reciprocal(p, k1):
            theirs = reciprocal(q, round(k1 / 2))
            if len(reciprocal(p, k1) & theirs) >= 2 / 3 * len(theirs):
                near |= theirs
        for g in near:
            described[p, g] = np.exp(-distance[p][g]) if g != p else 1
        described[p] /= described[p].sum()
    described = np.array([described[order[p][:k2]].mean(axis=0) for p in range(size)])
    scores = []
    for g in range(1, size):
        least = np.minimum(described[0], described[g]).sum()
        most = np.maximum(described[0], described[g]).sum()
        mixed = (1 - weight) * (1 - least / most) + weight * distance[0][g]
        scores.append(1 - mixed)
    return scores


@pytest.mark.parametrize("count", [1, 4, 40])
def test_k_reciprocal_is_the_definition_of_the_paper(rng, count):
    query, candidates = unit_rows(rng, 1)[0], unit_rows(rng, count)
    found = reranking.rerank_k_reciprocal(
        query, candidates, neighbours=6, averaged=3, weight=0.3
    )
    expected = naive_k_reciprocal(query, candidates, 6, 3, 0.3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_graph_joins_mutual_neighbours_and_is_normalised(rng):
    index = unit_rows(rng, 12)
    graph = reranking.neighbour_graph(index, neighbours=4, gamma=3.0).toarray()
    similarities = index.astype(np.float64) @ index.T
    np.fill_diagonal(similarities, -np.inf)
    near = similarities >= np.sort(similarities, axis=1)[:, [-4]]
    affinity = np.where(near & near.T, np.maximum(similarities, 0) ** 3, 0)
    degrees = affinity.sum(axis=1)
    both = np.sqrt(np.outer(degrees, degrees))
    expected = np.divide(affinity, both, where=both > 0, out=np.zeros_like(both))
    np.testing.assert_allclose(graph, expected, atol=1e-6)


def test_diffusion_solves_its_equation(rng):
    index, query = unit_rows(rng, 30), unit_rows(rng, 1)[0]
    graph = reranking.neighbour_graph(index, neighbours=6)
    found = reranking.diffuse(
        graph, index @ query, neighbours=5, alpha=0.9, iterations=200
    )
    start, best = np.zeros(30), np.argsort(-(index @ query))[:5]
    start[best] = np.maximum(index[best] @ query, 0) ** 3
    expected = 0.1 * np.linalg.solve(np.eye(30) - 0.9 * graph.toarray(), start)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_diffusion_reaches_what_is_like_the_neighbours_of_the_query_only():
    """A chain of images, each like the next: the last is unlike the query."""
    angles = np.deg2rad([0, 20, 40, 60, 80, 100, 180 + 40])
    index = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    graph = reranking.neighbour_graph(index, neighbours=2)
    scores = reranking.diffuse(graph, index @ index[0], neighbours=2)
    assert scores[5] > 0.001 > abs(scores[6])


def test_nothing_to_rerank_is_no_error(rng):
    query, none = unit_rows(rng, 1)[0], np.zeros((0, 8), np.float32)
    assert reranking.rerank_superglobal(query, none).shape == (0,)
    assert reranking.rerank_k_reciprocal(query, none).shape == (0,)
    alone = unit_rows(rng, 1)
    np.testing.assert_allclose(
        reranking.augment_index(alone, count=3, alpha=0.0), alone, atol=1e-6
    )
    graph = reranking.neighbour_graph(alone)
    np.testing.assert_array_equal(graph.toarray(), [[0]])


def test_neighbours_are_the_same_in_chunks(rng, monkeypatch):
    index = unit_rows(rng, 11)
    whole = reranking.nearest_neighbours(index, 4)
    monkeypatch.setattr(reranking, "_CHUNK", 3 * len(index))
    chunked = reranking.nearest_neighbours(index, 4)
    np.testing.assert_array_equal(chunked[0], whole[0])
    np.testing.assert_allclose(chunked[1], whole[1], atol=1e-6)
