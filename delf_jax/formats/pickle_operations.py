"""The operations of a pickle, taken from a stream one by one, none of them done."""

import codecs
import io
import mmap
import pickletools
import re
from collections.abc import Callable, Container, Iterator
from typing import Any


def read_operations(
    stream: io.BytesIO | mmap.mmap, known: Container[str]
) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the operations; ValueError where the pickle is cut.

    Such streams take no memory for bytes that they do not have. Arguments of operations
    that are not `known` are not read: what follows one means nothing.
    """
    while True:
        code = stream.read(1)
        operation = pickletools.code2op.get(code.decode("latin-1"))
        if operation is None:
            raise ValueError(f"unknown operation {code!r}" if code else "cut short")
        reader = operation.arg and operation.arg.reader
        if reader and operation.name in known:
            yield operation.name, _READERS.get(operation.name, reader)(stream)
        else:
            yield operation.name, None


def _read_line(stream: io.BytesIO | mmap.mmap) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("cut short")
    return line[:-1].decode("ascii")


def _read_string(stream: io.BytesIO | mmap.mmap) -> str:
    """A literal of Python 2, whose bytes are read as latin-1."""
    line = _read_line(stream)
    if len(line) < 2 or line[0] != line[-1] or not _LITERAL.fullmatch(line[1:-1]):
        raise ValueError(f"{line:.40} is no string")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


# Possessive, or a string of many escapes could be tried in very many ways.
_LITERAL = re.compile(
    r"""(?:[^\\]++|\\(?>[\\'"abfnrtv]|x[0-9a-f]{2}|[0-3]?[0-7]{1,2}))*+"""
)
# Those of pickletools know no latin-1, or put two arguments into one text.
_READERS: dict[str, Callable[[Any], Any]] = {
    "STRING": _read_string,
    "GLOBAL": lambda stream: (_read_line(stream), _read_line(stream)),
    "PERSID": _read_line,
}
