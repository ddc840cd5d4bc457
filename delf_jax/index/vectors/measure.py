"""How much of the nearest a table finds, as our exact search finds them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.index.vectors.seam import Vectors
from delf_jax.progress import track
from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import Rows
from delf_jax.store.feature_store import FeatureStore

# Photos whose nearest are looked for, and how many nearest.
SAMPLED, NEAREST = 64, 100
# Tried one after the other, until enough is found.
EFFORTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Read at once: 128 MB of 2048 dimensions.
_CHUNK = 1 << 14
# Similarities of engines, that add float32 in an order of their own, differ by less.
_ROUNDING = 1e-5


class Recall(NamedTuple):
    """Share of the nearest that are found."""

    photos: int
    share: float
    effort: int


def measure(
    vectors: Vectors,
    store: FeatureStore,
    ids: dict[str, int],
    least: float,
    *,
    progress: bool = True,
) -> Recall:
    """The recall with the least effort that reaches `least`, or the best there is.

    Args:
      ids: rows of the store by the ids of the table.
    """
    count = min(SAMPLED, len(store))
    photos = np.sort(np.random.default_rng(0).choice(len(store), count, replace=False))
    queries = store.read_global(photos)
    k = min(NEAREST, len(store) - 1)
    if k < 1:
        return Recall(count, 1.0, 1)
    worst = _exact(store, photos, queries, k, progress)
    best = Recall(count, -1.0, 1)
    for effort in EFFORTS:
        found = vectors.nearest(queries, k + 1, effort=effort)
        hits = [
            _hits(store, photo, query, [ids[each] for each in some if each in ids], low)
            for photo, query, some, low in zip(
                photos.tolist(), queries, found, worst.tolist(), strict=True
            )
        ]
        share = float(np.minimum(hits, k).mean()) / k
        if share > best.share:
            best = Recall(count, share, effort)
        if share >= least:
            break
    return best


def _exact(
    store: FeatureStore,
    photos: Int[np.ndarray, " Q"],
    queries: Float[np.ndarray, "Q G"],
    k: int,
    progress: bool,
) -> Float[np.ndarray, " Q"]:
    """The similarity of each photo to the last of its k nearest, itself left out."""
    best = nearest.nothing_yet(len(photos), k)
    with track("recall", len(store), "descriptor", progress=progress) as advance:
        for start in range(0, len(store), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(store)))
            products = store.read_global(rows) @ queries.T
            inside = np.flatnonzero((photos >= start) & (photos < rows.stop))
            products[photos[inside] - start, inside] = -np.inf
            best = nearest.keep_best(best, products, start)
            advance(len(rows))
    return best.similarities.min(axis=1)


def _hits(
    store: FeatureStore,
    photo: int,
    query: Float[np.ndarray, " G"],
    rows: list[int],
    low: float,
) -> int:
    """How many of these are among the nearest; equals of the last of them are."""
    others = [row for row in rows if row != photo]
    found = nearest.compare(Rows(query[None]), Rows(store.read_global(others)))
    return int((found >= low - _ROUNDING).sum())
