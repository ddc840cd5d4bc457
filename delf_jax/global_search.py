"""Search for global descriptors, on all devices of this process and over processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from delf_jax.files import InputError
from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import BLOCK, MARGIN, Best, Rows

# What pieces of the index may take on the devices, unless told otherwise.
MEMORY = 2**30
# Rows of a piece on one device. On a CPU their products with a block of queries, 2 MB,
# stay in the cache; an accelerator wants fewer and larger steps.
_CPU_ROWS, _ROWS = 2**13, 2**16
# Queries that one pass over the index answers: their products with a piece are kept.
_TOGETHER = 8 * BLOCK
# Bytes; a CPU copies arrays that begin elsewhere, which takes longer than the search.
_ALIGNMENT = 64
# Candidates of reduced precision that are compared again, for each one wanted.
AGAIN = 2


class Descriptors(NamedTuple):
    """Global descriptors that can be searched: an index, or a process's part of one."""

    rows: Rows
    """in memory, or mapped"""
    largest_norm: float
    first: int = 0
    """id of the first row"""
    originals: Callable[[Int[np.ndarray, " _"]], np.ndarray] | None = None
    """float32 descriptors by id, where `rows` are of reduced precision: candidates are
    compared by these, if they are there"""
    held: "Sequence[Piece] | None" = None
    """all of `rows`, on the devices"""

    @property
    def count(self) -> int:
        return len(self.rows.values)


class Piece(NamedTuple):
    """Some rows on the devices."""

    begin: int
    """the first of them"""
    counted: Int[np.ndarray, "2"]
    """first and end of those that count; the others are in another piece, or padding"""
    rows: Rows


def from_array(descriptors: Float[np.ndarray, "M G"], precision: str) -> Descriptors:
    """Descriptors in memory; those of reduced precision with the array as originals."""
    rows = jax.tree.map(_aligned, nearest.quantize(descriptors, precision))
    reduced = precision != "float32"
    originals = (lambda ids: descriptors[ids]) if reduced else None
    return Descriptors(rows, largest_norm(rows), originals=originals)


def largest_norm(rows: Rows) -> float:
    """The largest length of a row; NaN if one is no number."""
    found = [
        nearest.norms(nearest.take(rows, slice(start, start + _CPU_ROWS))).max()
        for start in range(0, len(rows.values), _CPU_ROWS)
    ]
    return float(np.max(found, initial=0.0))


def take_part(index: Descriptors, part: int, parts: int) -> Descriptors:
    """What one of several processes holds; parts are equal but for a row."""
    start, end = (index.count * each // parts for each in (part, part + 1))
    return index._replace(
        rows=nearest.take(index.rows, slice(start, end)), first=index.first + start
    )


def hold(
    index: Descriptors, devices: Sequence[jax.Device] | None = None
) -> Descriptors:
    """The index with its rows on accelerators, for many searches, if there is room.

    On a CPU there is nothing to hold: rows are used where they are.
    """
    devices = list(devices or jax.local_devices())
    if not index.count or sum(each.nbytes for each in jax.tree.leaves(index.rows)) > (
        sum(map(_room, devices))
    ):
        return index
    pieces = _pieces(index.rows, devices, MEMORY)
    return index._replace(held=tuple(pieces))


def _room(device: jax.Device) -> int:
    """Bytes that an index may take: of an accelerator half, models need some too."""
    known = None if device.platform == "cpu" else device.memory_stats()
    return (known or {}).get("bytes_limit", 0) // 2


def find_nearest(
    index: Descriptors,
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

    devices: those of this process by default; those that hold the index, if any do.
    memory: bytes for pieces of the index on the devices, unless they hold all.
    """
    queries = np.asarray(queries, np.float32)
    _check(index, queries)
    again = index.originals is not None
    quantized = nearest.quantize(queries, nearest.precision_of(index.rows))
    wanted = AGAIN * k if again else k
    devices = list(devices or jax.local_devices())
    found = [
        _find_here(
            index,
            nearest.take(quantized, slice(start, start + _TOGETHER)),
            wanted,
            devices,
            memory,
        )
        for start in range(0, len(queries), _TOGETHER)
    ] or [nearest.nothing_yet(0, min(wanted, index.count))]
    best = Best(*(np.concatenate(each) for each in zip(*found, strict=True)))
    similarities = _compared_again(index, queries, best) if again else best.similarities
    if jax.process_count() > 1:
        best, similarities = _gather(best, similarities, wanted)
    order = nearest.order_best(similarities, best.ids, k)
    return Best(
        np.take_along_axis(similarities, order, axis=1),
        np.take_along_axis(best.ids, order, axis=1),
    )


def _check(index: Descriptors, queries: Float[np.ndarray, "Q G"]) -> None:
    bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
    if len(bad):
        raise InputError(f"the global descriptor of query {bad[0]} is no number")
    if not np.isfinite(index.largest_norm):
        raise InputError("a global descriptor of the index is no number; index again")
    dimension = index.rows.values.shape[1]
    if index.count and queries.shape[1] != dimension:
        raise InputError(
            f"the query has a global descriptor of {queries.shape[1]} dimensions, the "
            f"index of {dimension}: search with the model that the index was made by"
        )


def _find_here(
    index: Descriptors,
    queries: Rows,
    k: int,
    devices: Sequence[jax.Device],
    memory: int,
) -> Best:
    """The best of the rows that this process holds, by `compare`, in their order."""
    k = min(k, index.count)
    count = min(k + MARGIN, index.count)
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
    if len(hidden) and count < index.count:
        some = nearest.take(queries, hidden)
        found = _all_above(index, some, least[hidden], devices, memory)
        for query, each in zip(hidden.tolist(), found, strict=True):
            ids[query] = each
    best = _compared(index, queries, ids, k)
    return best._replace(ids=best.ids + index.first)


def _keep_products(
    index: Descriptors,
    queries: Rows,
    count: int,
    devices: Sequence[jax.Device],
    memory: int,
) -> Best:
    """The images with the largest products of each query, in no order."""
    # The sort of a CPU is slow: there the few that exceed the least of the best so far
    # are picked from all products. Elsewhere these would be slow to fetch.
    pick = count if devices[0].platform != "cpu" else None
    blocks = _blocks(queries)
    best = [nearest.nothing_yet(len(block.values), count) for block in blocks]
    for start, found in _sweep(index, blocks, devices, memory, pick):
        for number, piece in enumerate(found):
            if pick is None:
                best[number] = nearest.keep_best(best[number], piece, start)
            else:
                best[number] = nearest.merge_best(best[number], piece)
    return Best(*(np.concatenate(each) for each in zip(*best, strict=True)))


def _all_above(
    index: Descriptors,
    queries: Rows,
    least: Float[np.ndarray, " Q"],
    devices: Sequence[jax.Device],
    memory: int,
) -> list[Int[np.ndarray, " _"]]:
    """For each query the images whose products reach `least`."""
    ids: list[list[np.ndarray]] = [[] for _ in least]
    blocks = _blocks(queries)
    for start, found in _sweep(index, blocks, devices, memory, None):
        for number, products in enumerate(found):
            for query, values in enumerate(products.T, number * BLOCK):
                ids[query].append(np.flatnonzero(values >= least[query]) + start)
    return [np.concatenate(each) for each in ids]


def _compared(
    index: Descriptors, queries: Rows, ids: Sequence[Int[np.ndarray, " _"]], k: int
) -> Best:
    """The best k of the images of each query, by `compare`."""
    values = np.empty((len(ids), k), np.float32)
    best = np.empty((len(ids), k), np.int64)
    for query, some in enumerate(ids):
        some = np.sort(some)
        found = nearest.compare(_one(queries, query), nearest.take(index.rows, some))
        order = nearest.order_best(found[None], some[None], k)[0]
        values[query], best[query] = found[order], some[order]
    return Best(values, best)


def _compared_again(
    index: Descriptors, queries: Float[np.ndarray, "Q G"], best: Best
) -> Float[np.ndarray, "Q K"]:
    """Similarities of the candidates by their originals."""
    found = np.empty(best.ids.shape, np.float32)
    for query, ids in enumerate(best.ids):
        rows = Rows(index.originals(ids))
        found[query] = nearest.compare(Rows(queries[query : query + 1]), rows)
    return found


def _one(queries: Rows, query: int) -> Rows:
    return nearest.take(queries, slice(query, query + 1))


def _blocks(queries: Rows) -> list[Rows]:
    return [
        nearest.take(queries, slice(start, start + BLOCK))
        for start in range(0, len(queries.values), BLOCK)
    ]


def _sweep(
    index: Descriptors,
    blocks: Sequence[Rows],
    devices: Sequence[jax.Device],
    memory: int,
    pick: int | None,
) -> Iterator[tuple[int, list]]:
    """(first row, for each block its products) of one piece after the other.

    pick: instead of all products only so many of the largest, as `Best`.
    """
    everywhere = _shardings(devices)[1]
    padded = [
        jax.device_put(nearest.pad_queries(block), everywhere) for block in blocks
    ]
    ahead: list[tuple[Piece, list]] = []
    for piece in index.held or _pieces(index.rows, devices, memory):
        found = [
            nearest.products(piece.rows, block)
            if pick is None
            else nearest.best_products(
                piece.rows, block, piece.counted, pick, len(devices)
            )
            for block in padded
        ]
        ahead.append((piece, found))
        # While the devices work on the next piece, this one's products are looked at.
        if len(ahead) > 1:
            yield _fetched(*ahead.pop(0), blocks)
    for waiting in ahead:
        yield _fetched(*waiting, blocks)


def _pieces(rows: Rows, devices: Sequence[jax.Device], memory: int) -> Iterator[Piece]:
    """The rows, on the devices one after the other."""
    count, size = len(rows.values), _piece_rows(rows, devices, memory)
    by_row = _shardings(devices)[0]
    for start in range(0, count, size):
        # The last piece is as large as the others: it begins within the one before.
        begin = max(0, min(start, count - size))
        some = nearest.take(rows, slice(begin, begin + size))
        counted = np.int32([start - begin, len(some.values)])
        yield Piece(begin, counted, jax.device_put(nearest.pad(some, size), by_row))


def _fetched(piece: Piece, found: list, blocks: Sequence[Rows]) -> tuple[int, list]:
    """Results on the host, without those of padding and of what was seen before."""
    results: list = []
    first, last = piece.counted.tolist()
    for block, each in zip(blocks, found, strict=True):
        queries = len(block.values)
        if isinstance(each, tuple):
            values, places = (
                np.concatenate(np.asarray(part), axis=1)[:queries] for part in each
            )
            results.append(Best(values, places.astype(np.int64) + piece.begin))
        else:
            results.append(np.asarray(each)[first:last, :queries])
    return piece.begin + first, results


def _piece_rows(rows: Rows, devices: Sequence[jax.Device], memory: int) -> int:
    """Rows of a piece: about equal pieces, two at a time within `memory`."""
    of_row = rows.values.shape[1] * rows.values.dtype.itemsize + 4 * _TOGETHER
    most = _CPU_ROWS if devices[0].platform == "cpu" else _ROWS
    allowed = max(1, memory // (2 * of_row * len(devices)))
    most = min(most, 1 << (allowed.bit_length() - 1))
    needed = max(1, -(-len(rows.values) // len(devices)))
    even = -(-needed // -(-needed // most))
    # Of sixteen sizes between powers of two: an index that grows has few programs.
    step = max(1, (1 << (even - 1).bit_length()) // 16)
    return -(-even // step) * step * len(devices)


def _shardings(devices: Sequence[jax.Device]) -> tuple[Any, Any]:
    """Where rows are divided among the devices, and where all have everything."""
    if len(devices) == 1:  # A CPU then takes an array as it lies, without a copy.
        return devices[0], devices[0]
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    spec = jax.sharding.PartitionSpec
    return (
        jax.sharding.NamedSharding(mesh, spec("rows")),
        jax.sharding.NamedSharding(mesh, spec()),
    )


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
    more = ((0, 0), (0, k - best.ids.shape[1]))
    nothing = {"mode": "constant", "constant_values": -np.inf}
    mine = (
        np.pad(best.similarities, more, **nothing),
        np.pad(best.ids, more, constant_values=np.iinfo(np.int32).max).astype(np.int32),
        np.pad(similarities, more, **nothing),
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
