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
from delf_jax.names import finder

UNSEEN = "_unseen"


def leave_out(datasets: Sequence[Dataset], path: str | os.PathLike) -> list[Dataset]:
    """The datasets with a protocol beside each that has no positives for queries seen.

    The file has names of queries (see names.py) or of landmarks. Queries without
    positives are left out of all means. InputError if a name is of no query or landmark
    of any dataset.
    """
    names = tables.read_names(path, unique=False)
    landmarks = {name for dataset in datasets for name in dataset.landmarks or ()}
    # A landmark means its queries, and none whose name only ends in it.
    others = [name for name in names if name not in landmarks]
    finders = [finder([query.name for query in each.queries]) for each in datasets]
    for name in others:
        if all(len(find(name)) != 1 for find in finders):
            searched = ", ".join(dataset.name for dataset in datasets)
            raise InputError(
                f"{path}: {name!r:.80} not found among queries and landmarks of "
                f"{searched}"
            )
    left_out = []
    for dataset, find in zip(datasets, finders, strict=True):
        places = [find(name) for name in others]
        meant = {dataset.queries[p[0]].name for p in places if len(p) == 1}
        left_out.append(_with_unseen(dataset, {*names, *meant}))
    return left_out


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
