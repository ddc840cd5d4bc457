import shutil

import pytest

from delf_jax.files import InputError, read_json, write_json
from delf_jax.index.photo_places import Places, read_places, write_places
from delf_jax.index.vectors import find, record, seam, update
from delf_jax.index.vectors.update import Wanted
from tests.helpers.kills import killed_at
from tests.helpers.vectors import FileVectors

FILE = Wanted("file")
IDS = ["a/0.jpg", "a/b/1.jpg", "c/2.jpg", "caf\udce9.jpg", "häuser/3.jpg", "it's.jpg"]


def table_of(folder):
    return folder / f"{record.FOLDER}-table.json"


def bring_up_to_date(folder, wanted=None):
    update.update(folder, wanted, progress=False)


def assert_equal(folder, store):
    """The table has what the store has, and the index knows it."""
    places = read_places(folder)
    rows = read_json(table_of(folder))["rows"]
    assert {*rows} == {*map(find.text_of, store.ids)}
    descriptors = store.read_global(range(len(store))).tolist()
    for id, descriptor in zip(store.ids, descriptors, strict=True):
        row = rows[find.text_of(id)]
        assert row["vector"] == descriptor
        assert row["path"] == find.text_of(str(places.file(id)))
    assert find.open_table(folder, store, "", "mend").size == len(store)


@pytest.fixture
def drawn(engine, fill):
    """An index with a table: (folder, store)."""
    drawn = fill(IDS)
    bring_up_to_date(drawn[0], FILE)
    return drawn


def test_a_table_has_what_the_store_has(drawn):
    assert_equal(*drawn)
    row = read_json(table_of(drawn[0]))["rows"]["a/b/1.jpg"]
    row = {name: row[name] for name in ("folder", "bytes", "height", "width")}
    assert row == {"folder": "a/b", "bytes": -1, "height": 40, "width": 60}


def test_a_table_follows_its_store(drawn, fill, forget):
    folder, _ = drawn
    fill(["a/0.jpg", "new.jpg"])  # One of them anew.
    store = forget("c/2.jpg", "it's.jpg")
    bring_up_to_date(folder)
    assert_equal(folder, store)
    version = record.read_record(folder).version
    bring_up_to_date(folder)
    assert record.read_record(folder).version == version  # Nothing was to be done.
    write_places(folder, Places(folder / "elsewhere", {}))
    bring_up_to_date(folder)
    assert_equal(folder, store)


def test_an_index_of_another_model_and_dimension_has_its_table_anew(drawn, fill):
    shutil.rmtree(drawn[0] / "store")
    folder, store = fill(IDS[:3], dimension=5)
    bring_up_to_date(folder)
    assert_equal(folder, store)


def test_an_index_without_photos_has_an_empty_table(drawn, forget):
    folder, _ = drawn
    store = forget(*IDS)
    bring_up_to_date(folder)
    assert_equal(folder, store)


def test_killed_anywhere_a_table_ends_equal(drawn, fill, forget, monkeypatch):
    monkeypatch.setattr(update, "_BATCH", 2)
    folder, _ = drawn
    fill(["a/0.jpg", "c/2.jpg", "new.jpg", "newer.jpg"])
    changed = forget("a/b/1.jpg", "it's.jpg")
    kept, number, died = folder.with_name("kept"), 0, [folder]
    shutil.copytree(folder, kept)
    while died:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        with killed_at(number) as died:
            bring_up_to_date(folder)
        if died:
            with pytest.raises(InputError, match="(finish it|up to date) with: mend"):
                find.open_table(folder, changed, "", "mend")
        # What the killed run has put there may be gone again by then.
        store = forget("newer.jpg")
        bring_up_to_date(folder)
        assert_equal(folder, store)
        number += 1
    assert number > 7


def test_what_somebody_else_changes_is_said_and_mended(drawn):
    folder, store = drawn
    table = read_json(table_of(folder))
    table["rows"]["c/2.jpg"]["vector"][0] += 1
    write_json(table_of(folder), table | {"version": 99})
    sentence = r"version 99, 6 photos\) does not match .*; bring it up to date with: m"
    with pytest.raises(InputError, match=sentence):
        find.open_table(folder, store, "", "mend")
    bring_up_to_date(folder)
    assert_equal(*drawn)
    table_of(folder).unlink()
    with pytest.raises(InputError, match="0 photos"):
        find.open_table(folder, store, "", "mend")
    bring_up_to_date(folder)
    assert_equal(*drawn)


def test_a_table_that_lost_what_was_put_there_is_refused(drawn, fill, monkeypatch):
    folder, _ = drawn
    fill(["new.jpg"])
    add = FileVectors.add
    monkeypatch.setattr(FileVectors, "add", lambda self, photos: add(self, []))
    with pytest.raises(InputError, match="has 6 photos .* expected 7; run the same"):
        bring_up_to_date(folder)
    monkeypatch.setattr(FileVectors, "add", add)
    bring_up_to_date(folder)
    assert_equal(*fill([]))


def test_damaged_notes_on_rows_have_the_table_anew(drawn):
    folder, _ = drawn
    (folder / record.ROWS).write_text("{}")
    bring_up_to_date(folder)
    assert_equal(*drawn)
    (folder / record.NAME).write_text("{}")
    with pytest.raises(InputError, match="vectors.json: field format is missing; rem"):
        bring_up_to_date(folder)


def test_a_table_moves_to_where_it_is_wanted(drawn, tmp_path):
    folder, store = drawn
    bring_up_to_date(folder, Wanted(f"file:{tmp_path / 'other'}"))
    assert len(read_json(tmp_path / "other-table.json")["rows"]) == len(store)
    known = record.read_record(folder)
    assert (known.engine, known.uri) == ("file", str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("fingerprint", "e" * 64, r"descriptors of model drawn \(ffffffff\), not of "),
        ("dimension", 5, "has descriptors of 8 dimensions, not of 5; name another"),
        ("token", "other", "is of another index; name another folder or bucket with"),
    ],
)
def test_a_table_of_something_else_is_left_alone(drawn, field, value, reason):
    folder, _ = drawn
    table = table_of(folder).read_bytes()
    (folder / record.NAME).unlink()
    if field != "token":  # Those of the store that asks.
        owner = {"model": "drawn", "fingerprint": "f" * 64, "dimension": 8}
        owner |= {"token": "x", field: value}
        with pytest.raises(InputError, match=reason):
            FileVectors(folder / record.FOLDER, seam.Owner(**owner))
    else:
        with pytest.raises(InputError, match=reason):
            bring_up_to_date(folder, FILE)
        with pytest.raises(InputError, match=reason):
            update.check(folder, "drawn", "f" * 64, FILE)
    assert table_of(folder).read_bytes() == table


def test_a_table_that_finds_too_little_is_refused_unless_that_is_asked(
    engine, fill, monkeypatch
):
    folder, store = fill([f"{number}.jpg" for number in range(30)])
    monkeypatch.setattr(FileVectors, "needed", 3)
    bring_up_to_date(folder, FILE)
    known = record.read_record(folder)
    assert (known.effort, known.recall, known.measured) == (4, 1.0, 30)
    monkeypatch.setattr(FileVectors, "needed", 9999)
    refused = (
        r"finds [45]\d\.\d\d% of the 100 most similar, less than --recall=0.96; acc"
    )
    with pytest.raises(InputError, match=refused):
        bring_up_to_date(folder, Wanted("file", 0.96))
    with pytest.raises(InputError, match=refused):
        find.open_table(folder, store, "", "mend")
    bring_up_to_date(folder, Wanted("file", 0.4))
    assert find.open_table(folder, store, "", "mend").size == 30
