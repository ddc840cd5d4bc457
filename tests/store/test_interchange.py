"""Stores as files of hloc, numpy, CSV and COLMAP, read as those programs read them."""

import csv

import numpy as np
import pytest

from delf_jax.features import Features, LocalFeatures, Regions
from delf_jax.files import InputError
from delf_jax.store import feature_store, interchange
from delf_jax.store.interchange import Matched
from tests.helpers.stores import COUNTS, IDS, add_features, draw_store

LAYOUTS = ("hdf5", "npz", "csv", "colmap")


@pytest.fixture
def store(tmp_path):
    return feature_store.open_store(draw_store(tmp_path / "store"))


def write(store, tmp_path, layout):
    out = tmp_path / layout
    report = interchange.write_files(store, out, layout, progress=False)
    assert report.extracted + report.unchanged == len(store)
    return out


def files_of(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_hloc_reads_keypoints_scores_and_columns_of_descriptors(store, tmp_path):
    h5py = pytest.importorskip("h5py")
    out = write(store, tmp_path, "hdf5")
    names = []
    with h5py.File(out / "features.h5") as file:
        file.visititems(
            lambda _, item: (
                names.append(item.parent.name.strip("/"))
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        assert sorted(set(names)) == IDS
        for features in store:
            group, local = file[features.image], features.local
            # Of hloc pixel centres are at integers; it adds the 0.5 of COLMAP itself.
            assert group["keypoints"].dtype == np.float32
            np.testing.assert_array_equal(group["keypoints"], local.locations[:, ::-1])
            np.testing.assert_array_equal(group["descriptors"], local.descriptors.T)
            np.testing.assert_array_equal(group["scores"], local.attention)
            assert tuple(group["image_size"])[::-1] == features.image_size
            assert group["keypoints"].attrs["uncertainty"]
    with h5py.File(out / "global_features.h5") as file:
        for features in store:
            found = file[features.image]["global_descriptor"]
            np.testing.assert_array_equal(found, features.global_descriptor)


def test_uncertainty_grows_with_scale_and_with_what_extraction_shrank(tmp_path):
    h5py = pytest.importorskip("h5py")
    ones = np.ones((4, 2), np.float32)
    local = LocalFeatures(ones, ones[:, 0], ones, ones[:, 0])
    images = {
        "a.jpg": Features(local, None, (80, 100)),
        "b.jpg": Features(local._replace(scales=2 * ones[:, 0]), None, (80, 100)),
        "c.jpg": Features(local, None, (160, 200)),
    }
    settings = {"max_image_size": 100}
    store = add_features(tmp_path / "store", images, settings=settings)
    with h5py.File(write(store, tmp_path, "hdf5") / "features.h5") as file:
        a, b, c = (file[name]["keypoints"].attrs["uncertainty"] for name in images)
        assert a == pytest.approx(16 / 12**0.5)
        assert b == c == pytest.approx(2 * a)
        np.testing.assert_array_equal(file["c.jpg/scales"], [2, 2, 2, 2])


def test_numpy_reads_the_words_of_this_project_without_pickles(store, tmp_path):
    out = write(store, tmp_path, "npz")
    assert files_of(out) == {f"{id}.npz" for id in IDS}
    for features in store:
        with np.load(out / f"{features.image}.npz", allow_pickle=False) as found:
            for field in LocalFeatures._fields:
                expected = getattr(features.local, field)
                np.testing.assert_array_equal(found[field], expected)
            expected = features.global_descriptor
            np.testing.assert_array_equal(found["global_descriptor"], expected)
            assert tuple(found["image_size"]) == features.image_size


def test_csv_has_a_row_for_each_feature_and_brings_numbers_back(store, tmp_path):
    out = write(store, tmp_path, "csv")
    with open(out / "features.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [
        "image",
        "x",
        "y",
        "scale",
        "attention",
        *(f"d{n}" for n in range(6)),
    ]
    expected = np.concatenate(
        [
            np.column_stack(
                [f.local.locations[:, ::-1], f.local.scales, f.local.attention]
                + [f.local.descriptors]
            )
            for f in store
        ]
    )
    numbers = np.array([row[1:] for row in rows], np.float32)
    np.testing.assert_array_equal(numbers, expected)
    with open(out / "images.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "height", "width", "features", "g0", "g1", "g2", "g3"]
    assert [row[0] for row in rows] == IDS
    assert [int(row[3]) for row in rows] == COUNTS
    numbers = np.array([row[4:] for row in rows], np.float32)
    np.testing.assert_array_equal(numbers, store.global_descriptors)


def test_colmap_imports_keypoints_with_the_centre_of_a_pixel_at_a_half(store, tmp_path):
    out = write(store, tmp_path, "colmap")
    assert files_of(out) == {f"keypoints/{id}.txt" for id in IDS}
    for features in store:
        text = (out / "keypoints" / f"{features.image}.txt").read_text()
        first, *rows = text.splitlines()
        assert first.split(" ") == [str(len(features.local.scales)), "128"]
        numbers = [row.split(" ") for row in rows]
        assert all(row[3:] == ["0"] * 129 for row in numbers)
        found = np.array([row[:3] for row in numbers], np.float64).reshape(-1, 3)
        expected = features.local.locations[:, ::-1].astype(np.float64) + 0.5
        np.testing.assert_allclose(found[:, :2], expected, rtol=1e-7)
        np.testing.assert_array_equal(np.float32(found[:, 2]), features.local.scales)


MATCHED = [
    Matched(("a/0.jpg", "b/0.jpg"), 3, np.int32([[0, 0], [2, 1]]), np.float32([1, 0])),
    Matched(("a/0.jpg", "a/1.png"), 3, np.zeros((0, 2), np.int32), np.zeros(0, "f4")),
]


def test_hloc_reads_matches_of_the_first_image(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = interchange.write_matches(tmp_path, "hdf5", MATCHED)
    with h5py.File(path) as file:
        group = file["a-0.jpg/b-0.jpg"]
        assert group["matches0"].dtype == np.int16
        assert list(group["matches0"]) == [0, -1, 1]
        assert list(group["matching_scores0"]) == [1, 0, 0.5]
        assert list(file["a-0.jpg/a-1.png/matches0"]) == [-1, -1, -1]


def test_colmap_reads_matches_pair_by_pair(tmp_path):
    path = interchange.write_matches(tmp_path, "colmap", MATCHED)
    assert path.read_text() == "a/0.jpg b/0.jpg\n0 0\n2 1\n\na/0.jpg a/1.png\n\n"


def test_two_pairs_that_hloc_would_call_the_same_are_refused(tmp_path):
    pytest.importorskip("h5py")
    pair = MATCHED[0]
    twice = [pair._replace(images=("a/b", "c")), pair._replace(images=("a-b", "c"))]
    with pytest.raises(InputError, match="'a-b/c' is another group"):
        interchange.write_matches(tmp_path, "hdf5", twice)
    assert not files_of(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "id", ["../out.jpg", "a/../../b.jpg", "/etc/x.jpg", "a//b", "."]
)
def test_no_id_leaves_the_folder(tmp_path, layout, id):
    store = feature_store.open_store(draw_store(tmp_path / "store", [id]))
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="is not a path within a folder"):
        interchange.write_files(store, tmp_path / "out", layout, progress=False)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_need_not_be_utf8(tmp_path, layout):
    ids = ['caf\udce9, "1".jpg', "ümlaut.jpg"]
    store = feature_store.open_store(draw_store(tmp_path / "store", ids))
    out = write(store, tmp_path, layout)
    if layout == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(out / "features.h5") as file:
            assert {*file} == {b'caf\xe9, "1".jpg', "ümlaut.jpg"}
    elif layout == "csv":
        with open(out / "images.csv", newline="", errors="surrogateescape") as file:
            assert [row[0] for row in csv.reader(file)][1:] == ids
    else:
        assert len(files_of(out)) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_of_boxes_are_left_out(tmp_path, layout):
    rng = np.random.default_rng(0)
    arrays = ((5, 2), 5, (5, 6), 5)
    local = LocalFeatures(*(rng.normal(size=s).astype(np.float32) for s in arrays))
    boxes = np.float32([[0, 0, 40, 60], [1, 1, 9, 9]])
    features = Features(local, None, (40, 60), Regions(boxes, np.int32([2, 3])))
    store = add_features(tmp_path / "store", {"a.jpg": features})
    out = write(store, tmp_path, layout)
    if layout == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(out / "features.h5") as file:
            assert len(file["a.jpg/keypoints"]) == 2
    elif layout == "npz":
        assert len(np.load(out / "a.jpg.npz")["scales"]) == 2
    else:
        file = "features.csv" if layout == "csv" else "keypoints/a.jpg.txt"
        assert len((out / file).read_text().splitlines()) == 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_store_that_breaks_midway_leaves_what_was_there(
    tmp_path, layout, monkeypatch
):
    store = feature_store.open_store(draw_store(tmp_path / "store"))
    out = write(store, tmp_path, layout)
    before = {name: (out / name).read_bytes() for name in files_of(out)}
    other = draw_store(tmp_path / "other", IDS[::-1])
    broken = feature_store.open_store(other)
    whole = type(broken).__getitem__

    def damaged(self, row):
        if row == 2:
            raise InputError("damaged")
        return whole(self, row)

    monkeypatch.setattr(type(broken), "__getitem__", damaged)
    with pytest.raises(InputError, match="damaged"):
        interchange.write_files(broken, out, layout, progress=False)
    after = {name: (out / name).read_bytes() for name in files_of(out)}
    assert after.keys() == before.keys()
    if layout in ("hdf5", "csv"):
        assert after == before


@pytest.mark.parametrize("layout", ["npz", "colmap"])
def test_files_that_are_there_are_left_alone(store, tmp_path, layout):
    out = write(store, tmp_path, layout)
    next(out.rglob("2.v1.*")).unlink()
    report = interchange.write_files(store, out, layout, progress=False)
    assert report == feature_store.StoreReport(1, 3, 0, {})


def test_stores_of_one_branch_and_empty_ones(tmp_path):
    local = feature_store.open_store(draw_store(tmp_path / "local", globe=0))
    globe = feature_store.open_store(draw_store(tmp_path / "global", local=0))
    empty = add_features(tmp_path / "empty", {})
    for store, files in (
        (local, {"features.h5"}),
        (globe, {"global_features.h5"}),
        (empty, {"features.h5"}),
    ):
        out = tmp_path / f"{store.path.name} out"
        interchange.write_files(store, out, "hdf5", progress=False)
        assert files_of(out) == files
        interchange.write_files(store, out, "npz", progress=False)
        interchange.write_files(store, out, "csv", progress=False)
    with pytest.raises(InputError, match="no local features, which COLMAP takes"):
        interchange.write_files(globe, tmp_path / "out", "colmap", progress=False)


def test_without_h5py_one_sentence_names_the_extra(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match=r"pip install 'delf_jax\[h5\]'"):
        interchange.write_files(store, tmp_path / "out", "hdf5", progress=False)
    assert not (tmp_path / "out").exists()
