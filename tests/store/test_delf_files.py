"""Stores and files of the original, there and back, with all that can be in the way."""

import json
import shutil

import jax
import numpy as np
import pytest

from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features, LocalFeatures, Regions
from delf_jax.files import InputError, write_json
from delf_jax.formats.delf import datum
from delf_jax.formats.delf.features import read_delf_features
from delf_jax.formats.delf.index_mapping import read_index_mapping
from delf_jax.index import photo_index, photo_places
from delf_jax.search import query
from delf_jax.store import delf_files, feature_store
from delf_jax.store.delf_files import read_files, write_files
from delf_jax.store.feature_store import StoreReport
from tests.helpers.stores import IDS, add_features, draw_store


def there_and_back(tmp_path, layout: str, **kinds) -> tuple:
    """A store, and what is left of it after a journey through files."""
    source = draw_store(tmp_path / "store", **kinds)
    write_files(source, tmp_path / "files", layout, progress=False)
    read_files(tmp_path / "files", tmp_path / "again", layout, progress=False)
    return feature_store.open_store(source), feature_store.open_store(
        tmp_path / "again"
    )


@pytest.mark.parametrize(("local", "globe"), [(6, 4), (6, 0), (0, 4)])
def test_a_store_comes_back_as_it_was(tmp_path, local, globe):
    before, after = there_and_back(tmp_path, "delg", local=local, globe=globe)
    assert after.ids == before.ids == IDS
    for ours, theirs in zip(after, before, strict=True):
        assert ours.image_size == theirs.image_size
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_older_layout_carries_local_features_alone(tmp_path):
    before, after = there_and_back(tmp_path, "delf")
    for ours, theirs in zip(after, before, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours.local, theirs.local)
        assert ours.global_descriptor is None
    files = {p for p in (tmp_path / "files").rglob("*") if p.is_file()}
    names = {p.relative_to(tmp_path / "files").as_posix() for p in files}
    written = {"a/0.delf", "a/1.delf", "b/0.delf", "b/deep/2.v1.delf"}
    assert names == written | {"images.json"}


def test_files_are_what_the_originals_readers_expect(tmp_path):
    source = feature_store.open_store(draw_store(tmp_path / "store"))
    write_files(source.path, tmp_path / "files", "delg", progress=False)
    expected = source[source.row("a/0.jpg")]
    local = read_delf_features(tmp_path / "files" / "a" / "0.delg_local")
    for field in LocalFeatures._fields:
        found = getattr(local, field)
        np.testing.assert_array_equal(found, getattr(expected.local, field))
    np.testing.assert_array_equal(local.orientations, np.zeros(3))
    descriptor = datum.read_datum(tmp_path / "files" / "a" / "0.delg_global")
    np.testing.assert_array_equal(descriptor, expected.global_descriptor)


@pytest.mark.golden
def test_files_of_the_original_become_a_store(golden, tmp_path):
    (tmp_path / "files" / "x").mkdir(parents=True)
    for name, copy in (("features", "x/1"), ("features_empty", "x/0")):
        path = golden / "formats" / f"{name}.delf"
        shutil.copyfile(path, tmp_path / "files" / f"{copy}.delf")
    report = read_files(
        tmp_path / "files", tmp_path / "out", "delf", name="delf_gld", progress=False
    )
    assert report == StoreReport(2, 0, 0, {})
    found = feature_store.open_store(tmp_path / "out")
    assert found.ids == ["x/0", "x/1"]
    assert found.manifest["model"] == {"name": "delf_gld", "fingerprint": ""}
    assert found[0].local.descriptors.shape == (0, 40)
    stored = np.load(golden / "formats" / "formats.npz")
    for field in ("scales", "descriptors", "attention"):
        theirs = stored[f"features.delf/{field}"]
        np.testing.assert_array_equal(getattr(found[1].local, field), theirs)


def test_what_is_complete_and_unchanged_is_left_alone(tmp_path):
    source, files, out = (tmp_path / name for name in ("store", "files", "out"))
    draw_store(source)
    assert write_files(source, files, "delg", progress=False)[:2] == (4, 0)
    assert read_files(files, out, "delg", progress=False)[:2] == (4, 0)
    times = {path: path.stat().st_mtime_ns for path in files.rglob("*.delg_*")}
    (files / "a" / "0.delg_global").unlink()
    (files / "b" / "0.delg_local").write_bytes(b"half")
    assert write_files(source, files, "delg", progress=False)[:2] == (2, 2)
    changed = {p for p, time in times.items() if p.stat().st_mtime_ns != time}
    assert {path.stem for path in changed} == {"0"} and len(changed) == 2
    assert read_files(files, out, "delg", progress=False)[:2] == (2, 2)
    assert read_files(files, out, "delg", progress=False)[:2] == (0, 4)


def test_a_killed_job_resumes_where_it_stopped(tmp_path, monkeypatch):
    source, files, out = (tmp_path / name for name in ("store", "files", "out"))
    draw_store(source, globe=0)

    def killed_at(function, count):
        calls = []

        def run(*arguments):
            calls.append(arguments)
            if len(calls) > count:
                raise KeyboardInterrupt
            return function(*arguments)

        return run

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(delf_files, "update_file", killed_at(delf_files.update_file, 2))
        write_files(source, files, "delf", progress=False)
    assert write_files(source, files, "delf", progress=False)[:2] == (2, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(delf_files, "read_image", killed_at(delf_files.read_image, 3))
        read_files(files, out, "delf", progress=False)
    assert read_files(files, out, "delf", progress=False)[:2] == (1, 3)
    assert feature_store.open_store(out).ids == IDS


def test_broken_files_are_named_and_the_others_kept(tmp_path):
    source, files, out = (tmp_path / name for name in ("store", "files", "out"))
    draw_store(source)
    write_files(source, files, "delg", progress=False)
    good = (files / "a" / "0.delg_local").read_bytes()
    (files / "a" / "0.delg_local").write_bytes(good[:-3])
    (files / "b" / "0.delg_global").unlink()
    datum.write_datum(files / "b" / "deep" / "2.v1.delg_global", np.ones(7))
    report = read_files(files, out, "delg", progress=False)
    assert report[:3] == (1, 0, 0)
    assert "0.delg_local: damaged" in report.failed["a/0.jpg"]
    assert "other images have global features, too" in report.failed["b/0.jpg"]
    assert (
        "expected descriptors of 4 dimensions, as in other files, got 7"
        in report.failed["b/deep/2.v1.jpg"]
    )
    opened = feature_store.open_store(out)
    assert opened.ids == ["a/1.png"] and opened.failed == report.failed
    write_files(source, files, "delg", progress=False)  # Mends them.
    assert read_files(files, out, "delg", progress=False) == StoreReport(3, 1, 0, {})


def test_files_that_systems_leave_are_no_features(tmp_path):
    source = draw_store(tmp_path / "store")
    write_files(source, tmp_path / "files", "delg", progress=False)
    hidden = tmp_path / "files" / "__MACOSX" / "a"
    hidden.mkdir(parents=True)
    for path in (hidden / "0.delg_local", tmp_path / "files" / "a" / "._0.delg_local"):
        path.write_bytes(b"\0\5\26\7")
    report = read_files(tmp_path / "files", tmp_path / "again", "delg", progress=False)
    assert (
        report.extracted == len(feature_store.open_store(source)) and not report.failed
    )


def test_images_whose_files_are_gone_are_removed_when_asked_for(tmp_path):
    files, out = tmp_path / "files", tmp_path / "out"
    write_files(draw_store(tmp_path / "store"), files, "delg", progress=False)
    (files / "a" / "0.delg_local").write_bytes(b"half")
    read_files(files, out, "delg", progress=False)
    for path in files.glob("[ab]/0.*"):
        path.unlink()
    known = feature_store.open_store(out)
    report = read_files(files, out, "delg", progress=False)
    assert report == StoreReport(0, 2, 0, {}, kept=2)
    assert feature_store.open_store(out).ids == known.ids
    report = read_files(files, out, "delg", prune=True, progress=False)
    assert report == StoreReport(0, 2, 2, {})
    assert feature_store.open_store(out).ids == ["a/1.png", "b/deep/2.v1.jpg"]
    assert feature_store.open_store(out).failed == {}
    assert read_files(files, out, "delg", progress=False) == StoreReport(0, 2, 0, {})


def test_features_that_are_not_finite_are_named_and_the_others_kept(tmp_path):
    files, out = tmp_path / "files", tmp_path / "out"
    write_files(draw_store(tmp_path / "store", IDS), files, "delg", progress=False)
    broken = files / "a" / "0.delg_global"
    bad = datum.read_datum(broken)
    bad[1] = np.nan
    datum.write_datum(broken, bad)
    report = read_files(files, out, "delg", progress=False)
    (reason,) = report.failed.values()
    assert "0.delg_global: the global descriptor has numbers that are not" in reason
    assert report.extracted == len(IDS) - 1


def test_the_only_file_of_a_kind_is_named_if_it_is_damaged(tmp_path):
    files, out = tmp_path / "files", tmp_path / "out"
    write_files(draw_store(tmp_path / "store", IDS[:1]), files, "delg", progress=False)
    read_files(files, out, "delg", progress=False)
    (files / "a" / "0.delg_local").write_bytes(b"half")
    with pytest.raises(InputError, match=r"a/0\.delg_local: damaged"):
        read_files(files, out, "delg", progress=False)
    assert feature_store.open_store(out).ids == IDS[:1]


def test_images_that_failed_in_the_store_are_reported(tmp_path):
    source = draw_store(tmp_path / "store", failed=["c.jpg"])
    report = write_files(source, tmp_path / "files", "delf", progress=False)
    assert report[:4] == (4, 0, 0, {"c.jpg": "c.jpg: broken"})


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["a/1.jpg", "a/1.png"], r"a/1\.jpg and a/1\.png would share a file"),
        (["../1.jpg"], "is not a path within a folder"),
        (["/etc/1.jpg"], "is not a path within a folder"),
        (["a/../../1.jpg"], "is not a path within a folder"),
    ],
)
def test_ids_that_make_no_files_are_refused(tmp_path, ids, words):
    source = draw_store(tmp_path / "store", ids)
    with pytest.raises(InputError, match=words):
        write_files(source, tmp_path / "files", "delf", progress=False)
    assert not (tmp_path / "files").exists()


def test_what_a_layout_has_no_file_for_is_named(tmp_path):
    source = draw_store(tmp_path / "store", local=0)
    with pytest.raises(InputError, match="has no local features; --to=delg"):
        write_files(source, tmp_path / "files", "delf", progress=False)


def test_folders_without_features_are_refused(tmp_path):
    (tmp_path / "a.delf").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no \.delg_local or \.delg_global"):
        read_files(tmp_path, tmp_path / "out", "delg", progress=False)
    with pytest.raises(InputError, match="no such folder"):
        read_files(tmp_path / "absent", tmp_path / "out", "delf", progress=False)


@pytest.mark.parametrize(
    "images",
    [
        {"a": ["a.jpg", 1]},
        {"a": ["a.jpg", 1.5, 2]},
        {"a": 3},
        [],
        {"a": ["x.jpg", 1, 1], "b": ["x.jpg", 1, 1]},
    ],
)
def test_a_damaged_list_of_images_is_named(tmp_path, images):
    (tmp_path / "a.delf").write_bytes(b"")
    write_json(tmp_path / "images.json", {"images": images})
    with pytest.raises(InputError, match=r"images\.json: .*remove it to use names"):
        read_files(tmp_path, tmp_path / "out", "delf", progress=False)


def test_features_from_files_do_not_match_those_of_a_model(tmp_path, tiny_model):
    source = draw_store(tmp_path / "store")
    write_files(source, tmp_path / "files", "delg", progress=False)
    read_files(tmp_path / "files", tmp_path / "again", "delg", progress=False)
    with pytest.raises(InputError, match="do not match .*: name another folder"):
        read_files(tmp_path / "files", source, "delg", progress=False)
    words = (
        r"from files \(delf files, files delg, local 6, global 4\), which do not match "
        r"those from files \(another, files delg, local 6, global 4\)"
    )
    with pytest.raises(InputError, match=words):
        arguments = tmp_path / "files", tmp_path / "again", "delg"
        read_files(*arguments, name="another", progress=False)
    model, settings = model_folder.load_model(tiny_model), ExtractionSettings()
    with pytest.raises(InputError, match="do not match those of model"):
        feature_store.extract_to_store(
            [], tmp_path / "again", model, settings, progress=False
        )
    assert len(feature_store.open_store(source)) == len(
        feature_store.open_store(tmp_path / "again")
    )


def test_features_from_files_are_not_searched_with_a_model(tmp_path, tiny_model):
    before, _ = there_and_back(tmp_path, "delg")
    (tmp_path / "index").mkdir()
    shutil.move(tmp_path / "again", tmp_path / "index" / "store")
    values = {"format": photo_places.FORMAT, "root": str(tmp_path), "outside": {}}
    (tmp_path / "index" / "index.json").write_text(json.dumps(values))
    index, model = (
        photo_index.open_index(tmp_path / "index"),
        model_folder.load_model(tiny_model),
    )
    with pytest.raises(InputError, match=r"has features from files \(delf files\)"):
        next(query.search(index, [], model, ExtractionSettings()))


def test_features_of_boxes_become_files_of_their_own(tmp_path, rng):
    boxes = np.float32([[0, 0, 40, 60], [5, 10, 30, 40], [0, 20, 20, 60]])
    local = LocalFeatures(
        *(rng.normal(size=s).astype(np.float32) for s in ((7, 2), 7, (7, 6), 7))
    )
    regions = Regions(boxes, np.array([4, 3, 0], np.int32))
    features = Features(local, np.ones(4, np.float32), (40, 60), regions)
    images = dict.fromkeys(("a/x.jpg", "b.jpg"), features)
    add_features(tmp_path / "store", images, with_boxes=True)
    report = write_files(tmp_path / "store", tmp_path / "out", "delg", progress=False)
    assert report.extracted == 2
    mapping = read_index_mapping(tmp_path / "out" / "index_mapping.csv")
    rows = [("a/x", 0, -1), ("a/x_0", 0, 0), ("a/x_1", 0, 1)]
    assert [tuple(row) for row in mapping[:3]] == rows and len(mapping) == 6
    crop = read_delf_features(tmp_path / "out" / "a" / "x_0.delg_local")
    expected = local.locations[4:] - np.float32([[5, 10]])
    np.testing.assert_array_equal(crop.locations, expected)
    np.testing.assert_array_equal(crop.descriptors, local.descriptors[4:])
    empty = read_delf_features(tmp_path / "out" / "b_1.delg_local")
    assert len(empty.scales) == 0
    assert len(list((tmp_path / "out").rglob("*.delg_global"))) == 2

    images = dict.fromkeys(("b.jpg", "b_1.jpg"), features)
    add_features(tmp_path / "clash", images, with_boxes=True)
    with pytest.raises(InputError, match="a box of image b and image b_1 would share"):
        write_files(tmp_path / "clash", tmp_path / "o", "delg", progress=False)


def test_two_files_of_one_image_are_refused(tmp_path):
    source = draw_store(tmp_path / "store", ["a.jpg"])
    write_files(source, tmp_path / "files", "delf", progress=False)
    shutil.copy(tmp_path / "files/a.delf", tmp_path / "files/a.jpg.delf")
    with pytest.raises(
        InputError, match=r"images\.json: files a.* both of image a\.jpg"
    ):
        read_files(tmp_path / "files", tmp_path / "again", "delf", progress=False)
