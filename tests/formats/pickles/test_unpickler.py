import collections
import io
import mmap
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.pickles import arrays, unpickler

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Call:
    """Pickled as a call of any function: what an attacker writes."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def plain():
    shared = [1, 2.5, None, True, False, (), (1,), (1, 2), (1, 2, 3, 4), b"xy", "üé"]
    return {
        "shared": shared,
        "again": shared,
        7: {"long": list(range(2000)), "large": 2**70, "negative": -5},
        "text": "a'\"\n\\" * 100,
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back_as_it_was(protocol):
    allowed = arrays.NUMPY  # Bytes of protocol 2 are made by a call.
    loaded = unpickler.load(pickle.dumps(plain(), protocol), allowed)
    assert loaded == plain()
    assert loaded["shared"] is loaded["again"]


@pytest.mark.golden
def test_a_published_ground_truth_is_plain_data(golden):
    path = golden / "revisited" / "gnd_roxford5k.pkl"
    with open(path, "rb") as file:
        loaded = unpickler.load(file, {}, name=path.name)
    assert loaded == pickle.loads(path.read_bytes())


def test_ordered_dicts_become_dicts_without_their_attributes():
    ordered = collections.OrderedDict(b=1, a=[2])
    ordered._metadata = {"version": 1}
    for protocol in PROTOCOLS[2:]:
        loaded = unpickler.load(pickle.dumps(ordered, protocol), unpickler.DICTS)
        assert type(loaded) is dict and list(loaded.items()) == [("b", 1), ("a", [2])]


def test_a_stream_of_several_pickles_is_read_one_by_one(tmp_path):
    path = tmp_path / "two"
    path.write_bytes(pickle.dumps("first", 2) + pickle.dumps("second", 4) + b"rest")
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        for stream in (io.BytesIO(path.read_bytes()), mapped):
            assert unpickler.load(stream, {}) == "first"
            assert unpickler.load(stream, {}) == "second"
            assert stream.read() == b"rest"


def test_persistent_ids_go_to_the_caller():
    for pickled in (b"P17\n.", b"X\x02\x00\x00\x0017Q."):
        assert unpickler.load(pickled, {}, persistent_load=int) == 17
        with pytest.raises(InputError, match="outside"):
            unpickler.load(pickled, {})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "refused"),
    [
        (os.system, os.system.__module__ + ".system"),
        (eval, "eval"),
        (exec, "exec"),
        (getattr, "getattr"),
        (__import__, "__import__"),
        (bytes.fromhex, "getattr|bytes"),
        (np.load, "numpy"),
        (np.frombuffer, "frombuffer"),
        (collections.OrderedDict.fromkeys, "getattr|OrderedDict"),
        (set, "set"),
        (bytearray, "bytearray"),
        (complex, "complex"),
        (open, "open"),
    ],
)
def test_no_other_function_is_called(protocol, function, refused, tmp_path):
    trace = tmp_path / "trace"
    pickled = pickle.dumps(Call(function, f"touch {trace}"), protocol)
    allowed = arrays.NUMPY | unpickler.DICTS
    with pytest.raises(InputError, match=refused) as error:
        unpickler.load(pickled, allowed, name="gnd.pkl")
    assert str(error.value).startswith("gnd.pkl: ") and "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["ndarray.tofile", "dtype.__class__", "core.multiarray.os.system"]
)
def test_dotted_names_lead_nowhere(name):
    text = b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
    with pytest.raises(InputError, match=f"numpy.{name}"):
        unpickler.load(text, arrays.NUMPY)


@pytest.mark.parametrize(
    "operations",
    [
        b"(i__builtin__\neval\n.",  # INST
        b"(c__builtin__\neval\no.",  # OBJ
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x04cnumpy\nndarray\n)}\x92.",  # NEWOBJ_EX
        b"\x82\x01.",  # EXT1
        b"\x80\x04\x8f.",  # EMPTY_SET
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"cnumpy\nndarray\n}b.",  # BUILD of a function
        b"cnumpy\nndarray\n)R.",  # a call of ndarray
        b"I1\n)R.",  # a call of a number
        b"cnumpy\ndtype\nI1\nR.",  # a call with what is no tuple
    ],
)
def test_objects_are_not_made(operations):
    with pytest.raises(InputError, match="not a valid pickle|needs"):
        unpickler.load(operations, arrays.NUMPY)


def test_memo_numbers_are_no_sizes():
    text = b"Nr\xfe\xff\xff\xff0j\xfe\xff\xff\xff."  # put at 4294967294, get it back
    assert unpickler.load(text, {}) is None
    with pytest.raises(InputError, match="not a valid pickle"):
        unpickler.load(b"j\xfe\xff\xff\xff.", {})


def test_calls_that_multiply_items_are_refused():
    pairs = (
        b"\x80\x02(" + b"".join(b"K%cK\x00\x86" % i for i in range(256)) + b"lq\x000"
    )
    bomb = pairs + b"ccollections\nOrderedDict\nh\x00\x85R0" * 1000 + b"N."
    with pytest.raises(InputError, match="more items than it has"):
        unpickler.load(bomb, unpickler.DICTS)


@pytest.mark.parametrize("open_, close", [(b"(", b"t"), (b"(", b"l"), (b"N", b"\x85")])
def test_deep_nesting_is_refused(open_, close):
    deep = open_ * 20_000 + close * 20_000 + b"."
    if open_ == b"N":
        deep = b"N" + close * 20_000 + b"."
    with pytest.raises(InputError, match="deeper"):
        unpickler.load(deep, {})


def test_a_deep_tuple_is_not_a_key():
    deep = b"}N" + b"\x85" * 20_000 + b"Ns."
    with pytest.raises(InputError, match="key"):
        unpickler.load(deep, {})


def test_a_list_within_itself_is_refused():
    endless: list = []
    endless.append(endless)
    for protocol in PROTOCOLS:
        with pytest.raises(InputError, match="in itself"):
            unpickler.load(pickle.dumps(endless, protocol), {})


def test_lists_of_lists_that_explode_when_walked_are_refused():
    value: list = []
    for _ in range(30):
        value = [value] * 10
    with pytest.raises(InputError, match="items"):
        unpickler.load(pickle.dumps(value), {})


def test_endless_operations_are_refused(monkeypatch):
    monkeypatch.setattr(unpickler, "MAX_OPERATIONS", 1000)
    with pytest.raises(InputError, match="operations"):
        unpickler.load(b"}" * 2000 + b".", {})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cut_or_flipped_byte_gives_an_error_of_ours_or_other_data(protocol):
    value = {"a": [1, (2.0, "b")], "x": np.arange(3.0), "s": np.float32(2)}
    sound = pickle.dumps(value, protocol)
    for cut in range(len(sound)):
        with pytest.raises(InputError):
            unpickler.load(sound[:cut], arrays.NUMPY)
    for place in range(len(sound)):
        for flipped in (1, 32, 255):
            damaged = bytearray(sound)
            damaged[place] ^= flipped
            try:
                unpickler.load(bytes(damaged), arrays.NUMPY)
            except InputError:
                pass


def test_every_operation_is_read_or_refused_by_name():
    names = {operation.name for operation in pickletools.opcodes}
    assert set(unpickler._OPERATIONS) < names
    assert names - set(unpickler._OPERATIONS) == {
        *("STOP", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
        *("EMPTY_SET", "ADDITEMS", "FROZENSET", "NEXT_BUFFER", "READONLY_BUFFER"),
    }


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
