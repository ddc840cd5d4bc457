"""MAT-files without scipy."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from delf_jax.files import InputError
from delf_jax.formats.matlab import MAX_BYTES, read_mat


def plain(value):
    """What scipy reads, in lists, dicts, str and arrays."""
    if isinstance(value, np.ndarray) and value.dtype.names:
        return [
            {name: plain(each[name]) for name in value.dtype.names}
            for each in value.ravel(order="F")
        ]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(each) for each in value.ravel(order="F")]
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return str(value[0]) if value.size else ""
    return value


def assert_same(one, other):
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, str):
        assert one == other
    else:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def cells(*values) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def small(request, tmp_path):
    """A small file of every type."""
    path = tmp_path / "small.mat"
    content = {
        "a": np.array([[1.0, 2.5], [3, 4]]),
        "bytes": np.array([1, 200], np.uint8),
        "wide": np.array([[2**40]], np.int64),
        "single": np.array([0.5], np.float32),
        "text": "köln",
        "empty": np.zeros((0, 0)),
        "list": cells("one", np.array([[3]], np.int16), cells("a", "")),
        "gnd": np.array(
            [(np.array([[1.0, 2]]), "x"), (np.zeros((0, 0)), "yy")],
            dtype=[("easy", object), ("name", object)],
        ),
    }
    scipy.io.savemat(path, content, do_compression=request.param)
    return path


def test_everything_is_read_as_scipy_reads_it(small):
    found = read_mat(small)
    expected = scipy.io.loadmat(small, chars_as_strings=True)
    names = [name for name in expected if not name.startswith("__")]
    assert list(found) == names
    for name in names:
        assert_same(found[name], plain(expected[name]))


@pytest.mark.golden
def test_a_ground_truth_is_read_as_scipy_reads_it(golden):
    path = golden / "revisited" / "gnd_synthetic.mat"
    expected = scipy.io.loadmat(path)
    for name, value in read_mat(path).items():
        assert_same(value, plain(expected[name]))


def test_every_changed_or_cut_byte_gives_data_or_our_own_error(small):
    data = bytearray(small.read_bytes())
    refused = 0
    for place in range(116, len(data)):
        changed = data.copy()
        changed[place] ^= 0xFF if place % 3 == 0 else 1 << place % 8
        small.write_bytes(changed)
        try:
            read_mat(small)
        except InputError as error:
            assert str(small) in str(error)
            refused += 1
    for length in range(len(data)):
        small.write_bytes(data[:length])
        try:
            read_mat(small)
        except InputError:
            refused += 1
    assert refused > len(data) / 2


def matrix(kind: int, *parts: bytes, shape=(1, 1), name=b"x", flags=0) -> bytes:
    def element(number: int, content: bytes) -> bytes:
        padding = bytes(-len(content) % 8)
        return struct.pack("<II", number, len(content)) + content + padding

    inside = element(6, struct.pack("<II", kind | flags, 0))
    inside += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    return element(14, inside + b"".join(element(n, c) for n, c in parts))


def write(tmp_path, content: bytes):
    path = tmp_path / "made.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (matrix(1, shape=(1 << 30, 1 << 20)), "0 cells in an array of shape"),
        (matrix(2, (5, bytes(4)), (1, b"")), "names of a struct's fields are cut"),
        (matrix(2, (5, b"\2\0\0\0"), (1, b"a\0a\0")), "names a field twice"),
        (matrix(2, (5, b"\2\0\0\0"), (1, b"")), "a struct without fields"),
        (matrix(4, (17, b"a\0b\0"), shape=(2, 1)), "text of 2 characters"),
        (matrix(6, (9, bytes(8)), shape=(-1, -1)), "negative size"),
        (matrix(6, (9, bytes(8)), (9, bytes(8)), flags=1 << 11), "complex"),
        (matrix(3), "arrays of class 3"),
        (matrix(6, (9, bytes(16)), shape=(1, 1)), "cannot reshape"),
        (matrix(1, (9, bytes(8))), "a cell that is not an array"),
        (
            struct.pack("<II", 9, 8) + bytes(8),
            "expected an array, got an element of type 9",
        ),
        (struct.pack("<II", 14, 1 << 31), "longer than the file"),
        (struct.pack("<HHI", 14, 5, 0), "expected at most 4 bytes, got 5"),
    ],
)
def test_what_is_damaged_or_not_read_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=f"made.mat: damaged .*{message}"):
        read_mat(path)


def test_bombs_do_not_go_off(tmp_path):
    packed = zlib.compress(matrix(6, (9, bytes(MAX_BYTES)), shape=(1, MAX_BYTES // 8)))
    path = write(tmp_path, struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(InputError, match="larger than 67108864 bytes"):
        read_mat(path)
    deep = matrix(6, (9, bytes(8)))
    for _ in range(20):
        deep = matrix(1, (14, deep[8:]))
    with pytest.raises(InputError, match="nested deeper"):
        read_mat(write(tmp_path, deep))


def test_other_files_are_known_by_their_head(tmp_path):
    path = tmp_path / "other.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(600))
    with pytest.raises(InputError, match="version 7.3; save it with -v7"):
        read_mat(path)
    path.write_bytes(b"no MAT-file")
    with pytest.raises(InputError, match="not a little-endian MAT-file"):
        read_mat(path)
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="bytes, expected at most"):
        read_mat(path)
    with pytest.raises(InputError, match="no such file"):
        read_mat(tmp_path / "nowhere.mat")
    with pytest.raises(InputError, match="cannot be read"):
        read_mat(tmp_path)
