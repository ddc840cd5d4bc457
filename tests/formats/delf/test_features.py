import os

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.delf.features import (
    DelfFeatures,
    encode_delf_features,
    read_delf_features,
    write_delf_features,
)
from delf_jax.formats.protos import feature_pb2
from tests.formats.delf.test_datum import assert_all_damage_is_survived

STORED = ("locations_yx", "scales", "descriptors", "attention", "orientations")


def draw(rng, count=5, depth=7) -> DelfFeatures:
    shapes = (count, 2), count, (count, depth), count, count
    return DelfFeatures(
        *(rng.normal(size=shape).astype(np.float32) for shape in shapes)
    )


def assert_equal(ours: DelfFeatures, theirs: DelfFeatures):
    for array, expected in zip(ours, theirs, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected)


def write_one_by_one(features: DelfFeatures, leave_out: str = "") -> bytes:
    """The features as a program without numpy would write them."""
    message = feature_pb2.DelfFeatures()
    rows = zip(*features, strict=True)
    for (y, x), scale, descriptor, attention, orientation in rows:
        values = dict(x=x, y=y, scale=scale, orientation=orientation)
        values["strength"] = attention
        values.pop(leave_out, None)
        feature = message.feature.add(**{k: float(v) for k, v in values.items()})
        feature.descriptor.shape.dim.append(len(descriptor))
        feature.descriptor.float_list.value.extend(descriptor.tolist())
    return message.SerializeToString()


@pytest.mark.golden
@pytest.mark.parametrize("name", ["features", "features_with_orientation"])
def test_features_are_the_originals_both_ways(golden, tmp_path, name):
    path = golden / "formats" / f"{name}.delf"
    stored = np.load(golden / "formats" / "formats.npz")
    features = read_delf_features(path)
    theirs = DelfFeatures(*(stored[f"{name}.delf/{field}"] for field in STORED))
    assert_equal(features, theirs)
    write_delf_features(tmp_path / "again", features)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.golden
def test_an_image_without_features_is_an_empty_file(golden, tmp_path):
    path = golden / "formats" / "features_empty.delf"
    features = read_delf_features(path)
    shapes = [array.shape for array in features]
    assert shapes == [(0, 2), (0,), (0, 0), (0,), (0,)]
    write_delf_features(tmp_path / "again", features)
    assert (tmp_path / "again").read_bytes() == path.read_bytes() == b""


@pytest.mark.golden
@pytest.mark.parametrize("name", ["features", "features_with_orientation"])
def test_no_damaged_byte_is_more_than_an_error(golden, monkeypatch, name):
    data = (golden / "formats" / f"{name}.delf").read_bytes()
    assert_all_damage_is_survived(data, read_delf_features, monkeypatch)


@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize("depth", [0, 1, 3, 40, 128, 1024, 5000])
def test_records_are_what_protobuf_writes(rng, tmp_path, count, depth):
    features = draw(rng, count, depth)
    data = write_one_by_one(features)
    assert encode_delf_features(features) == data
    (tmp_path / "a").write_bytes(data)
    assert_equal(read_delf_features(tmp_path / "a"), features)


def test_without_orientations_zeros_are_written(rng):
    features = draw(rng)
    without = encode_delf_features(features._replace(orientations=None))
    zeros = features._replace(orientations=np.zeros_like(features.scales))
    assert without == encode_delf_features(zeros)


def test_what_others_lay_out_differently_is_read_one_by_one(rng, tmp_path):
    features = draw(rng)
    (tmp_path / "a").write_bytes(write_one_by_one(features, leave_out="orientation"))
    zeros = features._replace(orientations=np.zeros_like(features.scales))
    assert_equal(read_delf_features(tmp_path / "a"), zeros)
    # A field that a later version of the original might add.
    message = feature_pb2.DelfFeatures.FromString(write_one_by_one(features))
    extended = message.feature[3].SerializeToString() + b"\x3d\0\0\0\0"
    message.feature[3].ParseFromString(extended)
    (tmp_path / "a").write_bytes(message.SerializeToString())
    assert_equal(read_delf_features(tmp_path / "a"), features)


def test_descriptors_of_different_lengths_are_refused(rng, tmp_path):
    data = write_one_by_one(draw(rng, 2, 3)) + write_one_by_one(draw(rng, 2, 4))
    (tmp_path / "a.delf").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.delf: damaged: .* differ in length"):
        read_delf_features(tmp_path / "a.delf")


def test_numbers_of_features_that_disagree_are_refused(rng):
    features = draw(rng)
    with pytest.raises(ValueError, match="broadcast"):
        encode_delf_features(features._replace(scales=features.scales[:3]))


@pytest.mark.parametrize("field", DelfFeatures._fields)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(rng, tmp_path, field, value):
    features = draw(rng)
    getattr(features, field)[3] = value
    for data in (encode_delf_features(features), write_one_by_one(features)):
        (tmp_path / "a.delf").write_bytes(data)
        with pytest.raises(InputError, match=f"a.delf: has {field} that are not fin"):
            read_delf_features(tmp_path / "a.delf")


def test_a_fifo_named_like_features_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.delf")
    with pytest.raises(InputError, match="a.delf: cannot be read"):
        read_delf_features(tmp_path / "a.delf")
