import io
import pickle
import pickletools
import struct

import pytest

from delf_jax.files import InputError
from delf_jax.formats.pickles import unpickler


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_operations_are_those_that_pickletools_finds(protocol):
    value = {"a": [1, 2.5, None, (True, b"x", "y" * 300)], "n": -(2**70)}
    text = pickle.dumps(value, protocol)
    found = pickletools.genops(text)
    expected = [(operation.name, argument) for operation, argument, _ in found]
    known = {operation.name for operation in pickletools.opcodes}
    read = unpickler.read_operations(io.BytesIO(text), known)
    for name, argument in expected:
        if name == "GLOBAL":
            argument = tuple(argument.split(" "))
        assert next(read) == (name, argument)


def test_text_of_python_2_is_read_as_latin_1():
    assert unpickler.load(b"(lp0\nU\x02\xe9aaS'\\xe9'\na.", {}) == ["éa", "é"]


@pytest.mark.parametrize(
    "operations",
    [
        b"B\xff\xff\xff\x7fab",  # BINBYTES
        b"\x8e" + b"\xff" * 7 + b"\x0fab",  # BINBYTES8
        b"\x96" + b"\xff" * 7 + b"\x0fab",  # BYTEARRAY8
        b"X\xff\xff\xff\xffab",  # BINUNICODE
        b"\x8d" + b"\xff" * 7 + b"\x0fab",  # BINUNICODE8
        b"T\xff\xff\xff\x7fab",  # BINSTRING
        b"\x8b\xff\xff\xff\x7fab",  # LONG4
        b"\x80\x04\x95" + b"\xff" * 8 + b"N.",  # FRAME
        b"\x80\x04\x95" + struct.pack("<Q", 1000) + b"N.",
        b"S'never closed",
        b"I12",
        b"L" + b"9" * 5000 + b"L\n.",
    ],
)
def test_declared_lengths_beyond_the_data_are_refused(operations):
    with pytest.raises(InputError, match="not a valid pickle"):
        unpickler.load(operations, {})


def test_a_string_of_many_escapes_is_refused_at_once():
    with pytest.raises(InputError, match="not a string"):
        unpickler.load(b"S'" + b"\\111" * 1000 + b"\\q'\n.", {})
