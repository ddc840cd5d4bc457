"""Results on a dataset as a table, as JSON, and as metrics.txt of the original."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from delf_jax.evaluation import datasets
from delf_jax.evaluation.evaluation import Evaluation, Row
from delf_jax.evaluation.overlap import UNSEEN
from delf_jax.evaluation.tables import align, format_interval
from delf_jax.formats.datasets import revisited_metrics
from delf_jax.progress import format_count
from delf_jax.retrieval.bootstrap import SAMPLES, Estimate

# The original's name for a ranking after geometric verification.
_SUFFIXES = {"global": "", "verification": "_after_gv"}


def table(evaluation: Evaluation) -> Iterator[str]:
    """Lines of text: what was scored, what was left out, a row for each result."""
    yield from notes(evaluation)
    yield from align(cells(evaluation))


def notes(evaluation: Evaluation) -> Iterator[str]:
    """Lines that go above the table: what was scored, what was left out."""
    dataset = evaluation.dataset
    yield (
        f"{dataset.name}: {format_count(len(dataset.queries), 'query')}, "
        f"{_photos(evaluation)}, ground truth {dataset.version[:10]}"
    )
    if dataset.seen:
        left = f"{len(dataset.seen)} of {format_count(len(dataset.queries), 'query')}"
        yield f"unseen: without {left}, as --exclude_queries says"
    if evaluation.missing:
        missing = datasets.format_missing(evaluation.missing)
        yield f"PARTIAL: {missing}; results on the whole are others"
    for protocol, count in _unanswerable(evaluation).items():
        of = f"{count} of {format_count(len(dataset.queries), 'query')}"
        yield f"{protocol}: without positives and left out: {of}"
    yield (
        f"per cent; 95 % intervals: {SAMPLES} draws of queries (macro: of landmarks), "
        f"seed {evaluation.seed}; gain: on the first ranking, paired"
    )


def cells(evaluation: Evaluation) -> list[list[str]]:
    """The table: a header, then a row for each result."""
    return [_header(evaluation), *(_cells(row) for row in evaluation.rows)]


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The results, ready for JSON: shares of 1; None for a query without positives."""
    dataset = evaluation.dataset
    return {
        "dataset": dataset.name,
        "ground_truth_sha256": dataset.version,
        "queries": [query.name for query in dataset.queries],
        "landmarks": dataset.landmarks,
        "photos": len(dataset.index),
        "distractors": evaluation.distractors,
        "seen": list(dataset.seen),
        "missing": evaluation.missing,
        "bootstrap": {"samples": SAMPLES, "seed": evaluation.seed, "level": 0.95},
        "ranks": list(evaluation.ranks),
        "results": [_row_to_json(row) for row in evaluation.rows],
    }


def write_metrics(path: str | os.PathLike, evaluation: Evaluation) -> None:
    """Writes metrics.txt: "hard", "hard_after_gv", and "hard_after_..." for others."""
    summaries = {}
    for row in evaluation.rows:
        suffix = _SUFFIXES.get(row.ranking, f"_after_{row.ranking}")
        summaries[row.protocol + suffix] = revisited_metrics.Summary(*row.metrics[:3])
    revisited_metrics.write_metrics(path, evaluation.ranks, summaries)


def _photos(evaluation: Evaluation) -> str:
    count, distractors = len(evaluation.dataset.index), evaluation.distractors
    if not distractors:
        return format_count(count, "photo")
    photos = format_count(count - distractors, "photo")
    return f"{photos} and {format_count(distractors, 'distractor')}"


def _unanswerable(evaluation: Evaluation) -> dict[str, int]:
    """How many queries have no positives, by protocol where there are some.

    That a query was seen in training is counted once, not for each protocol.
    """
    counts, seen = {}, len(evaluation.dataset.seen)
    for name, protocol in evaluation.dataset.protocols.items():
        count = sum(not len(ids) for ids in protocol.positives)
        if count > (seen if name.endswith(UNSEEN) else 0):
            counts[name] = count
    return counts


def _header(evaluation: Evaluation) -> list[str]:
    header = ["protocol", "ranking", "mAP", "95 %", "gain"]
    if evaluation.dataset.landmarks is not None:
        header += ["macro-mAP", "95 %", "gain"]
    header += [f"{name}@{k}" for name in ("mP", "mR") for k in evaluation.ranks]
    return [*header, "settings"]


def _cells(row: Row) -> list[str]:
    cells = [row.protocol, row.ranking, *_estimate_cells(row.mean)]
    if row.macro is not None:
        cells += _estimate_cells(row.macro)
    cells += map(_percent, row.metrics.mean_precisions)
    cells += map(_percent, row.metrics.mean_recalls)
    return [*cells, row.key]


def _estimate_cells(estimate: Estimate) -> list[str]:
    return [
        _percent(estimate.value),
        format_interval(estimate.interval),
        format_interval(estimate.gain, "+"),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _row_to_json(row: Row) -> dict[str, Any]:
    values = {
        "protocol": row.protocol,
        "ranking": row.ranking,
        "settings": row.key,
        "mAP": _estimate_to_json(row.mean),
        "mP": _numbers(row.metrics.mean_precisions),
        "mR": _numbers(row.metrics.mean_recalls),
        "average_precisions": _numbers(row.metrics.average_precisions),
    }
    if row.macro is not None:
        values["macro_mAP"] = _estimate_to_json(row.macro)
    return values


def _estimate_to_json(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": _numbers([estimate.value])[0],
        "interval": estimate.interval and _numbers(estimate.interval),
        "gain": estimate.gain and _numbers(estimate.gain),
    }


def _numbers(values: Sequence[float] | Float[np.ndarray, " _"]) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]
