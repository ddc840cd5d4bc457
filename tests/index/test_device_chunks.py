import jax
import numpy as np
import pytest

from delf_jax.index import device_chunks
from delf_jax.retrieval import nearest
from delf_jax.retrieval.nearest import Rows


def test_a_piece_keeps_within_the_budget():
    rows = Rows(np.broadcast_to(np.float32(0), (10**6, 2048)))
    for devices in (jax.devices()[:1], jax.devices()):
        for memory in (2**24, 2**26, 2**30):
            size = device_chunks.chunk_rows(rows, devices, memory)
            assert 2 * size * (4 * 2048 + 4 * 512) <= memory
            assert size % len(devices) == 0


@pytest.mark.parametrize("count", [1, 5, 1000, 8192, 8193, 20_000])
def test_pieces_are_nearly_equal_and_count_each_row_once(count):
    rows = Rows(np.arange(count, dtype=np.float32)[:, None])
    for devices in (jax.devices()[:1], jax.devices()):
        seen, placed = [], list(device_chunks.place(rows, devices, 2**30))
        for piece in placed:
            first, end = piece.counted.tolist()
            seen += np.asarray(piece.rows.values)[first:end, 0].tolist()
        assert seen == list(range(count))
        assert len({piece.rows.values.shape for piece in placed}) == 1
        assert sum(len(p.rows.values) for p in placed) <= 9 / 8 * count + 2


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_a_sweep_gives_all_products_or_the_largest(rng, precision):
    rows, queries = (
        nearest.quantize(rng.normal(size=(count, 16)).astype(np.float32), precision)
        for count in (100, 3)
    )
    expected = np.asarray(nearest.products(rows, queries))
    devices = jax.devices()
    size = device_chunks.chunk_rows(rows, devices, 2**17)
    assert 1 < 100 / size < 20
    some = list(
        device_chunks.scan(
            device_chunks.place(rows, devices, 2**17), [queries], devices, None
        )
    )
    assert [start for start, _ in some] == [*range(0, 100, size)]
    found = np.concatenate([block for _, (block,) in some])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    best = nearest.nothing_yet(3, 7)
    for _, (block,) in device_chunks.scan(
        device_chunks.place(rows, devices, 2**17), [queries], devices, 7
    ):
        best = nearest.merge_best(best, block)
    whole = nearest.keep_best(nearest.nothing_yet(3, 7), found, 0)
    np.testing.assert_array_equal(np.sort(best.ids), np.sort(whole.ids))


def test_a_cpu_has_no_room_of_its_own():
    assert [device_chunks.room(device) for device in jax.devices()] == [0, 0]
