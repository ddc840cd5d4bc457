"""Retrieval metrics with the rules of the revisited Oxford and Paris benchmarks.

`positions` are zero-based places of the positives in a ranking without junk images.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


def find_positions(
    ranking: Int[np.ndarray, " R"],
    positives: Sequence[int] | Int[np.ndarray, " T"],
    junk: Sequence[int] | Int[np.ndarray, " J"] = (),
) -> Int[np.ndarray, " K"]:
    """Places of the positives, increasing; junk images do not take up a place."""
    ranking = np.asarray(ranking)
    kept = ranking[~np.isin(ranking, np.asarray(junk, ranking.dtype))]
    return np.flatnonzero(np.isin(kept, np.asarray(positives, ranking.dtype)))


def average_precision(
    ranking: Int[np.ndarray, " R"],
    positives: Sequence[int] | Int[np.ndarray, " T"],
    junk: Sequence[int] | Int[np.ndarray, " J"] = (),
) -> float:
    """Area under precision over recall (trapezoids); NaN without positives.

    Positives that the ranking leaves out count as never found.
    """
    if not len(positives):
        return float("nan")
    places = find_positions(ranking, positives, junk)
    hits = np.arange(len(places))
    # The precision just before a hit; before the very first image it is taken as 1.
    before = np.where(places > 0, hits / np.maximum(places, 1), 1.0)
    after = (hits + 1) / (places + 1)
    return float((before + after).sum() / (2 * len(positives)))


def precision_at(positions: Int[np.ndarray, " K"], k: int) -> float:
    """Share of positives among the first k, or up to the last positive if sooner."""
    if not len(positions):
        return 0.0
    depth = min(k, int(positions[-1]) + 1)
    return float(np.count_nonzero(positions < depth) / depth)


def recall_at(positions: Int[np.ndarray, " K"], k: int) -> float:
    """1 if some positive is among the first k, else 0.

    The Recall@1 and so on of retrieval by classes, not the share of positives found.
    """
    return float(len(positions) > 0 and positions[0] < k)


def mean_over_queries(values: Sequence[float] | Float[np.ndarray, " Q"]) -> float:
    """Mean of one value per query; queries without positives (NaN) are left out."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else float("nan")


def macro_mean(
    values: Sequence[float] | Float[np.ndarray, " Q"], groups: Sequence[Hashable]
) -> float:
    """Mean over groups (landmarks) of the mean of their queries.

    A landmark with many photos weighs as much as one with two. Queries without
    positives are left out, and so are groups that have no others.
    """
    return mean_over_queries(group_means(values, groups))


def group_means(
    values: Sequence[float] | Float[np.ndarray, " Q"], groups: Sequence[Hashable]
) -> list[float]:
    """Mean of the queries of each group, in the order in which groups first come."""
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values but {len(groups)} groups")
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(float(value))
    return [mean_over_queries(each) for each in members.values()]


class RevisitedMetrics(NamedTuple):
    """Results under one protocol; NaN for a query without positives."""

    mean_average_precision: float
    mean_precisions: Float[np.ndarray, " K"]
    mean_recalls: Float[np.ndarray, " K"]
    average_precisions: Float[np.ndarray, " Q"]
    precisions: Float[np.ndarray, "Q K"]
    recalls: Float[np.ndarray, "Q K"]


def revisited_metrics(
    rankings: Int[np.ndarray, "Q R"],
    positives: Sequence[Int[np.ndarray, " _"]],
    junk: Sequence[Int[np.ndarray, " _"]],
    ranks: Sequence[int] = (1, 5, 10),
) -> RevisitedMetrics:
    """mAP, mP@k and mR@k of [ROP], k one of `ranks`, of one of the `protocol_lists`."""
    if max(ranks) > rankings.shape[1]:
        raise ValueError(
            f"precision at rank {max(ranks)} of a ranking of {rankings.shape[1]} images"
        )
    averages = np.full(len(rankings), np.nan)
    precisions = np.full((len(rankings), len(ranks)), np.nan)
    recalls = precisions.copy()
    for query, (ranking, right, left_out) in enumerate(
        zip(rankings, positives, junk, strict=True)
    ):
        averages[query] = average_precision(ranking, right, left_out)
        if len(right):
            places = find_positions(ranking, right, left_out)
            precisions[query] = [precision_at(places, k) for k in ranks]
            recalls[query] = [np.sum(places < k) / len(right) for k in ranks]
    mean = mean_over_queries(averages)
    mean_precisions, mean_recalls = (
        np.array([mean_over_queries(column) for column in table.T])
        for table in (precisions, recalls)
    )
    return RevisitedMetrics(
        mean, mean_precisions, mean_recalls, averages, precisions, recalls
    )


def protocol_lists(
    protocol: str,
    easy: Sequence[Int[np.ndarray, " _"]],
    hard: Sequence[Int[np.ndarray, " _"]],
    junk: Sequence[Int[np.ndarray, " _"]],
) -> tuple[list[Int[np.ndarray, " _"]], list[Int[np.ndarray, " _"]]]:
    """(positives, junk) of each query under "easy", "medium" or "hard" [ROP]."""
    sides: dict[str, tuple[list, list]] = {
        "easy": ([easy], [junk, hard]),
        "medium": ([easy, hard], [junk]),
        "hard": ([hard], [junk, easy]),
    }
    right, left_out = (
        list(map(np.concatenate, zip(*parts, strict=True))) for parts in sides[protocol]
    )
    return right, left_out
