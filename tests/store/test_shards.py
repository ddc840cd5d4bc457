"""Shards: what is written is read, by others too, and damage is noticed."""

import numpy as np
import pytest
import safetensors.numpy

from delf_jax.features import Features, LocalFeatures
from delf_jax.files import InputError
from delf_jax.store.shards import (
    Record,
    open_shard,
    read_counts,
    read_features,
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
