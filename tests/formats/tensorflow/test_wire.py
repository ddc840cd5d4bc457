import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.formats.tensorflow import wire
from tests.helpers import tensorflow_files

UINT64 = st.integers(0, 2**64 - 1)


def parse(data):
    return wire.parse(memoryview(data))


@given(UINT64)
def test_a_number_comes_back(value):
    data = tensorflow_files.varint(value)
    assert wire.read_varint(b"\xff" + data, 1) == (value, 1 + len(data))


@given(st.lists(UINT64, max_size=20))
def test_packed_numbers_come_back(values):
    packed = parse(
        tensorflow_files.message((4, b"".join(map(tensorflow_files.varint, values))))
    )
    single = parse(tensorflow_files.message(*((4, value) for value in values)))
    expected = np.array(values, np.uint64)
    np.testing.assert_array_equal(wire.packed_integers(packed, 4), expected)
    np.testing.assert_array_equal(wire.packed_integers(single, 4), expected)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_packed_floats_come_back(values):
    expected = np.array(values, "<f4")
    packed = parse(tensorflow_files.message((5, expected.tobytes())))
    single = parse(tensorflow_files.message(*((5, value) for value in values)))
    for message in (packed, single):
        read = wire.packed_floats(message, 5, np.dtype("<f4"))
        np.testing.assert_array_equal(read, expected)


def test_fields_keep_their_order_and_the_last_value_counts():
    data = tensorflow_files.message((1, 7), (2, "a"), (1, -8), (2, "é"))
    numbers = [number for number, _ in wire.fields(memoryview(data))]
    message = parse(data)
    assert numbers == [1, 2, 1, 2]
    assert wire.integer(message, 1) == -8
    assert wire.text(message, 2) == "é"
    assert wire.integer(message, 3) == 0
    assert wire.text(message, 4) == ""


def test_a_field_of_eight_bytes_is_read():
    assert parse(b"\x09\x01\0\0\0\0\0\0\x80") == {1: [0x8000000000000001]}


def test_a_map_has_its_pairs():
    pairs = [tensorflow_files.message((1, key), (2, key * 2)) for key in "ab"]
    message = parse(tensorflow_files.message(*((5, pair) for pair in pairs)))
    assert wire.mapping(message, 5) == {"a": b"aa", "b": b"bb"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08\x80",  # half a number
        b"\x08" + b"\xff" * 11,
        b"\x12\x05abcd",  # shorter than it says
        b"\x0d\0\0\0",  # three of four bytes
        b"\x0b",  # a group
        b"\x0e",  # no wire type at all
    ],
)
def test_broken_messages_are_malformed(data):
    with pytest.raises(wire.Malformed):
        parse(data)


def test_values_of_another_kind_are_malformed():
    message = parse(tensorflow_files.message((1, 7), (2, b"\xff")))
    with pytest.raises(wire.Malformed, match="field 1 is a number"):
        wire.content(message, 1)
    with pytest.raises(wire.Malformed, match="field 2 is not a number"):
        wire.integer(message, 2)
    with pytest.raises(wire.Malformed, match="UTF-8"):
        wire.text(message, 2)
    with pytest.raises(wire.Malformed, match="cut off"):
        wire.packed_integers(message, 2)
    with pytest.raises(wire.Malformed, match="whole number"):
        wire.packed_floats(message, 2, np.dtype("<f4"))


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_malformed(data):
    try:
        message = parse(data)
        for number in message:
            wire.packed_integers(message, number)
    except wire.Malformed:
        pass
