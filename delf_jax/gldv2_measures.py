"""The numbers of each task of [GLDv2], with intervals from draws of test images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.evaluation import SAMPLES
from delf_jax.retrieval import bootstrap, gldv2_metrics
from delf_jax.retrieval.bootstrap import Interval

RANKS = (1, 5, 10, 50, 100)
# Draws for precisions over all predictions, each of which ranks 77 000 images anew: the
# ends of an interval are good to about a thirtieth of its width.
GAP_SAMPLES = 1000


class Value(NamedTuple):
    """A number, how sure it is, and how it compares."""

    value: float
    interval: Interval | None = None
    gain: Interval | None = None
    """of the difference to the first predictions, paired; None for the first"""


def measure(
    task: str,
    predictions: Sequence[Mapping],
    solution: Mapping,
    rng: np.random.Generator | None,
) -> list[dict[str, Value]]:
    """The numbers of each of the predictions, by name; intervals if `rng` is given."""
    if task == "recognition":
        return _recognition(predictions, solution, rng)
    return _retrieval(predictions, solution, rng)


def _recognition(
    predictions: Sequence[Mapping], solution: Mapping, rng: np.random.Generator | None
) -> list[dict[str, Value]]:
    columns = {}
    for name, only in (("GAP", False), ("GAP of landmarks", True)):
        found = [
            gldv2_metrics.global_average_precision(p, solution, landmarks_only=only)
            for p in predictions
        ]
        draw = functools.partial(
            gldv2_metrics.resampled_global_average_precisions,
            *(predictions, solution),
            **{"samples": GAP_SAMPLES, "landmarks_only": only},
        )
        columns[name] = _with_intervals(found, draw, rng)
    hits = np.array([gldv2_metrics.top1_hits(p, solution) for p in predictions])
    columns["top-1"] = _with_intervals(
        [gldv2_metrics.top1_accuracy(p, solution) for p in predictions],
        functools.partial(bootstrap.resampled_means, hits, samples=SAMPLES),
        rng,
    )
    return _turned(columns, len(predictions))


def _retrieval(
    predictions: Sequence[Mapping], solution: Mapping, rng: np.random.Generator | None
) -> list[dict[str, Value]]:
    values = np.array(
        [gldv2_metrics.average_precisions(p, solution) for p in predictions]
    )
    draw = functools.partial(bootstrap.resampled_means, values, samples=SAMPLES)
    columns = {"mAP@100": _with_intervals(values.mean(axis=1), draw, rng)}
    precisions = [gldv2_metrics.mean_precisions(p, solution) for p in predictions]
    for k in RANKS:
        columns[f"P@{k}"] = [Value(float(each[k - 1])) for each in precisions]
    positions = [
        gldv2_metrics.mean_and_median_position(p, solution) for p in predictions
    ]
    columns["mean position"] = [Value(mean) for mean, _ in positions]
    columns["median position"] = [Value(median) for _, median in positions]
    return _turned(columns, len(predictions))


def _turned(columns: Mapping[str, list[Value]], count: int) -> list[dict[str, Value]]:
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def _with_intervals(
    values: Sequence[float] | Float[np.ndarray, " W"],
    draw: Callable[..., Float[np.ndarray, "W B"]],
    rng: np.random.Generator | None,
) -> list[Value]:
    if rng is None:
        return [Value(float(value)) for value in values]
    drawn = draw(rng=rng)
    # Draws without a landmark say nothing.
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    if not drawn.shape[1]:
        return [Value(float(value)) for value in values]
    return [
        Value(
            float(value),
            bootstrap.interval(row),
            bootstrap.interval(row - drawn[0]) if place else None,
        )
        for place, (value, row) in enumerate(zip(values, drawn, strict=True))
    ]
