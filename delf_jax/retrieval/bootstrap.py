"""How much a mean over few queries would change with other queries."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Draws of queries: the ends of an interval are good to about a hundredth of its width.
SAMPLES = 10_000


class Interval(NamedTuple):
    """Where most of the resampled means lie; NaN without queries."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A number, how sure it is, and how it compares."""

    value: float
    interval: Interval | None = None
    """None if nothing was drawn"""
    gain: Interval | None = None
    """of the difference to the first ranking, paired; None for the first"""


def resampled_means(
    values: Float[np.ndarray, "W Q"], rng: np.random.Generator, *, samples: int
) -> Float[np.ndarray, "W B"]:
    """Means of W rankings over B draws of Q queries with replacement [Efron].

    All rankings see the same draws, so their differences are paired. Queries that are
    NaN in every ranking are left out beforehand.
    """
    values = values[:, ~np.isnan(values).all(axis=0)]
    count = values.shape[1]
    if not count:
        return np.full((len(values), samples), np.nan)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=samples)
    return values @ drawn.T / count


def interval(means: Float[np.ndarray, " B"], level: float = 0.95) -> Interval:
    """The middle share `level` of the resampled means (percentile bootstrap)."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def estimates(
    values: Sequence[float], resampled: Float[np.ndarray, "W B"]
) -> list[Estimate]:
    """The value of each ranking with its interval, and its gain on the first."""
    found = []
    for place, (value, drawn) in enumerate(zip(values, resampled, strict=True)):
        gain = interval(drawn - resampled[0]) if place else None
        found.append(Estimate(float(value), interval(drawn), gain))
    return found
