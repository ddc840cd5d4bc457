import numpy as np
import pytest

from delf_jax.formats.tensorflow import tensor_proto, wire
from tests.helpers import tensorflow_files


def read(*fields):
    data = tensorflow_files.message(*fields)
    return tensor_proto.read_tensor(wire.parse(memoryview(data)))


def same(left, right):
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", sorted(tensorflow_files.TYPES))
def test_bytes_of_every_type_come_back(name):
    dtype = np.dtype(name) if name != "bfloat16" else tensorflow_files.BFLOAT16
    array = np.array([[1, 0, 3], [0, 5, 6]]).astype(dtype)
    message = wire.parse(memoryview(tensorflow_files.tensor(array)))
    same(tensor_proto.read_tensor(message), array)


@pytest.mark.parametrize(
    ("number", "field", "dtype", "values"),
    [
        (1, 5, "f4", [1.5, -2]),
        (2, 6, "f8", [1e300, -2]),
        (8, 9, "c8", [1 + 2j, 3]),
        (18, 12, "c16", [1e300 + 2j, 3]),
    ],
)
def test_values_of_fixed_width_come_back(number, field, dtype, values):
    array = np.array(values, dtype)
    same(
        read((1, number), (2, tensorflow_files.shape([2])), (field, array.tobytes())),
        array,
    )


@pytest.mark.parametrize(
    ("number", "field", "dtype", "values"),
    [
        (3, 7, "i4", [-7, 2**31 - 1]),
        (4, 7, "u1", [0, 255]),
        (6, 7, "i1", [-128, 127]),
        (9, 10, "i8", [-(2**63), 5]),
        (10, 11, "?", [True, False]),
        (22, 16, "u4", [2**32 - 1, 0]),
        (23, 17, "u8", [2**64 - 1, 0]),
    ],
)
def test_values_of_any_width_come_back(number, field, dtype, values):
    packed = b"".join(map(tensorflow_files.varint, values))
    array = np.array(values, dtype)
    same(read((1, number), (2, tensorflow_files.shape([2])), (field, packed)), array)


@pytest.mark.parametrize(
    ("number", "dtype"), [(19, np.dtype("f2")), (14, tensorflow_files.BFLOAT16)]
)
def test_halves_are_stored_as_their_bits(number, dtype):
    array = np.array([1.5, -3]).astype(dtype)
    bits = b"".join(map(tensorflow_files.varint, array.view(np.uint16).tolist()))
    same(read((1, number), (2, tensorflow_files.shape([2])), (13, bits)), array)


def test_texts_come_back():
    texts = read((1, 7), (2, tensorflow_files.shape([2, 1])), (8, "ab"), (8, b"\xff"))
    assert texts.tolist() == [[b"ab"], [b"\xff"]]


def test_missing_values_are_like_the_last_or_zero():
    shape = (2, tensorflow_files.shape([2, 2]))
    three = np.array([1, 2, 3], "f4").tobytes()
    same(read((1, 1), shape, (5, three)), np.array([[1, 2], [3, 3]], "f4"))
    same(read((1, 1), shape, (5, 4.0)), np.full((2, 2), 4, "f4"))
    same(read((1, 1), shape), np.zeros((2, 2), "f4"))
    same(read((1, 1)), np.zeros((), "f4"))


def test_a_value_that_is_repeated_takes_no_memory():
    huge = read((1, 1), (2, tensorflow_files.shape([2**24])), (5, 4.0))
    assert huge.strides == (0,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([(1, 20)], "type 20"),
        ([(1, 1), (2, tensorflow_files.message((3, 1)))], "unknown rank"),
        ([(1, 1), (2, tensorflow_files.shape([-1]))], "left open"),
        ([(1, 1), (2, tensorflow_files.shape([-2]))], "no array has"),
        ([(1, 1), (2, tensorflow_files.shape([1] * 33))], "no array has"),
        ([(1, 1), (2, tensorflow_files.shape([2**40, 2**40, 0]))], "no array has"),
        (
            [(1, 1), (2, tensorflow_files.shape([2])), (4, b"123")],
            "3 bytes for float32",
        ),
        ([(1, 1), (2, tensorflow_files.shape([0])), (5, 1.0)], "1 values"),
        (
            [(1, 1), (2, tensorflow_files.shape([2**22])), (5, b"12345678")],
            "only 2 values",
        ),
        ([(1, 1), (2, tensorflow_files.shape([2**25])), (5, 4.0)], "only 1 values"),
    ],
)
def test_broken_tensors_are_malformed(fields, reason):
    with pytest.raises(wire.Malformed, match=reason):
        read(*fields)


def test_bytes_that_are_no_truth_become_one():
    truths = read((1, 10), (2, tensorflow_files.shape([3])), (4, b"\0\1\7"))
    assert truths.view(np.uint8).tolist() == [0, 1, 1]
