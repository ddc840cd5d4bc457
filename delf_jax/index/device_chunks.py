"""The rows of an index on devices: chunk by chunk, or all at once."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import BLOCK, Best, Rows

# Bytes that chunks of the index may take on the devices by default.
MEMORY = 2**30
# Rows of a chunk on one device. On a CPU their products with a block of queries, 2 MB,
# stay in the cache; an accelerator wants fewer and larger steps.
_CPU_ROWS, _ROWS = 2**13, 2**16
# Queries that one pass over the index answers: their products with a chunk are kept.
TOGETHER = 8 * BLOCK


class Chunk(NamedTuple):
    """Some rows on the devices."""

    begin: int
    """the first of them"""
    counted: Int[np.ndarray, "2"]
    """first and end of those that count; the others are in another chunk, or padding"""
    rows: Rows


def place(rows: Rows, devices: Sequence[jax.Device], memory: int) -> Iterator[Chunk]:
    """The rows, on the devices one after the other."""
    count, size = len(rows.values), chunk_rows(rows, devices, memory)
    by_row = _shardings(devices)[0]
    for start in range(0, count, size):
        # The last chunk is as large as the others: it begins within the one before.
        begin = max(0, min(start, count - size))
        some = nearest.take(rows, slice(begin, begin + size))
        counted = np.array([start - begin, len(some.values)], np.int32)
        yield Chunk(begin, counted, jax.device_put(nearest.pad(some, size), by_row))


def chunk_rows(rows: Rows, devices: Sequence[jax.Device], memory: int) -> int:
    """Rows of a chunk: about equal chunks, two at a time within `memory`."""
    of_row = rows.values.shape[1] * rows.values.dtype.itemsize + 4 * TOGETHER
    most = _CPU_ROWS if devices[0].platform == "cpu" else _ROWS
    allowed = max(1, memory // (2 * of_row * len(devices)))
    most = min(most, 1 << (allowed.bit_length() - 1))
    needed = max(1, -(-len(rows.values) // len(devices)))
    even = -(-needed // -(-needed // most))
    # Of sixteen sizes between powers of two: an index that grows has few programs.
    step = max(1, (1 << (even - 1).bit_length()) // 16)
    return -(-even // step) * step * len(devices)


def room(device: jax.Device) -> int:
    """Bytes that an index may take: of an accelerator half, models need some too."""
    known = None if device.platform == "cpu" else device.memory_stats()
    return (known or {}).get("bytes_limit", 0) // 2


def scan(
    chunks: Iterable[Chunk],
    blocks: Sequence[Rows],
    devices: Sequence[jax.Device],
    pick: int | None,
) -> Iterator[tuple[int, list]]:
    """(first row, for each block its products, or the `pick` best) of each chunk."""
    everywhere, count = _shardings(devices)[1], len(devices)
    padded = jax.device_put([nearest.pad_queries(each) for each in blocks], everywhere)
    ahead: list[tuple[Chunk, list]] = []
    for chunk in chunks:
        rows, counted = chunk.rows, chunk.counted
        if pick is None:
            found = [nearest.products(rows, each) for each in padded]
        else:
            found = [
                nearest.best_products(rows, each, counted, pick, count)
                for each in padded
            ]
        ahead.append((chunk, found))
        # While the devices work on the next chunk, this one's products are looked at.
        if len(ahead) > 1:
            yield _fetch(*ahead.pop(0), blocks)
    for waiting in ahead:
        yield _fetch(*waiting, blocks)


def _fetch(chunk: Chunk, found: list, blocks: Sequence[Rows]) -> tuple[int, list]:
    """Results on the host, without those of padding and of what was seen before."""
    results: list = []
    first, last = chunk.counted.tolist()
    for block, each in zip(blocks, found, strict=True):
        queries = len(block.values)
        if isinstance(each, tuple):
            values, places = (
                np.concatenate(np.asarray(part), axis=1)[:queries] for part in each
            )
            results.append(Best(values, places.astype(np.int64) + chunk.begin))
        else:
            results.append(np.asarray(each)[first:last, :queries])
    return chunk.begin + first, results


def _shardings(devices: Sequence[jax.Device]) -> tuple[Any, Any]:
    """Where rows are divided among the devices, and where all have everything."""
    if len(devices) == 1:  # A CPU then takes an array as it lies, without a copy.
        return devices[0], devices[0]
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    specs = jax.sharding.PartitionSpec("rows"), jax.sharding.PartitionSpec()
    by_row, everywhere = (jax.sharding.NamedSharding(mesh, spec) for spec in specs)
    return by_row, everywhere
