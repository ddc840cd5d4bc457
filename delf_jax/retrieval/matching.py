"""Putative matches between the local descriptors of two images."""

from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int


class Directions(NamedTuple):
    """Directions in which similar descriptors are looked for."""

    basis: Float[np.ndarray, "D R"] | None
    """None: all"""
    query: Float[np.ndarray, "N _"]
    """the query's descriptors along them, and two columns for their squares"""


def principal_directions(
    query: Float[np.ndarray | Array, "N D"], energy: float | None
) -> Directions:
    """The fewest directions that hold this share of the squares of the descriptors.

    All if the share is None, or takes more than half of them: smaller products of
    matrices would not be worth what they leave out.
    """
    query = np.ascontiguousarray(query, np.float32)
    basis = None
    if energy is not None and len(query):
        squares, vectors = np.linalg.eigh(query.T @ query)
        held = np.cumsum(squares[::-1])
        count = 1 + int(np.searchsorted(held, energy * held[-1]))
        if count <= query.shape[1] / 2:
            basis = np.ascontiguousarray(vectors[:, -count:])
    along = _with_squares(query if basis is None else query @ basis)
    along[:, [0, -1]] = along[:, [-1, 0]]
    return Directions(basis, along)


def match_descriptors(
    query: Float[np.ndarray | Array, "N D"],
    index: Float[np.ndarray | Array, "M _"],
    *,
    max_distance: float | None = None,
    ratio: float | None = None,
    mutual: bool = False,
    directions: Directions | None = None,
) -> Int[np.ndarray, "P 2"]:
    """Pairs (query feature, index feature), by increasing query feature.

    Each query descriptor is paired with its nearest index descriptor (Euclidean, ties
    to the lower id); the conditions given then drop pairs. As in the released code,
    several query features may share an index feature unless `mutual` is asked for.

    Args:
      max_distance: keeps distances strictly below it; [D2R] released 0.9, [DELG] 1.0.
      ratio: keeps distances strictly below `ratio` times the distance to the second
        nearest; with a single index descriptor the second is infinitely far.
      mutual: keeps pairs that are nearest to each other in both directions.
      directions: of the query, see `principal_directions`: the nearest ones are looked
        for along these alone, which is a product of smaller matrices. Distances are of
        whole descriptors.
    """
    query, index = (np.ascontiguousarray(x, np.float32) for x in (query, index))
    if not len(query) or not len(index):
        return np.zeros((0, 2), np.int32)
    if query.shape[1] != index.shape[1]:
        raise ValueError(
            f"query descriptors have {query.shape[1]} dimensions and index descriptors "
            f"{index.shape[1]}: they come from different models"
        )
    if directions is None:
        directions = principal_directions(query, None)
    along = index if directions.basis is None else index @ directions.basis
    # One product of matrices: with OpenBLAS a third of the time that the same takes
    # compiled by XLA for a CPU. Distances fall as these numbers rise.
    closeness = directions.query @ _with_squares(along).T
    nearest = closeness.argmax(axis=1).astype(np.int32)
    kept = np.arange(len(query), dtype=np.int32)
    if mutual:
        kept = kept[_are_mutual(closeness, nearest)]
    distances = _distances(query[kept], index[nearest[kept]])
    keep = np.ones(len(kept), bool)
    if max_distance is not None:
        keep &= distances < max_distance
    if ratio is not None and len(index) > 1:
        second = closeness[kept]
        second[np.arange(len(kept)), nearest[kept]] = -np.inf
        runner_up = index[second.argmax(axis=1)]
        keep &= distances < ratio * _distances(query[kept], runner_up)
    kept = kept[keep]
    return np.stack([kept, nearest[kept]], axis=1)


def _with_squares(rows: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "N _"]:
    """Rows between two more columns: 1, and minus half their squares.

    Where these two are swapped in one of two rows, their product is minus half the
    square of their distance, without passes over the matrix of all products.
    """
    wide = np.ones((len(rows), rows.shape[1] + 2), np.float32)
    wide[:, 1:-1] = rows
    np.negative(_half_squares(rows), out=wide[:, -1])
    return wide


def _half_squares(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    return np.einsum("nd,nd->n", rows, rows) / 2


def _are_mutual(
    closeness: Float[np.ndarray, "N M"], nearest: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Whether no query is closer to the nearest of each; of equals the first one."""
    rows = np.arange(len(nearest))
    closest = closeness[rows, nearest] == closeness.max(axis=0)[nearest]
    _, first = np.unique(nearest[closest], return_index=True)
    mutual = np.zeros(len(nearest), bool)
    mutual[rows[closest][first]] = True
    return mutual


def _distances(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, " N"]:
    """Distances by subtraction: exact where a difference of norms would cancel."""
    difference = a - b
    return np.sqrt(np.einsum("nd,nd->n", difference, difference))
