"""Which images a query is most wrongly taken for: the negatives of an epoch."""

import numpy as np
from jaxtyping import Float, Int

# Queries whose similarities with the pool are in memory at once.
_CHUNK = 256


def hard_negatives(
    queries: Float[np.ndarray, "Q D"],
    pool: Float[np.ndarray, "P D"],
    query_clusters: Int[np.ndarray, " Q"],
    pool_clusters: Int[np.ndarray, " P"],
    count: int,
) -> Int[np.ndarray, "Q {count}"]:
    """Places in the pool of the most similar images of other clusters, hardest first.

    At most one of each cluster, as in [GeM]: a landmark is learned from once. Exact;
    equals in the order of the pool. ValueError if a query has too few other clusters.
    """
    found = np.empty((len(queries), count), np.int32)
    for start in range(0, len(queries), _CHUNK):
        similarities = queries[start : start + _CHUNK] @ pool.T
        for place, row in enumerate(similarities, start):
            own = int(query_clusters[place])
            found[place] = _first_of_clusters(row, pool_clusters, own, count)
    return found


def _first_of_clusters(
    similarities: Float[np.ndarray, " P"],
    clusters: Int[np.ndarray, " P"],
    own: int,
    count: int,
) -> Int[np.ndarray, " N"]:
    order = np.argsort(-similarities, kind="stable")
    order = order[clusters[order] != own]
    _, first = np.unique(clusters[order], return_index=True)
    if len(first) < count:
        raise ValueError(
            f"{count} negatives of different clusters: the pool has {len(first)} "
            "clusters besides the query's"
        )
    return order[np.sort(first)[:count]]
