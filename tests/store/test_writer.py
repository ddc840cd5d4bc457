"""The files of a store: merging, order of records, and what a full disk leaves."""

import errno
import pathlib

import numpy as np
import pytest

from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.store import feature_store
from delf_jax.store import writer as store_files
from delf_jax.store.shards import Record
from delf_jax.store.writer import Writer, current_records, read_shards


@pytest.fixture
def out(tmp_path) -> pathlib.Path:
    model = {"name": "drawn", "fingerprint": "f"}
    store_files.begin(tmp_path, store_files.empty_manifest("key", model, {}))
    return tmp_path


def _features(value: float) -> Features:
    return Features(None, np.full(4, value, np.float32), (20, 30))


def _write(out: pathlib.Path, **values: float) -> Writer:
    """A run that extracts images and leaves one shard for each."""
    writer = Writer(out, "key", current_records(read_shards(out, "key")).values())
    for id, value in values.items():
        writer.add(Record(id, writer.sequence, "extracted"), _features(value))
        writer.flush()
    return writer


def _remove(out: pathlib.Path, id: str) -> Writer:
    writer = Writer(out, "key", current_records(read_shards(out, "key")).values())
    writer.add(Record(id, writer.sequence, "removed"))
    writer.flush()
    return writer


def _contents(out: pathlib.Path) -> dict[str, float]:
    opened = feature_store.open_store(out)
    values = opened.global_descriptors[:, 0].tolist() if len(opened) else []
    return dict(zip(opened.ids, values, strict=True))


def _shards(out: pathlib.Path) -> list[pathlib.Path]:
    return sorted((out / "shards").iterdir())


def test_the_latest_record_counts(out):
    _write(out, a=1, b=2, c=3)
    _write(out, b=5)
    _remove(out, "c")
    assert _contents(out) == {"a": 1, "b": 5}
    _write(out, c=7)
    assert _contents(out) == {"a": 1, "b": 5, "c": 7}


def test_merging_changes_files_and_nothing_else(out, monkeypatch):
    _write(out, a=1, b=2, c=3)
    writer = _write(out, b=5, d=4)
    _remove(out, "c")
    before = _contents(out)
    assert len(_shards(out)) == 6
    monkeypatch.setattr(store_files, "SMALL_SHARDS", 2)
    store_files.finish(out, writer, alone=True)
    assert len(_shards(out)) == 1
    assert _contents(out) == before == {"a": 1, "b": 5, "d": 4}
    assert store_files.open_manifest(out)["images"] == 3


def test_a_later_record_counts_in_whatever_file_it_is(out, monkeypatch):
    """Merging moves old records into files that are younger than newer records."""
    old = _write(out, a=1, b=2, c=3).written
    _remove(out, "a")
    monkeypatch.setattr(store_files, "SMALL_SHARDS", 1)
    store_files.merge_small(out, "key", old)
    for path in _shards(out)[:1]:
        path.rename(path.with_name("999999-0123456789ab.safetensors"))
    assert _contents(out) == {"b": 2, "c": 3}


def test_merged_shards_have_a_size(out, monkeypatch):
    writer = _write(out, a=1, b=2, c=3, d=4)
    monkeypatch.setattr(store_files, "SMALL_SHARDS", 1)
    monkeypatch.setattr(store_files, "SHARD_BYTES", 2 * 4 * 4)
    store_files.finish(out, writer, alone=True)
    assert len(_shards(out)) == 2
    assert _contents(out) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_a_run_of_many_shards_merges_on_the_way(out):
    _write(out, **{f"image{number}": number for number in range(40)})
    assert len(_shards(out)) <= store_files.SMALL_SHARDS
    assert len(_contents(out)) == 40


def test_no_room_to_merge_loses_nothing(out, monkeypatch):
    writer = _write(out, a=1, b=2, c=3)
    monkeypatch.setattr(store_files, "SMALL_SHARDS", 1)

    def full(path, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_files, "write_shard", full)
    store_files.finish(out, writer, alone=True)
    assert _contents(out) == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(InputError, match="the disk is full"):
        _write(out, d=4)
    assert _contents(out) == {"a": 1, "b": 2, "c": 3}


def test_only_who_is_alone_clears_away(out):
    """Another part may be about to use what nobody seems to own."""
    stale = _write(out, a=1).written[0]
    foreign = Writer(out, "another", [])
    foreign.add(Record("b", 1, "extracted"), _features(2))
    foreign.flush()
    store_files.finish(out, _write(out, c=3), alone=False)
    assert foreign.written[0].exists() and stale.exists()
    store_files.finish(out, _write(out, d=4), alone=True)
    assert not foreign.written[0].exists() and stale.exists()
    assert _contents(out) == {"a": 1, "c": 3, "d": 4}


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "key": 3}'])
def test_a_damaged_manifest_is_written_anew_where_all_features_are_of_one_kind(
    out, text
):
    store_files.finish(out, _write(out, a=1.0, b=2.0), alone=True)
    whole = store_files.open_manifest(out)
    (out / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest.json: .*index or extract the same"):
        feature_store.open_store(out)
    with pytest.raises(InputError, match="name another folder"):
        store_files.begin(out, whole | {"key": "other"})
    assert not store_files.begin(out, whole | {"images": 0})
    store_files.finish(out, _write(out), alone=True)
    assert store_files.open_manifest(out) == whole
    assert _contents(out) == {"a": 1.0, "b": 2.0}
