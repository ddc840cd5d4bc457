"""Batches of tuples (a query, its positive, mined negatives), epoch by epoch.

What shows the same is a 3D model of SfM-120k or a class of any labelled source. Which
queries, positives and candidates an epoch has depends on (seed, epoch) alone; which of
the candidates become negatives, on the weights at its start: see `mining`.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from delf_jax import images
from delf_jax.data import loader, prepare
from delf_jax.files import InputError
from delf_jax.formats.datasets import sfm120k
from delf_jax.losses.mining import hard_negatives
from delf_jax.progress import track

AHEAD = 2  # batches that are read before they are needed.
Canvas = tuple[UInt8[np.ndarray, "S S 3"], tuple[int, int]]


class Pool(NamedTuple):
    """All images of a training, by number."""

    sources: Sequence[loader.ImageSource]
    places: Int[np.ndarray, "N 2"]
    """(source, place in it) of each image"""
    ids: list[str]
    clusters: Int[np.ndarray, "N"]
    """what an image shows; no two share one that shows nothing known"""
    pairs: Int[np.ndarray, "P 2"] | None
    """queries and positives, where they are listed; else any of a cluster are"""


class TupleSettings(NamedTuple):
    """How many of what an epoch has."""

    queries: int
    pool: int
    """images that negatives are mined from"""
    negatives: int
    """of a query"""


class Epoch(NamedTuple):
    """What is drawn for an epoch: numbers of images."""

    queries: Int[np.ndarray, "Q"]
    positives: Int[np.ndarray, "Q"]
    candidates: Int[np.ndarray, "P"]
    """of which negatives are mined"""


def open_pool(
    sources: Sequence[loader.ImageSource], listings: Mapping[str, str]
) -> Pool:
    """The images of all sources, ordered by id, with the pairs that SfM-120k lists.

    Args:
      listings: by name of a source, the .pkl of SfM-120k that it was opened from.
    """
    found = []
    with track("labels of images", sum(map(len, sources))) as advance:
        for i, source in enumerate(sources):
            for j in range(len(source)):
                example = source[j]
                found.append((example["id"], i, j, example["label"]))
                advance()
    found.sort()
    ids = [id for id, *_ in found]
    clusters = np.array([label for *_, label in found], np.int64)
    unknown = clusters == loader.UNLABELLED
    clusters[unknown] = -1 - np.arange(unknown.sum())
    places = np.array([(i, j) for _, i, j, _ in found], np.int64).reshape(-1, 2)
    pairs = _listed_pairs(listings, ids) if listings else None
    return Pool(sources, places, ids, clusters, pairs)


def _listed_pairs(
    listings: Mapping[str, str], ids: list[str]
) -> Int[np.ndarray, "P 2"]:
    """Numbers of the listed queries and positives, of those that could be read."""
    numbers = {id: number for number, id in enumerate(ids)}
    pairs: list[tuple[int, int]] = []
    for name, path in listings.items():
        part = sfm120k.read_sfm120k(path)["train"]
        for query, positive in zip(part.queries, part.positives, strict=True):
            both = (f"{name}/{part.images[i]}" for i in (query, positive))
            known = [numbers[id] for id in both if id in numbers]
            if len(known) == 2:
                pairs.append((known[0], known[1]))
    return np.array(pairs, np.int64).reshape(-1, 2)


def draw_epoch(pool: Pool, seed: int, epoch: int, queries: int, size: int) -> Epoch:
    """At most so many queries, each with a positive, and a pool of so many candidates.

    InputError if no two images show the same.
    """
    rng = np.random.default_rng([seed, epoch])
    if pool.pairs is not None:
        pairs = pool.pairs[rng.permutation(len(pool.pairs))[:queries]]
    else:
        pairs = _draw_pairs(pool.clusters, rng, queries)
    if not len(pairs):
        raise InputError(
            "data.sources: no two images show the same, so there are no tuples to "
            "train on"
        )
    candidates = np.sort(rng.permutation(len(pool.ids))[:size])
    return Epoch(pairs[:, 0], pairs[:, 1], candidates)


def _draw_pairs(
    clusters: Int[np.ndarray, " N"], rng: np.random.Generator, count: int
) -> Int[np.ndarray, "P 2"]:
    """Images of clusters of several, each with another of its own."""
    order = np.argsort(clusters, kind="stable")
    _, first, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    start, size = (np.repeat(x, sizes) for x in (first, sizes))
    several = np.flatnonzero(size > 1)
    chosen = several[rng.permutation(len(several))[:count]]
    steps = rng.integers(1, size[chosen]) if len(chosen) else chosen
    other = start[chosen] + (chosen - start[chosen] + steps) % size[chosen]
    return np.stack([order[chosen], order[other]], 1)


def read_canvas(pool: Pool, number: int, size: int) -> Canvas:
    """An image, shrunk to a longer side of `size`, on a canvas, and its (h, w)."""
    source, place = pool.places[number]
    image = images.decode_image(pool.sources[source][int(place)]["encoded"])
    image = prepare.shrink(image, size)
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas, image.shape[:2]


class TupleBatches(loader.Batches):
    """An endless iterator of batches with `get_state`; if it is `due`, `mine` first.

    A batch has id [B], label int32 [B], image uint8 [B, T, S, S, 3] and size int32
    [B, T, 2], where T is query, positive and negatives. The last tuples of an epoch
    that fill no batch are left out.
    """

    def __init__(
        self,
        pool: Pool,
        settings: TupleSettings,
        *,
        size: int,
        batch_size: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
        threads: int = 4,
    ):
        self.pool = pool
        self._settings, self._size, self._seed = settings, size, seed
        self._batch_size, self._part = batch_size, part
        self._threads = futures.ThreadPoolExecutor(threads)
        self.set_state({"epoch": 0, "batch": 0, "negatives": []})
        if not self._batches:
            raise InputError(
                f"batch_size {batch_size * part[1]}: an epoch has only "
                f"{len(self.drawn.queries)} queries"
            )

    @property
    def due(self) -> bool:
        """Whether the next batch needs negatives that are not mined yet."""
        return not self._state["negatives"]

    def get_state(self) -> dict[str, Any]:
        """The position, as plain numbers."""
        return dict(self._state)

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a position of `get_state`."""
        self._state = dict(state)
        counts = self._settings.queries, self._settings.pool
        self.drawn = draw_epoch(self.pool, self._seed, state["epoch"], *counts)
        self._batches = len(self.drawn.queries) // (self._batch_size * self._part[1])
        self._reading: collections.deque = collections.deque()

    def mine(self, describe: Callable[[Int[np.ndarray, " N"]], np.ndarray]) -> None:
        """Sets the epoch's negatives; `describe` gives descriptors of images."""
        drawn, clusters = self.drawn, self.pool.clusters
        numbers = np.unique(np.concatenate([drawn.queries, drawn.candidates]))
        descriptors = describe(numbers)
        queries, pool = (
            descriptors[np.searchsorted(numbers, each)]
            for each in (drawn.queries, drawn.candidates)
        )
        shown = clusters[drawn.queries], clusters[drawn.candidates]
        try:
            found = hard_negatives(queries, pool, *shown, self._settings.negatives)
        except ValueError as error:
            raise InputError(f"tuples.negatives: {error}") from None
        self._state["negatives"] = drawn.candidates[found].tolist()

    def __next__(self) -> dict[str, np.ndarray]:
        if self.due:
            raise RuntimeError("the negatives of this epoch are not mined yet")
        first, epoch = self._state["batch"], self._state["epoch"]
        last = min(first + AHEAD + 1, self._batches)
        for number in range(first + len(self._reading), last):
            self._reading.append(self._start_reading(number))
        rows, pending = self._reading.popleft()
        canvases, sizes = zip(*(each.result() for each in pending), strict=True)
        queries, canvas = self.drawn.queries[rows], (self._size, self._size, 3)
        batch = {
            "id": np.array([self.pool.ids[query] for query in queries]),
            "label": self.pool.clusters[queries].astype(np.int32),
            "image": np.stack(canvases).reshape(len(rows), -1, *canvas),
            "size": np.array(sizes, np.int32).reshape(len(rows), -1, 2),
        }
        self._state["batch"] = first + 1
        if first + 1 == self._batches:
            self.set_state({"epoch": epoch + 1, "batch": 0, "negatives": []})
        return batch

    def _start_reading(self, number: int) -> tuple[np.ndarray, list[futures.Future]]:
        """This host's tuples of a batch, and what reads their images."""
        host, hosts = self._part
        first = number * self._batch_size * hosts
        rows = np.arange(first, first + self._batch_size * hosts)[host::hosts]
        queries, positives = self.drawn.queries[rows], self.drawn.positives[rows]
        negatives = np.array([self._state["negatives"][row] for row in rows])
        pending = [
            self._threads.submit(read_canvas, self.pool, int(number), self._size)
            for number in np.c_[queries, positives, negatives].ravel()
        ]
        return rows, pending
