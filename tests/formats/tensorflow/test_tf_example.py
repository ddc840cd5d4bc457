"""The wire format of tf.train.Example."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.formats.tensorflow.tf_example import parse_example, serialize_example


def plain(features) -> dict:
    return {
        name: [v if isinstance(v, int) else bytes(v) for v in values]
        for name, values in features.items()
    }


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=9),
        st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=300),
        max_size=5,
    )
)
def test_what_is_written_is_read(features):
    data = memoryview(serialize_example(features))
    assert plain(parse_example(data)) == {name: [v] for name, v in features.items()}


def test_what_tensorflow_wrote_is_read():
    # By TensorFlow 2.21: a has two strings, b two integers, f floats, n nothing.
    data = bytes.fromhex(
        "0a3c0a0e0a016112090a070a01780a02797a0a140a0162120f1a0d0a0b03ffffffffffffffff"
        "ff010a0d0a0166120812060a040000003f0a050a016e1200"
    )
    assert plain(parse_example(memoryview(data))) == {
        "a": [b"x", b"yz"],
        "b": [3, -1],
        "f": [],
        "n": [],
    }


def test_integers_may_stand_one_by_one():
    unpacked = b"\x0a\x01\x61\x12\x06\x1a\x04\x08\x05\x08\x07"
    data = b"\x0a" + bytes([len(unpacked) + 2]) + b"\x0a" + bytes([len(unpacked)])
    assert plain(parse_example(memoryview(data + unpacked))) == {"a": [5, 7]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x05\x0a", "longer than what holds it"),
        (b"\x0b", "wire type 3"),
        (b"\x0a", "a number is cut off"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x0d\x00", "longer than what holds it"),
        (b"\x0a\x05\x0a\x03\x0a\x01\xff", "not UTF-8"),
    ],
)
def test_what_is_not_a_message_is_a_value_error(data, message):
    with pytest.raises(ValueError, match=message):
        parse_example(memoryview(data))


def test_every_changed_or_cut_byte_gives_features_or_a_value_error():
    whole = serialize_example({"image/id": b"abc", "image/height": 480, "x": b"\0" * 9})
    damaged = [whole[:length] for length in range(len(whole))]
    for place in range(len(whole)):
        for value in range(0, 256, 5):
            damaged.append(whole[:place] + bytes([value]) + whole[place + 1 :])
    refused = 0
    for data in damaged:
        try:
            parse_example(memoryview(data))
        except ValueError:
            refused += 1
    assert refused > len(whole)
