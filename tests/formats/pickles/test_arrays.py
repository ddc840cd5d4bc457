import pickle
import struct

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.pickles import arrays, unpickler

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(3, dtype=">f4"),
        np.array([True, False]),
        np.array(2, np.uint8),
        np.zeros((0, 3), np.float16),
        np.arange(256, dtype=np.uint8),
        np.float32(1.5),
        np.int64(-7),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_as_they_were(protocol, array):
    pickled = pickle.dumps([array, array], protocol)
    loaded, same = unpickler.load(pickled, arrays.NUMPY)
    np.testing.assert_array_equal(loaded, array, strict=array.dtype.isnative)
    assert same is loaded
    with pytest.raises(InputError, match=r"numpy\S*\.core|numpy\._core"):
        unpickler.load(pickled, {})


def test_arrays_of_numpy_before_2_come_back():
    pickled = pickle.dumps(np.arange(3.0), 4).replace(b"numpy._core", b"numpy.core")
    pickled = pickled.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
    pickled = pickled.replace(b"\x95", b"", 1).replace(pickled[3:11], b"", 1)
    assert b"\x8c\x15numpy.core.multiarray" in pickled
    loaded = unpickler.load(pickled, arrays.NUMPY)
    np.testing.assert_array_equal(loaded, np.arange(3.0))


@pytest.mark.parametrize(
    "raw", [b"U\x08" + struct.pack("<f", -1.1) * 2, b"S'" + b"\\xcd\\xcc\\x8c\\xbf" * 2]
)
def test_arrays_of_python_2_come_back(raw):
    if raw.startswith(b"S"):
        raw += b"'\n"
    pickled = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\n" + raw + b"tb."
    )
    loaded = unpickler.load(pickled, arrays.NUMPY)
    np.testing.assert_array_equal(loaded, np.float32([-1.1, -1.1]), strict=True)


def test_the_dtypes_of_numpy_itself_stay_as_they_are():
    swapped = pickle.dumps(np.arange(3, dtype=">f4"), 2)
    unpickler.load(swapped, arrays.NUMPY)
    assert np.dtype("f4").isnative and np.dtype(np.float32).isnative


@pytest.mark.parametrize("code", [b"O8", b"S9", b"V8", b"U1", b"f4,O", b"M8", b"c16"])
def test_arrays_of_anything_but_numbers_are_refused(code):
    text = b"cnumpy\ndtype\n(S'" + code + b"'\nI0\nI1\ntR."
    with pytest.raises(InputError, match="plain numbers"):
        unpickler.load(text, arrays.NUMPY)


@pytest.mark.parametrize(
    "array", [np.array([{}], object), np.zeros(2, [("a", "f4"), ("b", "i4")])]
)
def test_object_and_structured_arrays_are_refused(array):
    for protocol in PROTOCOLS:
        with pytest.raises(InputError, match="plain numbers"):
            unpickler.load(pickle.dumps(array, protocol), arrays.NUMPY)


@pytest.mark.parametrize("shape", [b"(I2\nt", b"(I-3\nt", b"(I9999999999\nt", b"I3\n"])
def test_an_array_is_as_large_as_its_bytes(shape):
    sound = pickle.dumps(np.arange(3, dtype=np.uint8), 0)
    assert b"(I3\ntp" in sound
    with pytest.raises(InputError, match="not a valid pickle"):
        unpickler.load(sound.replace(b"(I3\nt", shape, 1), arrays.NUMPY)


def test_calls_that_multiply_bytes_are_refused():
    text = b"\x80\x02X\x00\x00\x10\x00" + b"a" * 2**20 + b"q\x000"
    bomb = text + b"c_codecs\nencode\nh\x00U\x06latin1\x86R0" * 1000 + b"N."
    with pytest.raises(InputError, match="more bytes than it has"):
        unpickler.load(bomb, arrays.NUMPY)
