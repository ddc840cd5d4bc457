"""Better rankings from global descriptors alone; candidates come in, scores go out.

Descriptors are L2-normalised rows. Where there are fewer candidates or neighbours than
a function asks for, it takes those that there are.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float, Int

from delf_jax.retrieval import ranking

# Similarities that are looked at together: 80 MB.
_CHUNK = 20 << 20


def expand_queries(
    queries: Float[np.ndarray, "Q D"],
    index: Float[np.ndarray, "M D"],
    rankings: Int[np.ndarray, "Q R"],
    *,
    alpha: float,
) -> Float[np.ndarray, "Q D"]:
    """The queries, each with its ranked images added, normalised.

    An image weighs similarity ** alpha, usually 3 [GeM], and the query 1; negative
    ones nothing. With alpha 0 all weigh the same: average query expansion [AQE].
    """
    expanded = np.array(queries, np.float64)
    for query, ranked in enumerate(rankings):
        images = np.asarray(index[ranked], np.float64)
        similarities = images @ expanded[query]
        weights = np.maximum(similarities, 0) ** alpha if alpha else 1.0
        expanded[query] += np.sum(images * np.reshape(weights, (-1, 1)), axis=0)
    expanded /= np.maximum(np.linalg.norm(expanded, axis=1, keepdims=True), 1e-12)
    return expanded.astype(np.float32)


def augment_index(
    index: Float[np.ndarray, "M D"], *, count: int, alpha: float
) -> Float[np.ndarray, "M D"]:
    """The index, each image with the `count` most similar others added [DBA].

    Weights are those of `expand_queries`.
    """
    neighbours, _ = nearest_neighbours(index, count)
    return expand_queries(index, index, neighbours, alpha=alpha)


def rerank_superglobal(
    query: Float[np.ndarray, " D"],
    candidates: Float[np.ndarray, "K D"],
    *,
    neighbours: int = 9,
    beta: float = 0.15,
) -> Float[np.ndarray, " K"]:
    """New similarities of the candidates, in two stages [SuperGlobal].

    A candidate is refined by the `neighbours` candidates most similar to it, which
    weigh beta * similarity against its own 1. Of the refined ones, those most similar
    to the query are pooled by their maximum into an expanded query. Scores are the mean
    of the similarities to query and expanded query. As in the released code, whose
    neighbours are ten with the image itself, and which normalises nothing in between.
    """
    count = min(neighbours + 1, len(candidates))
    if not count:
        return np.zeros(0, np.float32)
    similarities = candidates @ candidates.T
    # The image is its own first neighbour, equals of it notwithstanding.
    np.fill_diagonal(similarities, np.inf)
    nearest = ranking.top_k(similarities, count)
    weights = beta * np.take_along_axis(similarities, nearest, axis=1)
    weights[:, 0] = 1
    refined = np.einsum("kn,knd->kd", weights, candidates[nearest])
    refined /= weights.sum(axis=1, keepdims=True)
    first = refined @ query
    expanded = refined[ranking.top_k(first, count)].max(axis=0)
    return ((first + refined @ expanded) / 2).astype(np.float32)


def rerank_k_reciprocal(
    query: Float[np.ndarray, " D"],
    candidates: Float[np.ndarray, "K D"],
    *,
    neighbours: int = 20,
    averaged: int = 6,
    weight: float = 0.3,
) -> Float[np.ndarray, " K"]:
    """1 - distance of the candidates by shared k-reciprocal neighbours [KR].

    Query and candidates are the whole world here.

    Args:
      neighbours: k1, whose reciprocal ones describe an image.
      averaged: k2, whose descriptions are averaged, the image itself among them.
      weight: lambda, of the original distance, (1 - cosine) / 2 to lie in [0, 1],
        against the Jaccard distance.
    """
    points = np.concatenate([query[None], candidates]).astype(np.float64)
    distances = np.clip((1 - points @ points.T) / 2, 0, 1)
    np.fill_diagonal(distances, -1)  # Each is its own first neighbour.
    order = ranking.top_k(-distances)
    np.fill_diagonal(distances, 0)
    near = _reciprocal(order, neighbours)
    nearer = _reciprocal(order, max(1, round(neighbours / 2)))
    # Neighbours of which two thirds are neighbours of the image bring in the rest.
    shared = near.astype(np.float64) @ nearer.T
    joins = near & (shared >= 2 / 3 * nearer.sum(axis=1))
    near |= (joins.astype(np.float64) @ nearer) > 0
    described = np.where(near, np.exp(-distances), 0)
    described /= described.sum(axis=1, keepdims=True)
    described = described[order[:, :averaged]].mean(axis=1)
    least = np.minimum(described[:1], described[1:]).sum(axis=1)
    most = np.maximum(described[:1], described[1:]).sum(axis=1)
    jaccard = 1 - least / most
    mixed = (1 - weight) * jaccard + weight * distances[0, 1:]
    return (1 - mixed).astype(np.float32)


def neighbour_graph(
    index: Float[np.ndarray, "M D"], *, neighbours: int = 50, gamma: float = 3.0
) -> scipy.sparse.csr_array:
    """What diffusion needs of an index [M, M]: the part that knows no query.

    Images that are among each other's nearest are joined by similarity ** gamma,
    divided by the root of the sums of both [DFS].
    """
    nearest, similarities = nearest_neighbours(index, neighbours)
    rows = np.repeat(np.arange(len(index)), nearest.shape[1])
    values = np.maximum(similarities, 0).astype(np.float64).ravel() ** gamma
    shape = (len(index), len(index))
    affinity = scipy.sparse.csr_array((values, (rows, nearest.ravel())), shape=shape)
    mutual = affinity.minimum(affinity.T)
    degrees = np.asarray(mutual.sum(axis=1)).ravel()
    scale = np.divide(1, np.sqrt(degrees), where=degrees > 0, out=np.zeros(len(index)))
    return (mutual * scale[:, None] * scale[None, :]).tocsr()


def diffuse(
    graph: scipy.sparse.csr_array,
    similarities: Float[np.ndarray, " M"],
    *,
    neighbours: int = 10,
    gamma: float = 3.0,
    alpha: float = 0.99,
    iterations: int = 20,
) -> Float[np.ndarray, " M"]:
    """Scores of one query after diffusion over `neighbour_graph` [DFS].

    The solution f of (I - alpha * graph) f = y by conjugate gradients, where y is
    similarity ** gamma at the query's nearest images and 0 elsewhere. Times 1 - alpha,
    so that what starts at an image and stays there scores as before.
    """
    start = np.zeros(len(similarities))
    nearest = ranking.top_k(similarities, neighbours)
    start[nearest] = np.maximum(similarities[nearest], 0) ** gamma
    system = scipy.sparse.eye_array(len(start)) - alpha * graph
    scores, _ = scipy.sparse.linalg.cg(system, start, rtol=1e-6, maxiter=iterations)
    return ((1 - alpha) * scores).astype(np.float32)


def nearest_neighbours(
    index: Float[np.ndarray, "M D"], count: int
) -> tuple[Int[np.ndarray, "M K"], Float[np.ndarray, "M K"]]:
    """The `count` most similar other images of each image, and their similarities."""
    count = max(0, min(count, len(index) - 1))
    ids = np.zeros((len(index), count), np.int32)
    values = np.zeros((len(index), count), np.float32)
    step = max(1, _CHUNK // max(1, len(index)))
    for start in range(0, len(index), step):
        rows = slice(start, min(start + step, len(index)))
        similarities = index[rows] @ index.T
        own = np.arange(rows.start, rows.stop)
        similarities[own - start, own] = -np.inf
        ids[rows] = ranking.top_k(similarities, count)
        values[rows] = np.take_along_axis(similarities, ids[rows], axis=1)
    return ids, values


def _reciprocal(order: Int[np.ndarray, "N N"], count: int) -> np.ndarray:
    """Whether two [N, N] are among each other's `count` nearest (or the same)."""
    near = np.zeros(order.shape, bool)
    np.put_along_axis(near, order[:, : count + 1], True, axis=1)
    return near & near.T
