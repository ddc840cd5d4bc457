"""Configs of experiments: a config of extraction with a section `experiment`."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from delf_jax.config import override_fields, run_config
from delf_jax.evaluation.evaluation import Evaluation, Row
from delf_jax.evaluation.tables import align, format_interval
from delf_jax.extraction import config as extraction_config
from delf_jax.extraction.config import EXPERIMENT
from delf_jax.files import InputError
from delf_jax.search.learned import LEARNED
from delf_jax.search.pipeline import AGGREGATED, ALL_STEPS, Pipeline, parse_pipelines

# Columns of `paper`.
_PAPER = (str, str, (int, float), (int, float))


def every_field() -> ConfigDict:
    """All that a section `experiment` can say; configs/experiment.py explains it."""
    codebook = {"words": 0, "iterations": 50, "seed": 0, "path": "", "learned_on": ()}
    names = dict.fromkeys(("weights", "verification", "boxes", "detector"), "")
    several = dict.fromkeys(("datasets", "ways", "paper"), ())
    return ConfigDict({**names, **several, "codebook": codebook})


def read_experiment_config(
    path: str | os.PathLike, overrides: Sequence[str] = ()
) -> ConfigDict:
    """The locked config of a file: model, extraction, experiment.

    InputError for what is misspelt or not allowed, in the file or in overrides such
    as `--config.experiment.codebook.words=1024`.
    """
    wanted = "reproduce takes one with a section experiment, as in configs/"
    if pathlib.Path(path).suffix == ".pbtxt":
        raise InputError(f"{path}: a text config of the original; {wanted}")
    read = run_config(path)
    if EXPERIMENT not in read:
        raise InputError(f"{path}: no section {EXPERIMENT}; {wanted}")
    config = extraction_config.every_field()
    config[EXPERIMENT] = every_field()
    extraction_config.merge(config, read, path)
    override_fields(config, overrides)
    _check(config.experiment, path)
    return config.lock()


def _check(experiment: ConfigDict, path: Any) -> None:
    """InputError, naming the field, if a value is not allowed."""
    numbers = experiment.codebook
    allowed = {
        "datasets": bool(experiment.datasets) and _are(experiment.datasets, str),
        "ways": bool(experiment.ways) and _are(experiment.ways, str),
        "codebook.words": numbers.words >= 0,
        "codebook.iterations": numbers.iterations > 0,
        "codebook.seed": numbers.seed >= 0,
        "codebook.learned_on": _are_rows(numbers.learned_on, (str, str)),
        "paper": _are_rows(experiment.paper, _PAPER),
    }
    for name, good in allowed.items():
        if not good:
            raise InputError(f"{path}: {EXPERIMENT}.{name}: not allowed")
    if experiment.boxes and experiment.detector:
        raise InputError(
            f"{path}: {EXPERIMENT}.boxes, {EXPERIMENT}.detector: use one of them; a "
            "detector finds boxes itself"
        )
    starts = [pipeline[0] for pipeline in read_pipelines(experiment, path)]
    by_words = [start for start in starts if start in AGGREGATED]
    if by_words and not (numbers.words or numbers.path):
        raise InputError(
            f"{path}: pipeline {by_words[0]} needs visual words: set "
            f"{EXPERIMENT}.codebook.words, or {EXPERIMENT}.codebook.path to a codebook"
        )


def read_pipelines(experiment: ConfigDict, path: Any = "config") -> list[Pipeline]:
    """The pipelines of an experiment; InputError for unknown steps.

    A learned reranker belongs to one model, and no paper has it.
    """
    allowed = tuple(step for step in ALL_STEPS if step != LEARNED)
    option = f"{path}: {EXPERIMENT}.ways"
    return parse_pipelines(",".join(experiment.ways), option, allowed)


def _are_rows(rows: Any, kinds: Sequence[Any]) -> bool:
    return all(
        isinstance(row, tuple)
        and len(row) == len(kinds)
        and all(map(isinstance, row, kinds))
        for row in rows
    )


def _are(values: Any, kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


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
        got = 100 * row.mean.value
        paper = difference = "-"
        if published is not None:
            paper = f"{100 * published:.2f}"
            difference = f"{got - 100 * published:+.2f}"
        spread = format_interval(row.mean.interval)
        cells = (paper, f"{got:.2f}", difference, spread, row.key, version[:10])
        rows.append([dataset, row.protocol, row.ranking, *cells])
    yield "mAP in per cent, published and got"
    yield from align(rows, left=3)


def to_json(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """The same, ready for JSON, as shares of 1."""
    return [
        {
            "dataset": dataset,
            "protocol": row.protocol,
            "ranking": row.ranking,
            "published": published,
            "mAP": row.mean.value,
            "interval": row.mean.interval and list(row.mean.interval),
            "difference": None if published is None else row.mean.value - published,
            "settings": row.key,
            "ground_truth_sha256": version,
        }
        for dataset, version, row, published in compared
    ]
