import contextlib
import pathlib
import resource

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.delf import datum, messages
from delf_jax.formats.protos.datum_pb2 import DatumProto

SINGLE = [
    *("float_vector", "float_matrix", "float_3d", "float_empty", "float_special"),
    *("float_scalar", "float_empty_rows", "uint8_vector", "uint8_matrix"),
    *("uint16", "uint32"),
]
PAIRS = ["pair.asmk", "pair.asmk_star", "pair_empty.asmk_star"]


def damaged(data: bytes):
    """The bytes with each one flipped in several ways, and cut at each place."""
    for place in range(len(data)):
        yield data[:place]
        for flip in (0x01, 0x02, 0x04, 0x08, 0x10, 0x40, 0x80, 0xFF):
            yield data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]


@contextlib.contextmanager
def little_memory(room: int = 2**28):
    """Allocations of more than `room` bytes fail."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def assert_all_damage_is_survived(data, read, monkeypatch):
    """`read` gives arrays or an InputError for every damaged form of the bytes."""
    outcomes, files = [], {}
    monkeypatch.setattr(messages, "read_bytes", files.__getitem__)
    with little_memory():
        for broken in damaged(data):
            files["broken"] = broken
            try:
                outcomes.append(sum(array.nbytes for array in read("broken")))
            except InputError:
                outcomes.append(-1)
    assert len(outcomes) == 9 * len(data)
    assert min(outcomes) == -1 and max(outcomes) <= 8 * len(data)


@pytest.mark.golden
@pytest.mark.parametrize("name", [f"{name}.datum" for name in SINGLE])
def test_datums_are_the_originals_both_ways(golden, tmp_path, name):
    theirs = np.load(golden / "formats" / "formats.npz")[name]
    ours = datum.read_datum(golden / "formats" / name)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert ours.tobytes() == theirs.tobytes()  # NaN and -0 included
    narrow = {"uint8": np.uint8, "uint16": np.uint16}.get(name.split("_")[0][:6])
    for array in (ours, ours.astype(narrow or ours.dtype)):
        datum.write_datum(tmp_path / name, array)
        written = (tmp_path / name).read_bytes()
        assert written == (golden / "formats" / name).read_bytes()


@pytest.mark.golden
def test_global_descriptors_are_the_originals_both_ways(golden, tmp_path):
    path = golden / "formats" / "global.delg_global"
    descriptor = datum.read_datum(path)
    assert descriptor.shape == (2048,)
    datum.write_datum(tmp_path / "again", descriptor)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.golden
def test_of_uint64_the_lower_half_is_stored_as_in_the_original(golden, tmp_path):
    stored = np.load(golden / "formats" / "formats.npz")
    low_high = stored["uint64_truncated.input_low_high"].astype(np.uint64)
    values = low_high[:, 0] | low_high[:, 1] << np.uint64(32)
    datum.write_datum(tmp_path / "a", values)
    expected = (golden / "formats" / "uint64_truncated.datum").read_bytes()
    assert (tmp_path / "a").read_bytes() == expected


@pytest.mark.golden
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_the_originals_both_ways(golden, tmp_path, name):
    stored = np.load(golden / "formats" / "formats.npz")
    pair = datum.read_datum_pair(golden / "formats" / name)
    for array, half in zip(pair, ("first", "second"), strict=True):
        assert array.dtype == stored[f"{name}/{half}"].dtype
        np.testing.assert_array_equal(array, stored[f"{name}/{half}"])
    if "star" in name:
        pair = pair[0].astype(np.uint8), pair[1]
    datum.write_datum_pair(tmp_path / name, *pair)
    written = (tmp_path / name).read_bytes()
    assert written == (golden / "formats" / name).read_bytes()


@pytest.mark.golden
@pytest.mark.parametrize("name", [f"{name}.datum" for name in SINGLE])
def test_no_damaged_byte_of_a_datum_is_more_than_an_error(golden, monkeypatch, name):
    data = (golden / "formats" / name).read_bytes()
    assert_all_damage_is_survived(data, lambda p: [datum.read_datum(p)], monkeypatch)


@pytest.mark.golden
@pytest.mark.parametrize("name", PAIRS)
def test_no_damaged_byte_of_a_pair_is_more_than_an_error(golden, monkeypatch, name):
    data = (golden / "formats" / name).read_bytes()
    assert_all_damage_is_survived(data, datum.read_datum_pair, monkeypatch)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.uint64])
def test_values_come_back_in_the_two_dtypes_that_files_have(tmp_path, dtype, rng):
    array = rng.integers(0, 200, (3, 4, 5)).astype(dtype)
    datum.write_datum(tmp_path / "a", array)
    found = datum.read_datum(tmp_path / "a")
    assert found.dtype == (np.float32 if array.dtype.kind == "f" else np.uint32)
    np.testing.assert_array_equal(found, array.astype(found.dtype))
    found[0, 0, 0] = 0  # An array of its own.


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.complex64, object, "U1"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    with pytest.raises(InputError, match="cannot be stored"):
        datum.write_datum(tmp_path / "a", np.zeros(2, dtype))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ([3], "does not fit 2 values"),
        ([-1, -2], "does not fit"),
        ([2**62, 2**62], "does not fit"),
        ([1] * 40 + [2], "does not fit"),
        ([], "does not fit"),
    ],
)
def test_a_shape_that_the_values_do_not_fill_is_refused(tmp_path, dims, words):
    message = DatumProto()
    message.shape.dim.extend(dims)
    message.float_list.value.extend([1, 2])
    (tmp_path / "a").write_bytes(message.SerializeToString())
    with pytest.raises(InputError, match=f"a: damaged: .*{words}"):
        datum.read_datum(tmp_path / "a")


def test_a_shape_too_large_for_numpy_is_refused(tmp_path):
    message = DatumProto()
    message.shape.dim.extend([0, 2**62, 2**62])
    message.float_list.SetInParent()
    (tmp_path / "a").write_bytes(message.SerializeToString())
    with pytest.raises(InputError, match="no array has such a shape"):
        datum.read_datum(tmp_path / "a")


def test_lists_that_are_not_packed_are_read_too(tmp_path):
    values = b"".join(b"\x0d" + np.float32(x).tobytes() for x in (1, 2, 3))
    unknown = b"\x12\x02hi"
    data = b"\x0a\x03\x0a\x01\x03" + b"\x12" + bytes([len(values) + 4])
    (tmp_path / "a").write_bytes(data + values + unknown)
    np.testing.assert_array_equal(
        datum.read_datum(tmp_path / "a"), np.float32([1, 2, 3])
    )
