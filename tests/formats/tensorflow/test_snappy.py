import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.formats.tensorflow import snappy, wire
from tests.helpers import tensorflow_files

REPETITIVE = st.lists(st.sampled_from([b"abcd", b"x", b"\0" * 70, b"abcde"])).map(
    b"".join
)


@given(st.binary(max_size=400) | REPETITIVE)
def test_what_was_compressed_comes_back(data):
    assert snappy.decompress(tensorflow_files.compress(data)) == data


@given(st.binary(max_size=5000) | REPETITIVE)
def test_blocks_of_another_writer_come_back(data):
    pyarrow = pytest.importorskip("pyarrow", reason="the other writer is pyarrow's")
    compressed = pyarrow.Codec("snappy").compress(data, asbytes=True)
    assert snappy.decompress(compressed) == data


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        (b"\x00a", b"a"),
        (b"\xf0\x01ab", b"ab"),  # the length of a literal in one byte,
        (b"\xf4\x01\0ab", b"ab"),  # in two,
        (b"\xf8\x01\0\0ab", b"ab"),  # three
        (b"\xfc\x01\0\0\0ab", b"ab"),  # and four.
        (b"\x08abc" + b"\x05\x03", b"abcabcab"),  # a copy with an offset of 11 bits,
        (b"\x08abc" + b"\x12\x01\0", b"abcccccc"),  # of two bytes
        (b"\x08abc" + b"\x0f\x02\0\0\0", b"abcbcbc"),  # and of four.
    ],
)
def test_each_kind_of_element_is_understood(elements, expected):
    assert (
        snappy.decompress(tensorflow_files.varint(len(expected)) + elements) == expected
    )


def test_a_copy_reaches_more_than_a_byte_back():
    start = bytes(range(256)) * 2
    data = tensorflow_files.varint(516) + tensorflow_files.literal(start) + b"\x21\xff"
    assert snappy.decompress(data) == start + start[-511:-507]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"\x02\x00a", "shorter than its length"),
        (b"\x01\x04ab", "longer than its length"),
        (b"\x05\x08ab", "literal .* cut off"),
        (b"\x05\xf4\x01", "cut off"),
        (b"\x05\x00a\x05", "cut off"),
        (b"\x05\x00a\x05\x02", "before its beginning"),
        (b"\x05\x00a\x05\x00", "before its beginning"),
        (b"\xff\xff\xff\xff\x0f\x00a", "larger than possible"),
    ],
)
def test_broken_blocks_are_malformed(data, reason):
    with pytest.raises(wire.Malformed, match=reason):
        snappy.decompress(data)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_bounded_answer_or_are_malformed(data):
    try:
        assert len(snappy.decompress(data)) <= 22 * len(data)
    except wire.Malformed:
        pass
