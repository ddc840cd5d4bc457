"""Ground truth of Revisited Oxford and Paris [ROP].

`gnd_roxford5k.pkl`, `.mat` and `.json` hold the same: names of index and query images,
and for each query a box and lists of easy, hard and junk index images. Those of the
original Oxford5k and Paris6k, `gnd_oxford5k.pkl`, have ok and junk images, or good ones
as well: what is good or ok is right, and read as easy.
"""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.files import InputError, read_json, write_json
from delf_jax.formats import matlab
from delf_jax.formats.pickles import plain_data

_LISTS = ("easy", "hard", "junk")
_ORIGINAL = ("good", "ok")


class GroundTruth(NamedTuple):
    """Ids are places in `index_images`. A field that the file lacks is None."""

    index_images: list[str]
    query_images: list[str]
    boxes: Float[np.ndarray, "Q 4"] | None
    """(y_min, x_min, y_max, x_max) in pixels of the query image"""
    easy: list[Int[np.ndarray, " _"]] | None
    hard: list[Int[np.ndarray, " _"]] | None
    junk: list[Int[np.ndarray, " _"]] | None


def read_ground_truth(path: str | os.PathLike) -> GroundTruth:
    """The ground truth of a .mat, .pkl or .json file; InputError if it is not valid.

    It is not if what a query lists as right is listed twice, or as junk as well: by the
    published evaluation it would count twice, up to more than 100 per cent.

    A pickle may hold plain data and numpy arrays; all else in it is refused.
    """
    pickle = plain_data.read_pickle
    readers = {".mat": matlab.read_mat, ".pkl": pickle, ".json": read_json}
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in readers:
        raise InputError(f"{path}: ground truth is a .mat, .pkl or .json file")
    # MATLAB counts images from 1.
    return _checked(readers[suffix](path), path, first=int(suffix == ".mat"))


def write_ground_truth(path: str | os.PathLike, truth: GroundTruth) -> None:
    """Writes the JSON file: imlist, qimlist, and gnd with a dict for each query."""
    queries: list[dict[str, Any]] = [{} for _ in truth.query_images]
    for name in _LISTS:
        for query, ids in zip(queries, getattr(truth, name) or (), strict=False):
            query[name] = ids.tolist()
    if truth.boxes is not None:
        for query, box in zip(queries, truth.boxes[:, [1, 0, 3, 2]], strict=True):
            query["bbx"] = box.tolist()
    content = {"imlist": truth.index_images, "qimlist": truth.query_images}
    write_json(path, {**content, "gnd": queries})


def _checked(content: Any, path: str | os.PathLike, first: int) -> GroundTruth:
    """The ground truth of what a file holds, whose ids count from `first`."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: not a ground truth; it has no imlist, qimlist, gnd")
    index, queries = (_names(content, name, path) for name in ("imlist", "qimlist"))
    truths = _rows(content, "gnd", path)
    if len(truths) != len(queries):
        raise InputError(f"{path}: gnd has {len(truths)} rows for {len(queries)} names")
    if not all(isinstance(truth, Mapping) for truth in truths):
        raise InputError(f"{path}: expected dicts of easy, hard, junk as rows of gnd")
    gnd = f"{path}, gnd"
    read_ids = functools.partial(plain_data.read_ids, first=first, count=len(index))
    found = {n: _field(truths, n, read_ids, gnd) for n in (*_LISTS, *_ORIGINAL)}
    right = [found[name] for name in _ORIGINAL if found[name] is not None]
    if right:
        if found["easy"] is not None or found["hard"] is not None:
            raise InputError(f"{gnd}: has good or ok images, and easy or hard ones")
        # Sets in the original: what is both is right once.
        found["easy"] = [*map(_union, zip(*right, strict=True))]
    lists = [found[name] for name in _LISTS]
    _check_distinct(dict(zip(_LISTS, lists, strict=True)), index, gnd)
    boxes = _field(truths, "bbx", _box, gnd)
    return GroundTruth(index, queries, np.array(boxes) if boxes else None, *lists)


def _union(lists: Iterable[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " _"]:
    """All ids of some lists, each once, in their order."""
    ids = itertools.chain.from_iterable(each.tolist() for each in lists)
    return np.array([*dict.fromkeys(ids)], np.int32)


def _check_distinct(
    lists: Mapping[str, list[Int[np.ndarray, " _"]] | None], images: list[str], gnd: str
) -> None:
    """InputError if a query lists an image twice; as junk it may."""
    for query in range(max(len(found or ()) for found in lists.values())):
        owners: dict[int, str] = {}
        for name, found in lists.items():
            for id in found[query].tolist() if found else ():
                other = owners.get(id)
                if other and (other, name) != ("junk", "junk"):
                    raise InputError(
                        f"{gnd}[{query}]: lists image {images[id]!r:.80} as {other} "
                        f"and again as {name}; keep one"
                    )
                owners[id] = name


def _field(
    truths: list[Mapping], name: str, read: Callable[[Any, str], Any], where: str
) -> list[Any] | None:
    """What was read of a field, empty where a query lacks it; None if all lack it."""
    if not any(name in truth for truth in truths):
        return None
    return [
        read(truth.get(name, ()), f"{where}[{query}].{name}")
        for query, truth in enumerate(truths)
    ]


def _rows(content: Mapping, name: str, path: str | os.PathLike) -> list:
    value = content.get(name)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{path}: has no list {name}")
    return list(value)


def _names(content: Mapping, name: str, path: str | os.PathLike) -> list[str]:
    names = _rows(content, name, path)
    for place, each in enumerate(names):
        if not isinstance(each, str):
            raise InputError(f"{path}, {name}[{place}]: {each!r:.80} is not a name")
    return names


def _box(value: Any, where: str) -> Float[np.ndarray, "4"]:
    """(y_min, x_min, y_max, x_max) of (x_min, y_min, x_max, y_max)."""
    numbers = plain_data.read_numbers(value, where)
    if len(numbers) != 4:
        raise InputError(f"{where}: a box has 4 numbers, this has {len(numbers)}")
    return numbers[[1, 0, 3, 2]]
