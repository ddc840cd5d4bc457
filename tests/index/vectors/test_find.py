import sys

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.index import global_index, global_search
from delf_jax.index.vectors import engines, find, record, update
from delf_jax.index.vectors.update import Wanted

IDS = [f"{folder}/{number}.jpg" for folder in ("a", "b") for number in range(20)]


@pytest.fixture
def drawn(engine, fill):
    drawn = fill(IDS)
    update.update(drawn[0], Wanted("file"), progress=False)
    return drawn


def queries_for(store):
    return np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)


def test_a_table_finds_what_an_exact_search_finds(drawn):
    folder, store = drawn
    queries = queries_for(store)
    exact = global_search.find_nearest(
        global_index.open_descriptors(store)[0], queries, 7
    )
    table = find.open_table(folder, store, "", "mend")
    found = find.find_nearest(table, queries, 7)
    np.testing.assert_array_equal([rows for _, rows in found], exact.ids)
    np.testing.assert_array_equal([values for values, _ in found], exact.similarities)
    assert [len(rows) for _, rows in find.find_nearest(table, queries, 99)] == [40] * 3
    assert find.find_nearest(table, np.zeros((0, 0), np.float32), 7) == []


def test_a_condition_leaves_out_what_it_does_not_hold_for(drawn):
    folder, store = drawn
    table = find.open_table(folder, store, "folder = 'b'", "mend")
    for _, rows in find.find_nearest(table, queries_for(store), 30):
        assert sorted(rows.tolist()) == list(range(20, 40))


@pytest.mark.parametrize(
    ("where", "reason"),
    [("folder = 'c'", "matches no photo of .*ix"), ("folder =", "no condition")],
)
def test_conditions_that_hold_for_nothing_or_are_none(drawn, where, reason):
    with pytest.raises(InputError, match=reason):
        find.open_table(*drawn, where, "mend")


def test_a_condition_needs_a_table(fill):
    folder, store = fill(IDS[:2])
    with pytest.raises(InputError, match="has no table, .* mend --vectors=lancedb"):
        find.open_table(folder, store, "folder = 'a'", "mend")


def test_what_is_no_engine_is_refused(drawn):
    with pytest.raises(InputError, match="--vectors=faiss: expected one of lancedb, l"):
        engines.parse_engine("faiss")
    assert engines.parse_engine("lancedb:s3://a/b") == ("lancedb", "s3://a/b")
    folder, store = drawn
    known = record.read_record(folder)._replace(engine="faiss")
    record.write_record(folder, known)
    with pytest.raises(InputError, match="vectors.json: engine 'faiss' is none of lan"):
        find.open_table(folder, store, "", "mend")


def test_an_engine_that_is_not_installed_is_named(fill, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    folder, _ = fill(IDS[:2])
    with pytest.raises(InputError, match=r"pip install 'delf_jax\[lance\]'"):
        update.check(folder, "drawn", "f" * 64, Wanted("lancedb"))


def test_names_that_utf8_cannot_tell_apart_are_refused(fill):
    _, store = fill(["\udce9.jpg", "\\xe9.jpg"])
    assert len(store) == 2
    _, store = fill(["é\udce9.jpg", "é\\xe9.jpg"])
    with pytest.raises(InputError, match="differ in bytes that are not UTF-8 alone"):
        find.row_ids(store)
