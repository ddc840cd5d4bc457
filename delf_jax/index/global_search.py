"""Search for global descriptors, on all devices of this process and over processes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from delf_jax.files import InputError
from delf_jax.index import device_chunks
from delf_jax.index.device_chunks import MEMORY, TOGETHER, Chunk
from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import BLOCK, MARGIN, Best, Rows

# Bytes; a CPU copies arrays that begin elsewhere, which takes longer than the search.
_ALIGNMENT = 64
_ROWS_AT_ONCE = 2**13  # To measure norms.
# Candidates of reduced precision that are compared again, for each one wanted.
AGAIN = 2


class GlobalIndex(NamedTuple):
    """Global descriptors that can be searched: an index, or a process's part of one."""

    rows: Rows
    """in memory, or mapped"""
    largest_norm: float
    first: int = 0
    """id of the first row"""
    originals: Callable[[Int[np.ndarray, " _"]], np.ndarray] | None = None
    """float32 descriptors by id: candidates of reduced precision are compared again"""
    held: Sequence[Chunk] | None = None
    """all of `rows`, on the devices"""

    @property
    def size(self) -> int:
        return len(self.rows.values)


def from_array(descriptors: Float[np.ndarray, "M G"], precision: str) -> GlobalIndex:
    """Descriptors in memory; those of reduced precision with the array as originals."""
    rows = jax.tree.map(_aligned, nearest.quantize(descriptors, precision))
    reduced = precision != "float32"
    originals = (lambda ids: descriptors[ids]) if reduced else None
    return GlobalIndex(rows, largest_norm(rows), originals=originals)


def largest_norm(rows: Rows) -> float:
    """The largest length of a row; NaN if one is not finite."""
    found = [nearest.norms(block).max() for block in _blocks(rows, _ROWS_AT_ONCE)]
    return float(np.max(found, initial=0.0))


def take_part(index: GlobalIndex, part: int, parts: int) -> GlobalIndex:
    """What one of several processes holds; parts are equal but for a row."""
    start, end = (index.size * each // parts for each in (part, part + 1))
    return index._replace(
        rows=nearest.take(index.rows, slice(start, end)), first=index.first + start
    )


def hold(
    index: GlobalIndex, devices: Sequence[jax.Device] | None = None
) -> GlobalIndex:
    """The index with its rows on accelerators, for many searches, if there is room.

    On a CPU nothing is held: rows are used where they are.
    """
    devices = list(devices or jax.local_devices())
    if not index.size or sum(each.nbytes for each in jax.tree.leaves(index.rows)) > (
        sum(map(device_chunks.room, devices))
    ):
        return index
    return index._replace(held=tuple(device_chunks.place(index.rows, devices, MEMORY)))


def find_nearest(
    index: GlobalIndex,
    queries: Float[np.ndarray, "Q G"],
    k: int,
    *,
    devices: Sequence[jax.Device] | None = None,
    memory: int = MEMORY,
) -> Best:
    """The k most similar images of each query, best first, of equals the lower id.

    In float32 exactly these, with similarities that are the same for any number of
    queries, devices and processes and any `memory`. In reduced precision exact for the
    rows as they are kept; twice as many as wanted are compared again by the originals.
    Under jax.distributed all processes call this, each with its part, and with the same
    queries; all get the answer for the whole.

    Args:
      devices: those of this process by default; those that hold the index, if any do.
      memory: bytes for chunks of the index on the devices, unless they hold all.
    """
    queries = np.asarray(queries, np.float32)
    _check(index, queries)
    quantized = nearest.quantize(queries, nearest.precision_of(index.rows))
    wanted = k if index.originals is None else AGAIN * k
    devices = list(devices or jax.local_devices())
    found = [
        _find_here(index, block, wanted, devices, memory)
        for block in _blocks(quantized, TOGETHER)
    ] or [nearest.nothing_yet(0, min(wanted, index.size))]
    best = _joined(found)
    similarities = best.similarities
    if index.originals is not None:
        similarities = np.empty(best.ids.shape, np.float32)
        for row, one, ids in zip(similarities, queries[:, None], best.ids, strict=True):
            row[:] = nearest.compare(Rows(one), Rows(index.originals(ids)))
    if jax.process_count() > 1:
        best, similarities = _gather(best, similarities, wanted)
    return nearest.sort_best(Best(similarities, best.ids), k)


def _check(index: GlobalIndex, queries: Float[np.ndarray, "Q G"]) -> None:
    bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
    if len(bad):
        raise InputError(f"the global descriptor of query {bad[0]} is not finite")
    if not np.isfinite(index.largest_norm):
        raise InputError("a global descriptor of the index is not finite; index again")
    dimension = index.rows.values.shape[1]
    if index.size and queries.shape[1] != dimension:
        raise InputError(
            f"the query has a global descriptor of {queries.shape[1]} dimensions, the "
            f"index of {dimension}: search with the model that the index was made by"
        )


def _find_here(
    index: GlobalIndex,
    queries: Rows,
    k: int,
    devices: Sequence[jax.Device],
    memory: int,
) -> Best:
    """The best of the rows that this process holds, by `compare`, in their order."""
    k = min(k, index.size)
    count = min(k + MARGIN, index.size)
    if k == 0:
        return nearest.nothing_yet(len(queries.values), 0)
    kept = _keep_products(index, queries, count, devices, memory)
    # k images are at least as similar as the product in place k but for rounding: one
    # whose product is less by more than twice that is not among the k most similar.
    bounds = nearest.rounding(queries, index.largest_norm)
    least = np.partition(kept.similarities, -k, axis=1)[:, -k] - 2 * bounds
    ids = [
        some[products >= low]
        for some, products, low in zip(kept.ids, kept.similarities, least, strict=True)
    ]
    hidden = np.flatnonzero(kept.similarities.min(axis=1) >= least)
    if len(hidden) and count < index.size:
        some = nearest.take(queries, hidden)
        found = _all_above(index, some, least[hidden], devices, memory)
        for query, each in zip(hidden.tolist(), found, strict=True):
            ids[query] = each
    best = _compare(index, queries, ids, k)
    return best._replace(ids=best.ids + index.first)


def _keep_products(
    index: GlobalIndex,
    queries: Rows,
    count: int,
    devices: Sequence[jax.Device],
    memory: int,
) -> Best:
    """The images with the largest products of each query, in no order."""
    # The sort of a CPU is slow: there the few that exceed the least of the best so far
    # are picked from all products. Elsewhere these would be slow to fetch.
    pick = count if devices[0].platform != "cpu" else None
    blocks = _blocks(queries, BLOCK)
    placed = index.held or device_chunks.place(index.rows, devices, memory)
    best = [nearest.nothing_yet(len(block.values), count) for block in blocks]
    for start, found in device_chunks.scan(placed, blocks, devices, pick):
        for number, products in enumerate(found):
            if pick is None:
                best[number] = nearest.keep_best(best[number], products, start)
            else:
                best[number] = nearest.merge_best(best[number], products)
    return _joined(best)


def _all_above(
    index: GlobalIndex,
    queries: Rows,
    least: Float[np.ndarray, " Q"],
    devices: Sequence[jax.Device],
    memory: int,
) -> list[Int[np.ndarray, " _"]]:
    """For each query the images whose products reach `least`."""
    ids: list[list[np.ndarray]] = [[] for _ in least]
    blocks = _blocks(queries, BLOCK)
    placed = index.held or device_chunks.place(index.rows, devices, memory)
    for start, found in device_chunks.scan(placed, blocks, devices, None):
        for number, products in enumerate(found):
            for query, values in enumerate(products.T, number * BLOCK):
                ids[query].append(np.flatnonzero(values >= least[query]) + start)
    return [np.concatenate(each) for each in ids]


def _compare(
    index: GlobalIndex, queries: Rows, ids: Sequence[Int[np.ndarray, " _"]], k: int
) -> Best:
    """The best k of the images of each query, by `compare`."""
    best = []
    for one, some in zip(_blocks(queries, 1), map(np.sort, ids), strict=True):
        values = nearest.compare(one, nearest.take(index.rows, some))
        best.append(nearest.sort_best(Best(values[None], some[None]), k))
    return _joined(best)


def _blocks(rows: Rows, count: int) -> list[Rows]:
    starts = range(0, len(rows.values), count)
    return [nearest.take(rows, slice(start, start + count)) for start in starts]


def _joined(parts: Sequence[Best]) -> Best:
    return Best(*map(np.concatenate, zip(*parts, strict=True)))


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins where devices want arrays to begin, as mapped files do."""
    data = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    data = data[-data.ctypes.data % _ALIGNMENT :][: array.nbytes]
    copy = data.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _gather(
    best: Best, similarities: Float[np.ndarray, "Q K"], k: int
) -> tuple[Best, Float[np.ndarray, "Q L"]]:
    """The best k of all processes, with the similarities that go with them."""
    more, least = ((0, 0), (0, k - best.ids.shape[1])), -np.inf
    mine = (
        np.pad(best.similarities, more, constant_values=least),
        np.pad(best.ids, more, constant_values=np.iinfo(np.int32).max).astype(np.int32),
        np.pad(similarities, more, constant_values=least),
    )
    values, ids, similarities = (
        np.concatenate(each, axis=1) for each in multihost_utils.process_allgather(mine)
    )
    order = nearest.order_best(values, ids, k)
    values, ids, similarities = (
        np.take_along_axis(each, order, axis=1) for each in (values, ids, similarities)
    )
    real = np.isfinite(values).all(axis=0)
    return Best(values[:, real], ids[:, real].astype(np.int64)), similarities[:, real]
