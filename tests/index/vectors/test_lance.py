import random
import subprocess
import sys
import time

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.index import global_index, global_search
from delf_jax.index.vectors import find, lance, record, update
from delf_jax.index.vectors.update import Wanted
from delf_jax.store.feature_store import FeatureStore

lancedb = pytest.importorskip("lancedb", reason="needs the extra [lance]")

IDS = ["a/it's.jpg", "caf\udce9.jpg", *(f"b/{number}.jpg" for number in range(20))]


@pytest.fixture
def drawn(fill):
    """An index with a table of LanceDB: (folder, store)."""
    drawn = fill(IDS)
    update.update(drawn[0], Wanted("lancedb"), progress=False)
    return drawn


def photos_of(folder):
    """The table as others read it."""
    return lancedb.connect(folder / record.FOLDER).open_table(lance.TABLE)


def assert_finds_what_is_there(folder, store, k=5):
    queries = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    exact = global_search.find_nearest(
        global_index.open_descriptors(store)[0], queries, k
    )
    table = find.open_table(folder, store, "", "mend")
    assert table.size == len(store) == photos_of(folder).count_rows()
    for number, (values, rows) in enumerate(find.find_nearest(table, queries, k)):
        np.testing.assert_array_equal(rows, exact.ids[number])
        np.testing.assert_array_equal(values, exact.similarities[number])
    ((_, rows),) = find.find_nearest(table, queries[:1], k)
    np.testing.assert_array_equal(rows, exact.ids[0])


def test_a_table_of_lancedb_follows_its_store(drawn, fill, forget):
    folder, store = drawn
    assert_finds_what_is_there(folder, store)
    first = int(record.read_record(folder).version)
    fill(["a/it's.jpg", "new.jpg"])
    store = forget("caf\udce9.jpg", "b/0.jpg")
    update.update(folder, progress=False)
    assert_finds_what_is_there(folder, store)
    assert int(record.read_record(folder).version) > first
    old = photos_of(folder)
    old.checkout(first)
    assert old.count_rows("id = 'b/0.jpg'") == 1


def test_conditions_are_sql(drawn):
    folder, store = drawn
    where = "folder = 'b' AND id LIKE '%1.jpg' AND height = 40"
    table = find.open_table(folder, store, where, "mend")
    ((_, rows),) = find.find_nearest(table, store.read_global([0]), 9)
    assert {store.ids[row] for row in rows} == {"b/1.jpg", "b/11.jpg"}


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("folder =", "Error parsing statement"),
        ("camera = 'x'", "No field named camera"),
        ("folder = 'b", "Unterminated string"),
    ],
)
def test_conditions_that_do_not_parse_are_one_sentence(drawn, where, reason):
    with pytest.raises(InputError, match=f"^--where=.*{reason}.*; write it in SQL, wi"):
        find.open_table(*drawn, where, "mend")


def test_what_others_change_is_said_and_mended(drawn):
    folder, store = drawn
    photos_of(folder).delete("id = 'b/3.jpg'")
    with pytest.raises(InputError, match="21 photos.* bring it up to date with: mend"):
        find.open_table(folder, store, "", "mend")
    update.update(drawn[0], progress=False)
    assert_finds_what_is_there(folder, store)
    lancedb.connect(folder / record.FOLDER).drop_table(lance.TABLE)
    with pytest.raises(InputError, match="0 photos.* bring it up to date with: mend"):
        find.open_table(folder, store, "", "mend")


def test_tables_of_others_are_left_alone(drawn, tmp_path):
    folder, store = drawn
    (folder / record.NAME).unlink()
    with pytest.raises(InputError, match="'photos' is of another index; name another"):
        update.update(drawn[0], Wanted("lancedb"), progress=False)
    with pytest.raises(InputError, match="of model drawn .*, not of other "):
        update.check(folder, "other", "e" * 64, Wanted("lancedb"))
    theirs = lancedb.connect(tmp_path / "theirs")
    theirs.create_table(lance.TABLE, [{"x": 1}])
    with pytest.raises(InputError, match="'photos' was not made by this program; nam"):
        update.update(
            drawn[0], Wanted(f"lancedb:{tmp_path / 'theirs'}"), progress=False
        )


def test_a_place_that_cannot_be_written_is_one_sentence(fill, tmp_path):
    (tmp_path / "file").write_text("")
    folder, _ = fill(IDS[:3])
    wanted = Wanted(f"lancedb:{tmp_path / 'file' / 'x'}")
    with pytest.raises(InputError, match="file/x: LanceDB cannot read or write there"):
        update.update(folder, wanted, progress=False)


def test_a_damaged_descriptor_is_named(fill, monkeypatch):
    folder, _ = fill(IDS[:3])
    read = FeatureStore.read_global
    monkeypatch.setattr(FeatureStore, "read_global", lambda s, r: read(s, r) * np.nan)
    with pytest.raises(InputError, match="descriptor of .* is not finite; remove that"):
        update.update(folder, Wanted("lancedb"), progress=False)


@pytest.mark.parametrize("graphs", [10**6, 0])
def test_an_index_of_many_rows_is_built_and_grows(fill, monkeypatch, graphs):
    monkeypatch.setattr(lance, "EXACT", 100)
    monkeypatch.setattr(lance, "GRAPHS", graphs)
    drawn = fill([f"{number:03d}.jpg" for number in range(300)])
    update.update(drawn[0], Wanted("lancedb", 0.5), progress=False)
    known = record.read_record(drawn[0])
    assert known.recall >= 0.5
    (found,) = photos_of(drawn[0]).list_indices()
    assert found.index_type == ("IvfHnswSq" if graphs else "IvfPq")
    drawn = fill(["new.jpg"])
    update.update(drawn[0], progress=False)
    table = find.open_table(*drawn, "", "mend")
    row = drawn[1].row("new.jpg")
    ((_, rows),) = find.find_nearest(table, drawn[1].read_global([row]), 1)
    assert rows.tolist() == [row]


UPDATE = """
import pathlib, sys
from delf_jax.index.vectors import update
print("ready", flush=True)
wanted = update.Wanted("lancedb")
update.update(pathlib.Path(sys.argv[1]), wanted, progress=False)
"""


@pytest.mark.slow
def test_processes_that_are_killed_leave_what_the_next_one_finishes(
    fill, forget, monkeypatch
):
    """Nine are, each after a change of the store."""
    rng, killed = random.Random(0), 0
    folder, _ = fill([f"{number:04d}.jpg" for number in range(400)])
    for change in range(9):
        store = fill([f"{change}/{number:04d}.jpg" for number in range(40)])[1]
        store = forget(*rng.sample(store.ids, 20))
        command = [sys.executable, "-c", UPDATE, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(rng.expovariate(1))
            killed += process.poll() is None
            process.kill()
    assert killed
    update.update(folder, Wanted("lancedb"), progress=False)
    assert_finds_what_is_there(folder, store)
