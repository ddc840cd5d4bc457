"""Results beside the figures that a paper published."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from delf_jax import evaluation_report
from delf_jax.evaluation import Evaluation, Row

# What a row of the paper's figures calls a dataset that is searched with R1M, whose
# 1,001,001 photos nothing smaller can stand for.
R1M, _R1M_PHOTOS = "+r1m", 1_001_001


class Compared(NamedTuple):
    """One result, and what the paper says."""

    dataset: str
    version: str
    """SHA-256 of the ground truth"""
    row: Row
    published: float | None
    """mAP as a share of 1; None if the paper says nothing, or of another collection"""


def compare(name: str, result: Evaluation, paper: Sequence[tuple]) -> list[Compared]:
    """The rows of a result; published figures only of the same, whole collection."""
    figures: dict[tuple[str, str], float] = {}
    collection = {0: name, _R1M_PHOTOS: name + R1M}.get(result.distractors)
    for dataset, ranking, *values in paper:
        if dataset == collection and not result.missing:
            keys = ((protocol, ranking) for protocol in ("medium", "hard"))
            figures |= dict(zip(keys, values, strict=True))
    compared = []
    for row in result.rows:
        percent = figures.get((row.protocol, row.ranking))
        published = None if percent is None else percent / 100
        compared.append(Compared(name, result.dataset.version, row, published))
    return compared


def table(compared: Sequence[Compared]) -> Iterator[str]:
    """Published beside got."""
    header = ("dataset", "protocol", "ranking", "paper", "got", "difference", "95 %")
    rows = [[*header, "settings", "ground truth"]]
    for dataset, version, row, published in compared:
        got, (low, high) = 100 * row.mean.value, row.mean.interval
        paper = difference = "-"
        if published is not None:
            paper = f"{100 * published:.2f}"
            difference = f"{got - 100 * published:+.2f}"
        spread = f"{100 * low:.1f} to {100 * high:.1f}"
        cells = (paper, f"{got:.2f}", difference, spread, row.key, version[:10])
        rows.append([dataset, row.protocol, row.ranking, *cells])
    yield "mAP in per cent, published and got"
    yield from evaluation_report.align(rows, left=3)


def describe(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """The same, ready for JSON, as shares of 1."""
    return [
        {
            "dataset": dataset,
            "protocol": row.protocol,
            "ranking": row.ranking,
            "published": published,
            "mAP": row.mean.value,
            "interval": list(row.mean.interval),
            "difference": None if published is None else row.mean.value - published,
            "settings": row.key,
            "ground_truth_sha256": version,
        }
        for dataset, version, row, published in compared
    ]
