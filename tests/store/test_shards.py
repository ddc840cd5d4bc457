"""Shards: what is written is read, by others too, and damage is noticed."""

import json

import numpy as np
import pytest
import safetensors.numpy

from delf_jax.features import Features, LocalFeatures, Regions
from delf_jax.files import InputError
from delf_jax.formats import tensor_files
from delf_jax.store import shard_checks
from delf_jax.store.shards import (
    Record,
    open_shard,
    read_counts,
    read_features,
    read_global,
    write_shard,
)


def _features(count: int, seed: int, *, local=True, whole=True) -> Features:
    rng = np.random.default_rng(seed)
    arrays = [
        rng.normal(size=shape).astype(np.float32)
        for shape in ((count, 2), (count,), (count, 16), (count,))
    ]
    return Features(
        LocalFeatures(*arrays) if local else None,
        rng.normal(size=8).astype(np.float32) if whole else None,
        (10 + seed, 20),
    )


RECORDS = [
    Record("a/1.jpg", 3, "extracted", "", 10, 1_700_000_000_123_456_789, "ab"),
    Record("ü \udcff.jpg", 3, "failed", "not an image"),
    Record("b.jpg", 3, "extracted"),
    Record("c.jpg", 3, "removed"),
]


def _assert_equal(a: Features, b: Features) -> None:
    assert a.image_size == b.image_size
    for ours, theirs in zip([*(a.local or ())], [*(b.local or ())], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if a.global_descriptor is None:
        assert b.global_descriptor is None
    else:
        np.testing.assert_array_equal(a.global_descriptor, b.global_descriptor)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("counts", [(5, 7), (0, 3), (0, 0)])
def test_what_is_written_is_read(tmp_path, local, whole, counts):
    features = [_features(n, i, local=local, whole=whole) for i, n in enumerate(counts)]
    path = tmp_path / "a.safetensors"
    write_shard(path, "key", RECORDS, features)
    shard = open_shard(path)
    assert shard.records == RECORDS and shard.key == "key"
    for row, expected in enumerate(features):
        _assert_equal(read_features(shard, row), expected)
        assert read_counts(shard, row) == (counts[row] if local else 0, 0)


def test_a_shard_may_hold_no_features(tmp_path):
    write_shard(tmp_path / "a.safetensors", "key", RECORDS[1:2], [])
    assert open_shard(tmp_path / "a.safetensors").records == RECORDS[1:2]


def test_a_shard_is_a_safetensors_file(tmp_path):
    features = [_features(5, 0), _features(7, 1)]
    write_shard(tmp_path / "a.safetensors", "key", RECORDS, features)
    arrays = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(arrays["offsets"], [0, 5, 12])
    np.testing.assert_array_equal(arrays["descriptors"][5:], features[1].local[2])


def test_features_are_views_of_the_file(tmp_path):
    write_shard(tmp_path / "a.safetensors", "key", RECORDS, [_features(5, 0)] * 2)
    features = read_features(open_shard(tmp_path / "a.safetensors"), 1)
    for array in (*features.local, features.global_descriptor):
        assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize("kept", [0, 4, 8, 60, 0.5, 0.99, -1])
def test_a_truncated_shard_is_named(tmp_path, kept):
    path = tmp_path / "torn.safetensors"
    write_shard(path, "key", RECORDS, [_features(50, 0), _features(50, 1)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match="torn.safetensors: damaged or truncated"):
        open_shard(path)


@pytest.mark.parametrize("data", [b"x" * 100, b"\2\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_another_file_is_named(tmp_path, data):
    path = tmp_path / "strange.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match="strange.safetensors"):
        open_shard(path)


def _with_regions(count: int, seed: int) -> Features:
    features = _features(count, seed)
    boxes = np.float32([[0, 0, 10 + seed, 20], [1, 2, 3, 4]])
    regions = Regions(boxes, np.array([count - 1, 1], np.int32))
    return features._replace(regions=regions)


@pytest.fixture(params=[_features, _with_regions])
def written(request, tmp_path):
    """(path, features) of a shard."""
    features = [request.param(3, 0), request.param(2, 1)]
    path = tmp_path / "a.safetensors"
    write_shard(path, "key", RECORDS, features)
    return path, features


def _read_all(path):
    shard = open_shard(path)
    rows = np.arange(len(shard.sound))
    found = [read_features(shard, row) for row in rows.tolist()]
    return shard, found, read_global(shard, rows)


def test_no_flipped_bit_is_read_as_other_features(written):
    path, features = written
    whole, noticed = path.read_bytes(), 0
    places = np.random.default_rng(0).permutation(len(whole) * 8)[:1000]
    for place in places.tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            shard, found, descriptors = _read_all(path)
        except InputError as error:
            assert "index or extract the same photos again" in str(error)
            noticed += 1
            continue
        # In an unused byte, such as a space of the header.
        assert (shard.key, shard.records) == ("key", RECORDS)
        for ours, theirs, row in zip(found, features, descriptors, strict=True):
            _assert_equal(ours, theirs)
            np.testing.assert_array_equal(row, theirs.global_descriptor)
    assert noticed > 0.95 * len(places)


def test_only_what_is_read_is_verified(written):
    path, features = written
    data = bytearray(path.read_bytes())
    place = bytes(data).index(np.float32(features[1].local.descriptors).tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    shard = open_shard(path)
    _assert_equal(read_features(shard, 0), features[0])
    assert len(read_global(shard, np.array([0, 1]))) == 2
    with pytest.raises(InputError, match="a.safetensors: damaged"):
        read_features(shard, 1)


def test_a_shard_of_version_0_1_has_no_checksums_and_is_read(written):
    path, features = written
    _forge(path, {}, checked=False)
    for ours, theirs in zip(_read_all(path)[1], features, strict=True):
        _assert_equal(ours, theirs)


def _forge(path, changes, *, records=None, checked=True):
    """Writes a shard anew with some arrays changed, and sums that are right."""
    shard = open_shard(path)
    arrays = {name: np.array(array) for name, array in shard.arrays.items()}
    for name, change in changes.items():
        arrays[name] = np.ascontiguousarray(change(arrays[name]))
    records = shard.records if records is None else records
    metadata = {"format": "1", "key": "key", "records": json.dumps(records)}
    if checked:
        layout = {name: (array.dtype, array.shape) for name, array in arrays.items()}
        sums = shard_checks.checksum_of_small(metadata, layout, arrays)
        metadata["checksum"] = sums
    else:
        del arrays["checksums"]
    specs = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    data = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(tensor_files.encode_header(specs, metadata) + data)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda x: x * 0),
        ("offsets", lambda x: x[::-1]),
        ("offsets", lambda x: x + 1),
        ("offsets", lambda x: x.astype(np.int32)),
        ("offsets", lambda x: x[:-1]),
        ("offsets", lambda x: x * 2**40),
        ("image_sizes", lambda x: -x),
        ("image_sizes", lambda x: x[:, :1]),
        ("image_sizes", lambda x: x.astype(np.float32)),
        ("global_descriptors", lambda x: x[:1]),
        ("global_descriptors", lambda x: x.ravel()),
        ("global_descriptors", lambda x: x.astype(np.float64)),
        ("descriptors", lambda x: x[:, None]),
        ("descriptors", lambda x: x[:-1]),
        ("scales", lambda x: x[:-1]),
        ("locations", lambda x: x[:, :1]),
        ("attention", lambda x: x.astype(np.int32)),
        ("region_offsets", lambda x: x * 0),
        ("region_offsets", lambda x: x[::-1]),
        ("region_counts", lambda x: -x),
        ("region_counts", lambda x: x + 1),
        ("region_boxes", lambda x: x[:, :3]),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path, name, change, checked):
    path = tmp_path / "a.safetensors"
    write_shard(path, "key", RECORDS, [_with_regions(3, 0), _with_regions(2, 1)])
    _forge(path, {name: change}, checked=checked)
    with pytest.raises(InputError, match="a.safetensors: damaged"):
        _read_all(path)


@pytest.mark.parametrize(
    "records",
    [
        {},
        [[]],
        [["a.jpg", 3, "extracted"]],
        [["a.jpg"] * 7],
        [["a.jpg", 3, "extracted", "", 1, 2, None], RECORDS[2]],
        [["a.jpg", True, "extracted"], RECORDS[2]],
        [[7, 3, "extracted"], RECORDS[2]],
        [["a.jpg", 3, "done"], RECORDS[2]],
        [["a.jpg", 3, "extracted"] + [""] * 9, RECORDS[2]],
        RECORDS[1:2],
        [RECORDS[0]] * 3,
    ],
)
def test_records_that_are_none_are_refused(written, records):
    path, _ = written
    _forge(path, {}, records=records)
    with pytest.raises(InputError, match="a.safetensors: damaged"):
        open_shard(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["global_descriptors", "descriptors", "locations"])
def test_features_that_are_not_finite_are_not_read(written, name, value):
    path, _ = written

    def spoil(array):
        array[-1] = value
        return array

    _forge(path, {name: spoil}, checked=False)
    shard = open_shard(path)
    read_features(shard, 0)
    with pytest.raises(InputError, match="features that are not finite numbers"):
        read_features(shard, 1)
