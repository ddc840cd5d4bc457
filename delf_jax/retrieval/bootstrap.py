"""How much a mean over few queries would change with other queries."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Interval(NamedTuple):
    """Where most of the resampled means lie; NaN without queries."""

    low: float
    high: float


def resampled_means(
    values: Float[np.ndarray, "W Q"],
    rng: np.random.Generator,
    *,
    samples: int,
    groups: Sequence[Hashable] | None = None,
) -> Float[np.ndarray, "W B"]:
    """Means of W rankings over B draws of Q queries with replacement [Efron].

    All rankings see the same draws, so their differences are paired. Queries that are
    NaN in every ranking are left out beforehand.

    groups: of the queries; then the mean over the groups drawn of their means.
    """
    kept = ~np.isnan(values).all(axis=0)
    values, count = values[:, kept], int(kept.sum())
    if not count:
        return np.full((len(values), samples), np.nan)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=samples)
    names = np.zeros(count, int)
    if groups is not None:
        present = [group for group, keep in zip(groups, kept, strict=True) if keep]
        place = {group: i for i, group in enumerate(dict.fromkeys(present))}
        names = np.array([place[group] for group in present])
    members = (names[:, None] == np.arange(names.max() + 1)).astype(np.float64)
    weights = drawn @ members
    means = []
    for row in values:
        sums = (drawn * row) @ members
        each = np.divide(sums, weights, where=weights > 0, out=np.zeros_like(sums))
        means.append(each.sum(axis=1) / np.count_nonzero(weights, axis=1))
    return np.array(means)


def interval(means: Float[np.ndarray, " B"], level: float = 0.95) -> Interval:
    """The middle share `level` of the resampled means (percentile bootstrap)."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))
