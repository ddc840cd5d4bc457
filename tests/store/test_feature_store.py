"""Stores: resumed after kills, filled in parts, kept up to date, never half-read."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from delf_jax import files, manifests
from delf_jax.extraction import extract, model_folder
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.image_files import find_images
from delf_jax.store import extraction, feature_store, shards, writer
from delf_jax.store.feature_store import StoreReport
from tests.helpers.inverted_files import fill_store

SETTINGS = ExtractionSettings(
    image_scales=(1.0,), global_scales=(0,), max_image_size=64, max_features=20
)


@pytest.fixture(scope="module")
def model(tiny_model) -> model_folder.Model:
    return model_folder.load_model(tiny_model)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Seven photos in two folders, with the same names in both."""
    for number in range(7):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw(path, number)
    return tmp_path / "photos"


def _draw(path: pathlib.Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(path)


def _fill(folder, out, model, settings=SETTINGS, **options) -> StoreReport:
    found = find_images([folder])
    return feature_store.extract_to_store(
        found, out, model, settings, progress=False, **options
    )


def _assert_same(a: feature_store.FeatureStore, b: feature_store.FeatureStore) -> None:
    assert a.ids == b.ids and a.manifest == b.manifest
    for ours, theirs in zip(a, b, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(a.global_descriptors, b.global_descriptors)


def _shards(out: pathlib.Path) -> list[pathlib.Path]:
    return sorted((out / "shards").iterdir())


def test_a_store_holds_what_extraction_gives(folder, tmp_path, model):
    report = _fill(folder, tmp_path / "out", model)
    assert report == StoreReport(7, 0, 0, {})
    opened = feature_store.open_store(tmp_path / "out")
    assert opened.ids == ["a/0.png", "a/1.png", "a/2.png", "a/3.png"] + [
        "b/0.png",
        "b/1.png",
        "b/2.png",
    ]
    paths = [folder / id for id in opened.ids]
    for row, expected in enumerate(extract.extract_features(model, paths, SETTINGS)):
        expected = expected._replace(image=opened.ids[row])
        jax.tree.map(np.testing.assert_array_equal, opened[row], expected)
        np.testing.assert_array_equal(
            opened.global_descriptors[row], expected.global_descriptor
        )
    assert opened.row("b/1.png") == 5
    with pytest.raises(InputError, match="no image 'c.png'"):
        opened.row("c.png")
    assert opened.manifest["model"]["fingerprint"] == model.fingerprint
    assert opened.manifest["settings"]["max_features"] == 20
    # A few files, not one per image.
    assert len(_shards(tmp_path / "out")) == 1


def test_failures_are_listed_with_their_reason(folder, tmp_path, model):
    (folder / "a" / "torn.png").write_bytes((folder / "a/0.png").read_bytes()[:900])
    report = _fill(folder, tmp_path / "out", model)
    assert report.extracted == 7 and list(report.failed) == ["a/torn.png"]
    opened = feature_store.open_store(tmp_path / "out")
    assert "torn.png: damaged" in opened.failed["a/torn.png"]
    assert "a/torn.png" not in opened.ids
    written = files.read_json(tmp_path / "out" / "manifest.json")
    del written["checksum"]
    assert written == opened.manifest and written["images"] == 7
    # Once it is mended it takes its place.
    _draw(folder / "a" / "torn.png", 9)
    assert _fill(folder, tmp_path / "out", model).extracted == 1
    assert feature_store.open_store(tmp_path / "out").failed == {}


def test_unchanged_images_are_not_extracted_again(folder, tmp_path, model):
    _fill(folder, tmp_path / "out", model)
    assert _fill(folder, tmp_path / "out", model) == StoreReport(0, 7, 0, {})
    # The same bytes at another time are no change.
    os.utime(folder / "a" / "0.png", ns=(1, 1))
    assert _fill(folder, tmp_path / "out", model).extracted == 0


def test_a_changed_image_is_extracted_again(folder, tmp_path, model):
    _fill(folder, tmp_path / "out", model)
    old = np.array(feature_store.open_store(tmp_path / "out").global_descriptors)
    _draw(folder / "a" / "1.png", 99)
    _draw(folder / "new.png", 98)
    report = _fill(folder, tmp_path / "out", model)
    assert (report.extracted, report.unchanged) == (2, 6)
    opened = feature_store.open_store(tmp_path / "out")
    changed = (opened.global_descriptors[:7] != old).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [1]
    fresh = tmp_path / "fresh"
    _fill(folder, fresh, model)
    _assert_same(opened, feature_store.open_store(fresh))


@pytest.mark.parametrize("what", ["setting", "model"])
def test_another_setting_or_model_extracts_all_again(folder, tmp_path, model, what):
    out = tmp_path / "out"
    _fill(folder, out, model)
    if what == "setting":
        changed = model, SETTINGS._replace(max_features=5)
    else:
        changed = model._replace(fingerprint="f" * 64), SETTINGS
    assert _fill(folder, out, *changed).extracted == 7
    opened = feature_store.open_store(out)
    assert len(opened) == 7 and len(_shards(out)) == 1
    if what == "setting":
        assert all(len(features.local.scales) <= 5 for features in opened)
    _fill(folder, tmp_path / "fresh", *changed)
    _assert_same(opened, feature_store.open_store(tmp_path / "fresh"))


def test_settings_without_effect_extract_nothing(folder, tmp_path, model):
    _fill(folder, tmp_path / "out", model)
    faster = SETTINGS._replace(batch_size=2, grid=32)
    assert _fill(folder, tmp_path / "out", model, faster).extracted == 0


def test_a_smallest_size_of_0_as_trainings_write_it_is_read_again(tmp_path, model):
    manifest = feature_store.manifest_for(model, SETTINGS._replace(min_image_size=0))
    writer.begin(tmp_path, manifest)
    writer.finish(tmp_path, writer.Writer(tmp_path, manifest["key"], []), alone=True)
    opened = feature_store.open_store(tmp_path)
    assert opened.manifest["settings"]["min_image_size"] == 0


def test_parts_give_the_store_that_one_process_would(folder, tmp_path, model):
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    _fill(folder, tmp_path / "one", model)
    reports = [_fill(folder, tmp_path / "many", model, part=(i, 3)) for i in (2, 0, 1)]
    assert sum(report.extracted for report in reports) == 7
    _assert_same(
        feature_store.open_store(tmp_path / "many"),
        feature_store.open_store(tmp_path / "one"),
    )
    # What a killed process left is cleared by any part, too.
    torn = tmp_path / "many" / "shards" / ".000001-0123456789ab.safetensors.1.0123abcd"
    torn.write_bytes(b"half")
    os.utime(torn, (time.time() - 1e5,) * 2)
    _fill(folder, tmp_path / "many", model, part=(1, 3))
    assert not torn.exists()
    # And one process goes on where the parts ended.
    assert _fill(folder, tmp_path / "many", model).unchanged == 7


def test_a_manifest_that_fits_no_shard_is_not_an_empty_store(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model)
    manifest = json.loads((out / "manifest.json").read_text())
    manifests.write_manifest(out / "manifest.json", manifest | {"key": ".."})
    with pytest.raises(InputError, match="'key' does not match any of its shards"):
        feature_store.open_store(out)
    _fill(folder, out, model)
    assert len(feature_store.open_store(out)) == 7


def test_images_can_be_removed_and_come_back(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model)
    feature_store.remove_from_store(out, ["a/1.png", "b/2.png"])
    opened = feature_store.open_store(out)
    assert len(opened) == 5 and "a/1.png" not in opened.ids
    assert opened.manifest["images"] == 5
    with pytest.raises(InputError, match="no image 'a/1.png'"):
        feature_store.remove_from_store(out, ["b/0.png", "a/1.png"])
    assert "b/0.png" in feature_store.open_store(out).ids
    assert _fill(folder, out, model) == StoreReport(2, 5, 0, {})
    _fill(folder, tmp_path / "fresh", model)
    _assert_same(
        feature_store.open_store(out), feature_store.open_store(tmp_path / "fresh")
    )


def test_pruning_forgets_what_is_gone(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model)
    (folder / "a" / "0.png").unlink()
    assert _fill(folder, out, model).removed == 0
    assert len(feature_store.open_store(out)) == 7
    assert _fill(folder, out, model, prune=True).removed == 1
    assert len(feature_store.open_store(out)) == 6
    assert _fill(folder, out, model, prune=True).removed == 0


def test_what_failed_is_forgotten_like_what_is_gone(folder, tmp_path, model):
    out = tmp_path / "out"
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    _fill(folder, out, model)
    (folder / "torn.png").unlink()
    assert _fill(folder, out, model).kept == 1
    assert list(feature_store.open_store(out).failed) == ["torn.png"]
    assert _fill(folder, out, model, prune=True).removed == 1
    assert feature_store.open_store(out).failed == {}


def test_features_of_a_file_that_cannot_be_read_are_kept(folder, tmp_path, model):
    """A list names photos of a drive that is away."""
    out = tmp_path / "out"
    found = [*find_images([folder]), ("new.png", folder / "new.png")]
    _fill(folder, out, model)
    (folder / "a").rename(tmp_path / "away")
    report = feature_store.extract_to_store(found, out, model, SETTINGS, progress=False)
    assert (report.extracted, report.unchanged, len(report.failed)) == (0, 3, 5)
    assert "cannot be read" in report.failed["a/0.png"]
    opened = feature_store.open_store(out)
    assert len(opened) == 7 and list(opened.failed) == ["new.png"]


def test_another_model_takes_no_images_away_that_it_cannot_extract(
    folder, tmp_path, model
):
    out, other = tmp_path / "out", model._replace(fingerprint="f" * 64)
    _fill(folder, out, model)
    before = feature_store.open_store(out)
    shutil.rmtree(folder / "a")
    with pytest.raises(InputError, match="would lose 4 images, such as 'a/0.png'"):
        _fill(folder, out, other)
    _assert_same(feature_store.open_store(out), before)
    assert _fill(folder, out, other, prune=True).extracted == 3
    assert len(feature_store.open_store(out)) == 3


def test_a_store_is_incomplete_until_all_parts_of_it_are_done(folder, tmp_path, model):
    out = tmp_path / "out"
    for part, left in ((0, 4), (2, 2)):
        _fill(folder, out, model, part=(part, 3))
        opened = feature_store.open_store(out)
        assert opened.shortfall == (
            f"incomplete, {left} of 7 images are not extracted yet"
        )
    _fill(folder, out, model, part=(1, 3))
    assert feature_store.open_store(out).shortfall == ""
    assert all(shards.open_shard(path).arrays for path in _shards(out))


def test_an_image_that_waits_can_be_removed(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model, part=(0, 2))
    feature_store.remove_from_store(out, ["a/1.png"])
    opened = feature_store.open_store(out)
    assert opened.pending == ["a/3.png", "b/1.png"] and len(opened) == 4


def test_under_jax_distributed_each_process_takes_its_part(
    folder, tmp_path, model, monkeypatch
):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index, count in ((0, 4), (1, 3)):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        assert _fill(folder, tmp_path / "many", model).extracted == count
    monkeypatch.undo()
    _fill(folder, tmp_path / "one", model)
    _assert_same(
        feature_store.open_store(tmp_path / "many"),
        feature_store.open_store(tmp_path / "one"),
    )


# Slow enough to be killed in the middle, and a shard for every second image.
SCRIPT = """
import pathlib, sys, time
from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.image_files import find_images
from delf_jax.store import extraction, feature_store, writer
writer.FLUSH_IMAGES = 2
folder, out, model, *part = sys.argv[1:]
part = tuple(map(int, part)) or None
settings = ExtractionSettings(
    image_scales=(1.0,), global_scales=(0,), max_image_size=64, max_features=20
)
def slowly(real=extraction.extract_features):
    def extract(*arguments, **options):
        for features in real(*arguments, **options):
            yield features
            print("one", flush=True)
            time.sleep(0.1)
    return extract
extraction.extract_features = slowly()
found = find_images([folder])
model = model_folder.load_model(model)
feature_store.extract_to_store(found, out, model, settings, part=part, progress=False)
"""


def test_a_killed_job_resumes_where_it_was(folder, tmp_path, tiny_model, model):
    out = tmp_path / "out"
    process = _start(folder, out, tiny_model)
    for _ in range(5):
        assert process.stdout.readline() == "one\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = len(feature_store.open_store(out))
    assert 2 <= kept < 7
    # What a kill leaves of the shard that was being written does no harm.
    torn = out / "shards" / ".000001-0123456789ab.safetensors.1.0123abcd"
    torn.write_bytes(b"half")
    os.utime(torn, (time.time() - 1e5,) * 2)
    assert _fill(folder, out, model) == StoreReport(7 - kept, kept, 0, {})
    _fill(folder, tmp_path / "fresh", model)
    _assert_same(
        feature_store.open_store(out), feature_store.open_store(tmp_path / "fresh")
    )
    assert not torn.exists()


def _start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    root = pathlib.Path(feature_store.__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


def test_processes_side_by_side_fill_one_store(folder, tmp_path, tiny_model, model):
    out = tmp_path / "many"
    processes = [_start(folder, out, tiny_model, part, 2) for part in range(2)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    _fill(folder, tmp_path / "one", model)
    _assert_same(
        feature_store.open_store(out), feature_store.open_store(tmp_path / "one")
    )


def test_a_full_disk_keeps_what_is_complete(folder, tmp_path, model, monkeypatch):
    monkeypatch.setattr(writer, "FLUSH_IMAGES", 3)
    real, calls = shards.write_shard, []

    def write_until_full(path, key, records, features):
        calls.extend([path] if features else [])
        if len(calls) > 1:
            pathlib.Path(path).with_suffix(".part").unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, key, records, features)

    monkeypatch.setattr(writer, "write_shard", write_until_full)
    with pytest.raises(InputError, match="the disk is full; what was finished is kept"):
        _fill(folder, tmp_path / "out", model)
    assert len(feature_store.open_store(tmp_path / "out")) == 3
    monkeypatch.setattr(writer, "write_shard", real)
    assert _fill(folder, tmp_path / "out", model) == StoreReport(4, 3, 0, {})


def test_a_full_disk_takes_as_many_images_as_fit(folder, tmp_path, model, monkeypatch):
    """One shard was to hold them all, and all are worth keeping."""
    real = shards.write_shard
    room = [5]

    def write_what_fits(path, key, records, features):
        if len(features) > room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(features)
        real(path, key, records, features)

    monkeypatch.setattr(writer, "write_shard", write_what_fits)
    with pytest.raises(InputError, match="the disk is full; what was finished is kept"):
        _fill(folder, tmp_path / "out", model)
    assert len(feature_store.open_store(tmp_path / "out")) == 5
    monkeypatch.undo()
    assert _fill(folder, tmp_path / "out", model)[:2] == (2, 5)


def test_an_interrupt_keeps_what_is_finished(folder, tmp_path, model, monkeypatch):
    real = extract.extract_features

    def interrupted(*arguments, **options):
        for number, features in enumerate(real(*arguments, **options)):
            if number == 4:
                raise KeyboardInterrupt
            yield features

    monkeypatch.setattr(extraction, "extract_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _fill(folder, tmp_path / "out", model)
    assert len(feature_store.open_store(tmp_path / "out")) == 4


def test_a_truncated_store_is_named_and_mended(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model)
    (shard,) = _shards(out)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{shard.name}: damaged or truncated"):
        feature_store.open_store(out)
    assert _fill(folder, out, model) == StoreReport(7, 0, 0, {}, damaged=1)
    assert len(feature_store.open_store(out)) == 7


def test_a_flipped_bit_is_noticed_when_read_and_mended(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model)
    _fill(folder, tmp_path / "whole", model)
    (shard,) = _shards(out)
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1
    shard.write_bytes(data)
    opened = feature_store.open_store(out)
    with pytest.raises(InputError, match=f"{shard.name}: damaged or truncated"):
        list(opened)
    quick = _fill(folder, out, model, thorough=False)
    assert (quick.unchanged, quick.damaged) == (7, 0)
    assert _fill(folder, out, model) == StoreReport(1, 6, 0, {}, 1)
    whole = feature_store.open_store(tmp_path / "whole")
    _assert_same(feature_store.open_store(out), whole)


def test_what_damage_takes_while_its_file_is_away_is_known_to_be_missing(
    folder, tmp_path, model
):
    out = tmp_path / "out"
    _fill(folder, out, model)
    feature_store.remove_from_store(out, ["a/1.png"])
    with open(_shards(out)[0], "r+b") as shard:
        shard.seek(-2, os.SEEK_END)
        shard.write(b"\xff\xff")
    (folder / "b").rename(tmp_path / "away")
    report = _fill(folder, out, model)
    assert (report.extracted, report.damaged) == (1, 1)
    assert feature_store.open_store(out).pending == ["b/2.png"]
    assert _fill(folder, out, model, prune=True).removed == 3
    assert feature_store.open_store(out).shortfall == ""


def test_damage_of_a_photo_that_is_away_loses_no_other(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model)
    (shard,) = _shards(out)
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1  # Of the last photo.
    shard.write_bytes(data)
    for photo in ("a/0.png", "b/2.png"):
        (folder / photo).unlink()
    report = _fill(folder, out, model)
    assert (report.extracted, report.unchanged, report.damaged) == (0, 5, 1)
    opened = feature_store.open_store(out)
    assert len(list(opened)) == 6 and "a/0.png" in opened.ids
    assert opened.pending == ["b/2.png"] and "1 of 7" in opened.shortfall


def test_a_damaged_global_descriptor_is_noticed(folder, tmp_path, model):
    out = tmp_path / "out"
    _fill(folder, out, model)
    (shard,) = _shards(out)
    data = bytearray(shard.read_bytes())
    row = feature_store.open_store(out)[5].global_descriptor
    data[bytes(data).index(row.tobytes()) + 3] ^= 64
    shard.write_bytes(data)
    opened = feature_store.open_store(out)
    assert len(opened.read_global([4, 0, 6])) == 3
    for read in (lambda: opened.read_global([6, 5]), lambda: opened.global_descriptors):
        with pytest.raises(InputError, match="damaged or truncated"):
            read()


def test_descriptors_come_in_the_order_asked_for(folder, tmp_path, model, monkeypatch):
    monkeypatch.setattr(writer, "FLUSH_IMAGES", 2)
    _fill(folder, tmp_path / "out", model)
    assert len(_shards(tmp_path / "out")) > 1
    opened = feature_store.open_store(tmp_path / "out")
    rows = [6, 0, 3, 3, 5]
    expected = [opened[row].global_descriptor for row in rows]
    np.testing.assert_array_equal(opened.read_global(rows), expected)
    np.testing.assert_array_equal(opened.read_global(np.array(rows)), expected)
    assert opened.read_global([]).shape == (0, 0)


def test_files_of_other_names_are_neither_read_nor_deleted(folder, tmp_path, model):
    _fill(folder, tmp_path / "out", model)
    (shard,) = _shards(tmp_path / "out")
    others = [shard.with_name(n) for n in ("model.safetensors", "1-x.safetensors")]
    for path in others:
        path.write_bytes(b"precious")
    hidden = shard.with_name(".model.safetensors.1.2")
    hidden.write_bytes(b"precious")
    os.utime(hidden, (0, 0))
    assert _fill(folder, tmp_path / "out", model).unchanged == 7
    feature_store.remove_from_store(tmp_path / "out", ["a/0.png"])
    assert all(path.read_bytes() == b"precious" for path in [*others, hidden])


def test_nothing_is_written_or_deleted_through_a_link(folder, tmp_path, model):
    _fill(folder, tmp_path / "own", model)
    before = {path: path.read_bytes() for path in _shards(tmp_path / "own")}
    other = SETTINGS._replace(max_features=5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shards").symlink_to(tmp_path / "own" / "shards")
    with pytest.raises(InputError, match="out/shards: is a symbolic link"):
        _fill(folder, tmp_path / "out", model, other)
    shutil.copy(tmp_path / "own" / "manifest.json", tmp_path / "out")
    assert len(feature_store.open_store(tmp_path / "out")) == 7
    with pytest.raises(InputError, match="out/shards: is a symbolic link"):
        feature_store.remove_from_store(tmp_path / "out", ["a/0.png"])
    assert {path: path.read_bytes() for path in _shards(tmp_path / "own")} == before


def test_what_is_not_a_store_is_named(tmp_path, model):
    with pytest.raises(InputError, match="nowhere: no feature store here"):
        feature_store.open_store(tmp_path / "nowhere")
    index = tmp_path / "index"
    (index / "store").mkdir(parents=True)
    (index / "store" / "manifest.json").touch()
    with pytest.raises(InputError, match=f"is missing.; name {index / 'store'}$"):
        feature_store.open_store(index)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="manifest.json: expected fields"):
        feature_store.open_store(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="manifest.json: not valid JSON"):
        feature_store.open_store(tmp_path)
    with pytest.raises(InputError, match="a file is in the way"):
        feature_store.extract_to_store([], tmp_path / "manifest.json", model, SETTINGS)


def test_a_store_without_images_or_global_descriptors_opens(folder, tmp_path, model):
    feature_store.extract_to_store([], tmp_path / "none", model, SETTINGS)
    assert len(feature_store.open_store(tmp_path / "none").global_descriptors) == 0
    local = SETTINGS._replace(global_scales=())
    _fill(folder, tmp_path / "local", model, local)
    with pytest.raises(InputError, match="no global descriptors"):
        feature_store.open_store(tmp_path / "local").global_descriptors  # noqa: B018


def test_two_stores_are_read_as_one(folder, tmp_path, model):
    images = find_images([folder])
    good, first, second = [], tmp_path / "first", tmp_path / "second"
    for image, path in images:
        renamed = f"other/{image}"
        good.append((renamed, path))
    _fill(folder, first, model)
    feature_store.extract_to_store(good, second, model, SETTINGS, progress=False)
    one, two = feature_store.open_store(first), feature_store.open_store(second)
    joined = feature_store.join_stores(one, two)
    assert joined.ids == sorted([*one.ids, *two.ids]) and joined.path == one.path
    for part in (one, two):
        for image in part.ids:
            np.testing.assert_array_equal(
                joined[joined.row(image)].global_descriptor,
                part[part.row(image)].global_descriptor,
            )
    with pytest.raises(InputError, match="is the id of another image"):
        feature_store.join_stores(one, one)
    other = SETTINGS._replace(max_features=3)
    feature_store.extract_to_store(good, second, model, other, progress=False)
    with pytest.raises(InputError, match="model or settings do not match"):
        feature_store.join_stores(one, feature_store.open_store(second))


def test_a_stamp_changes_with_the_features_of_an_image(tmp_path):
    before = fill_store(tmp_path / "store", ["a", "b", "c"])
    after = fill_store(tmp_path / "store", ["b", "d"], sequence=2)
    stamps = dict(zip(before.ids, before.stamps, strict=True))
    again = dict(zip(after.ids, after.stamps, strict=True))
    assert {id for id, stamp in again.items() if stamps.get(id) == stamp} == {"a", "c"}
