"""Queries whose landmarks a model has seen in training, reported with and without.

38 of the 70 queries of Revisited Oxford and 36 of Revisited Paris show landmarks that
GLDv2-clean contains (RGLDv2-clean, 2024): what a model trained there scores on all 70
says little about landmarks that are new to it.
"""

import os
from collections.abc import Sequence

import numpy as np

from delf_jax.evaluation.datasets import Dataset, Protocol
from delf_jax.files import InputError
from delf_jax.formats import tables

UNSEEN = "_unseen"


def leave_out(datasets: Sequence[Dataset], path: str | os.PathLike) -> list[Dataset]:
    """The datasets with a protocol beside each that has no positives for queries seen.

    The file has names of queries or landmarks. Queries without positives are left out
    of all means. InputError if a name is of no query or landmark of any dataset.
    """
    names = tables.read_names(path, unique=False)
    known = {query.name for dataset in datasets for query in dataset.queries}
    known.update(*(dataset.landmarks or () for dataset in datasets))
    unknown = [name for name in names if name not in known]
    if unknown:
        searched = ", ".join(dataset.name for dataset in datasets)
        raise InputError(
            f"{path}: {unknown[0]!r:.80} not found among queries and landmarks of "
            f"{searched}"
        )
    return [_with_unseen(dataset, set(names)) for dataset in datasets]


def _with_unseen(dataset: Dataset, names: set[str]) -> Dataset:
    landmarks = dataset.landmarks or [""] * len(dataset.queries)
    seen = [
        query.name in names or landmark in names
        for query, landmark in zip(dataset.queries, landmarks, strict=True)
    ]
    protocols = {}
    for name, (positives, junk) in dataset.protocols.items():
        protocols[name] = Protocol(positives, junk)
        if any(seen):
            pairs = zip(positives, seen, strict=True)
            emptied = [ids[:0] if left else ids for ids, left in pairs]
            protocols[name + UNSEEN] = Protocol(emptied, junk)
    left_out = (dataset.queries[place].name for place in np.flatnonzero(seen))
    return dataset._replace(protocols=protocols, seen=tuple(left_out))
