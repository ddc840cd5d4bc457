import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.files import InputError
from delf_jax.index import device_chunks, global_search
from delf_jax.retrieval import nearest


def draw(rng, count, dimension=32):
    """Unit vectors in clusters, as those of photos of the same places."""
    centres = rng.normal(size=(max(1, count // 20), dimension))
    rows = centres[rng.integers(0, len(centres), count)]
    rows = rows + 0.5 * rng.normal(size=rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive(rows, queries, k):
    """A stable sort of all similarities, summed in double precision."""
    similarities = np.array(
        [[np.sum(r.astype(np.float64) * q) for r in rows] for q in queries]
    ).astype(np.float32)
    ids = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, ids, axis=1), ids


def assert_same(found, expected):
    np.testing.assert_array_equal(found.ids, expected[1])
    np.testing.assert_array_equal(found.similarities, expected[0])


@pytest.mark.parametrize("k", [1, 10, 399, 400, 1000])
def test_the_nearest_are_the_head_of_a_stable_sort(rng, k):
    rows, queries = draw(rng, 400), draw(rng, 5)
    rows[200:300] = rows[100:200]  # Copies are equal: the lower id comes first.
    found = global_search.find_nearest(
        global_search.from_array(rows, "float32"), queries, k
    )
    assert_same(found, naive(rows, queries, k))


@given(seed=st.integers(0, 99), count=st.integers(1, 70), k=st.integers(0, 80))
def test_many_equals_are_found_in_the_order_of_their_ids(seed, count, k):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (count, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, (2, 3)).astype(np.float32)
    found = global_search.find_nearest(
        global_search.from_array(rows, "float32"), queries, k
    )
    assert_same(found, naive(rows, queries, k))


def test_images_that_rounding_could_have_hidden_are_looked_for_again(rng):
    # More copies and near copies of one image than are kept for comparison.
    rows = draw(rng, 600)
    rows[50:350] = rows[0]
    rows[100:350, 0] += rng.choice([0, 1e-7, -1e-7], 250).astype(np.float32)
    queries = np.concatenate([rows[:1], draw(rng, 2)])
    found = global_search.find_nearest(
        global_search.from_array(rows, "float32"), queries, 20
    )
    assert_same(found, naive(rows, queries, 20))


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_the_answer_depends_on_no_budget_number_of_queries_or_devices(rng, precision):
    index = global_search.from_array(draw(rng, 500, 50), precision)
    queries = draw(rng, 70, 50)
    whole = global_search.find_nearest(index, queries, 12)
    one = jax.devices()[:1]
    for memory in (100_000, 2**20):
        for devices in (one, jax.devices()):
            again = global_search.find_nearest(
                index, queries, 12, devices=devices, memory=memory
            )
            assert_same(again, whole)
    for some in (slice(0, 1), slice(3, 20), slice(60, 70)):
        part = global_search.find_nearest(index, queries[some], 12, devices=one)
        assert_same(part, [each[some] for each in whole])


def test_more_queries_than_one_pass_answers_are_answered(rng, monkeypatch):
    index = global_search.from_array(draw(rng, 300), "float32")
    queries = draw(rng, 40)
    whole = global_search.find_nearest(index, queries, 5)
    monkeypatch.setattr(global_search, "TOGETHER", 16)
    assert_same(global_search.find_nearest(index, queries, 5), whole)


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_accelerators_that_pick_on_the_device_find_the_same(
    rng, precision, monkeypatch
):
    index = global_search.from_array(draw(rng, 700), precision)
    queries = draw(rng, 20)
    on_host = global_search.find_nearest(index, queries, 9)
    sweep = device_chunks.scan

    def pick(placed, blocks, devices, pick):
        return sweep(placed, blocks, devices, 9 * global_search.AGAIN + 32)

    monkeypatch.setattr(device_chunks, "scan", pick)
    monkeypatch.setattr(nearest, "keep_best", lambda a, b, _: nearest.merge_best(a, b))
    monkeypatch.setattr(global_search, "_all_above", None)  # not needed here
    assert_same(global_search.find_nearest(index, queries, 9, memory=30_000), on_host)


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_an_index_that_devices_hold_answers_the_same(rng, precision, monkeypatch):
    index = global_search.from_array(draw(rng, 300), precision)
    queries = draw(rng, 5)
    assert global_search.hold(index).held is None  # not on a CPU
    monkeypatch.setattr(device_chunks, "room", lambda device: 300 * 32 * 4)
    monkeypatch.setattr(global_search, "MEMORY", 2**18)
    held = global_search.hold(index)
    assert len(held.held) > 1
    expected = global_search.find_nearest(index, queries, 8)
    monkeypatch.setattr(device_chunks, "place", None)
    assert_same(global_search.find_nearest(held, queries, 8), expected)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_reduced_precision_is_exact_for_what_is_kept(rng, precision):
    index = global_search.from_array(draw(rng, 500), precision)
    queries = draw(rng, 6)
    kept, asked = index.rows, nearest.quantize(queries, precision)
    found = global_search.find_nearest(index._replace(originals=None), queries, 30)
    similarities = np.stack(
        [nearest.compare(nearest.take(asked, slice(i, i + 1)), kept) for i in range(6)]
    )
    ids = np.argsort(-similarities, axis=1, kind="stable")[:, :30]
    assert_same(found, (np.take_along_axis(similarities, ids, axis=1), ids))


@pytest.mark.parametrize(
    ("precision", "plain", "again"), [("bfloat16", 0.98, 1), ("int8", 0.95, 0.9995)]
)
def test_reduced_precision_finds_nearly_all_and_more_by_the_originals(
    rng, precision, plain, again
):
    rows, queries = draw(rng, 5000, 256), draw(rng, 16, 256)
    index = global_search.from_array(rows, precision)
    expected = global_search.find_nearest(
        global_search.from_array(rows, "float32"), queries, 50
    )
    coarse = global_search.find_nearest(index._replace(originals=None), queries, 50)
    assert nearest.recall(coarse.ids, expected.ids) >= plain
    found = global_search.find_nearest(index, queries, 50)
    assert nearest.recall(found.ids, expected.ids) >= again
    same = found.ids == expected.ids
    np.testing.assert_array_equal(found.similarities[same], expected.similarities[same])


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_nothing_is_found_in_an_empty_index_or_for_no_query(rng, precision):
    empty = global_search.from_array(np.zeros((0, 0), np.float32), precision)
    found = global_search.find_nearest(empty, draw(rng, 3), 5)
    assert found.ids.shape == (3, 0)
    index = global_search.from_array(draw(rng, 40), precision)
    found = global_search.find_nearest(index, np.zeros((0, 32), np.float32), 5)
    assert len(found.ids) == 0


def test_what_cannot_be_compared_is_refused_in_a_sentence(rng):
    index = global_search.from_array(draw(rng, 10), "float32")
    with pytest.raises(InputError, match="64 dimensions, the index of 32"):
        global_search.find_nearest(index, draw(rng, 1, 64), 3)
    queries = draw(rng, 3)
    queries[1, 4] = np.nan
    with pytest.raises(InputError, match="query 1 is not finite"):
        global_search.find_nearest(index, queries, 3)
    rows = draw(rng, 10)
    rows[4] = np.inf
    with pytest.raises(InputError, match="of the index is not finite"):
        global_search.find_nearest(
            global_search.from_array(rows, "float32"), draw(rng, 1), 3
        )


def test_parts_of_processes_merge_to_the_answer_for_the_whole(rng, monkeypatch):
    rows, queries = draw(rng, 101), draw(rng, 4)
    rows[60:80] = rows[:20]
    for precision in nearest.PRECISIONS:
        index = global_search.from_array(rows, precision)
        whole = global_search.find_nearest(index, queries, 30)
        sent = []
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_count", lambda: 4)
            patch.setattr(
                global_search.multihost_utils,
                "process_allgather",
                lambda mine, sent=sent: sent.append(mine) or [m[None] for m in mine],
            )
            for part in range(4):
                mine = global_search.take_part(index, part, 4)
                global_search.find_nearest(mine, queries, 30)
            everything = [np.stack(each) for each in zip(*sent, strict=True)]
            patch.setattr(
                global_search.multihost_utils,
                "process_allgather",
                lambda mine, everything=everything: everything,
            )
            assert_same(global_search.find_nearest(mine, queries, 30), whole)


SCRIPT = """
import sys
import jax, numpy as np
from delf_jax.index import global_search
port, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
rows, queries = (np.load(f"{folder}/{name}.npy") for name in ("rows", "queries"))
for precision in ("float32", "int8"):
    whole = global_search.from_array(rows, precision)
    mine = global_search.take_part(whole, process, 2)
    found = global_search.find_nearest(mine, queries, 40)
    np.savez(f"{folder}/{precision}-{process}.npz", *found)
"""


def test_two_processes_that_each_hold_a_half_find_what_one_finds(rng, tmp_path):
    rows, queries = draw(rng, 301), draw(rng, 20)
    rows[160:200] = rows[:40]
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "queries.npy", queries)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, port, str(process), str(tmp_path)],
            env=os.environ | {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"},
        )
        for process in range(2)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    for precision in ("float32", "int8"):
        expected = global_search.find_nearest(
            global_search.from_array(rows, precision), queries, 40
        )
        for process in range(2):
            with np.load(tmp_path / f"{precision}-{process}.npz") as found:
                np.testing.assert_array_equal(found["arr_0"], expected.similarities)
                np.testing.assert_array_equal(found["arr_1"], expected.ids)
