"""Scores for [GLDv2] as a table, as JSON, and as the original prints them."""

import collections
import math
from typing import Any

import numpy as np

from delf_jax.evaluation.tables import align, format_interval
from delf_jax.gldv2.scores import GAP_SAMPLES, PARTS, RANKS, Row, Scores
from delf_jax.retrieval.bootstrap import SAMPLES, Estimate

_SHOWN = 10  # hex digits of a digest.


def original_lines(scores: Scores) -> list[str]:
    """What the original prints, of scores of one file of predictions."""
    values = {row.part: row.values for row in scores.rows}
    lines = ["Reading solution...", "done!", "Reading predictions...", "done!"]
    if scores.task == "recognition":
        gap = "Global Average Precision"
        shown = [
            (gap + ": {GAP:.6f}", 1),
            (gap + " ignoring non-landmark queries: {GAP of landmarks:.6f}", 1),
            ("Top-1 accuracy: {top-1:.2f}", 100),
        ]
    else:
        precisions = ", ".join(f"P@{k}: {{P@{k}:.2f}}" for k in RANKS)
        positions = "{mean position:.2f}, median position: {median position:.2f}"
        shown = [
            ("Mean Average Precision: {mAP@100:.6f}", 1),
            (f"Mean precisions: {precisions}", 100),
            (f"Mean position: {positions}", 1),
        ]
    for text, factor in shown:
        lines.append("*" * 46)
        for part in PARTS:
            found = {name: factor * v.value for name, v in values.get(part, {}).items()}
            # A part without images has no numbers.
            numbers = collections.defaultdict(lambda: math.nan, found)
            label = f"({part})".ljust(len("(Private)"))
            lines.append(f"{label} {text.format_map(numbers)}")
    return lines


def table(scores: Scores) -> list[str]:
    """Lines of text: what was scored, what is to be known, a row for each result."""
    draws = f"{GAP_SAMPLES if scores.task == 'recognition' else SAMPLES} draws"
    cells = [_header(scores), *(_cells(scores, row) for row in scores.rows)]
    return [
        f"{scores.task} on {scores.solution}, SHA-256 {scores.version}",
        *scores.notes,
        f"per cent, but for positions; 95 % intervals: {draws} of test images, seed "
        f"{scores.seed}" + ("; gain: on the first, paired" if _several(scores) else ""),
        *align(cells),
    ]


def to_json(scores: Scores) -> dict[str, Any]:
    """The results, ready for JSON: shares of 1."""
    results = []
    for row in scores.rows:
        values = {name: _value_to_json(value) for name, value in row.values.items()}
        results.append(row._asdict() | {"values": values})
    return {
        "task": scores.task,
        "solution": scores.solution,
        "solution_sha256": scores.version,
        "seed": scores.seed,
        "notes": scores.notes,
        "results": results,
    }


def _several(scores: Scores) -> bool:
    return any(value.gain for row in scores.rows for value in row.values.values())


def _header(scores: Scores) -> list[str]:
    names = ["part", "predictions"]
    for name, value in scores.rows[0].values.items():
        names.append(name)
        if value.interval is not None:
            names += ["95 %", "gain"] if _several(scores) else ["95 %"]
    return [*names, "solution", "settings"]


def _cells(scores: Scores, row: Row) -> list[str]:
    first = scores.rows[0].values
    cells = [row.part, row.file]
    for name, value in row.values.items():
        factor = 1 if "position" in name else 100
        cells.append(f"{factor * value.value:.2f}")
        if first[name].interval is not None:
            cells.append(format_interval(value.interval))
            cells += [format_interval(value.gain, "+")] if _several(scores) else []
    return [*cells, f"{scores.solution} {scores.version[:_SHOWN]}", row.settings]


def _value_to_json(value: Estimate) -> dict[str, Any]:
    return {
        "value": None if np.isnan(value.value) else value.value,
        "interval": value.interval and list(value.interval),
        "gain": value.gain and list(value.gain),
    }
