"""Pickles of others, read by a machine that can build plain data and nothing else.

A pickle is a program. This machine knows the operations of plain data, and globals that
the caller names, looked up by both names at once: no attribute is ever fetched, no
module imported. No operation takes memory that the pickle only declares.
pickle.Unpickler with a find_class of its own would guard the globals alone: not the
states that BUILD sets, nor memory for sizes, places in the memo and repetitions.
"""

import codecs
import io
import itertools
import mmap
import pickletools
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from delf_jax.files import InputError
from delf_jax.formats.pickles.arrays import array_state, dtype_state

Allowed = Mapping[tuple[str, str], Any]

# A state dict of 1000 tensors takes some 50 000; an empty dict takes 1 byte of pickle
# and 64 of memory, so that the number of operations bounds what is built.
MAX_OPERATIONS = 5_000_000
# A pickle may name one list many times: counted as often as it would be printed.
MAX_ITEMS = 10_000_000
MAX_DEPTH = 64
_CONTAINERS = (dict, list, tuple)
_KEYS = (str, bytes, int, float, type(None))


class _Machine(NamedTuple):
    """What a pickle works on."""

    stack: list[Any]
    marks: list[int]
    """heights of the stack"""
    memo: dict[int, Any]
    allowed: Allowed
    persistent_load: Callable[[Any], Any] | None
    name: str
    counts: Counter
    """operations done, and bytes and items that calls have made"""
    read: Callable[[], int]
    """bytes of pickle read so far"""
    size: int
    """bytes of pickle there are"""


def load(
    source: bytes | io.BufferedIOBase | mmap.mmap,
    allowed: Allowed,
    persistent_load: Callable[[Any], Any] | None = None,
    name: str = "pickle",
) -> Any:
    """The plain data of a pickle; InputError if it has anything else.

    Plain are dict, list, tuple, str, bytes, int, float, bool and None; keys of dicts
    are not tuples, strings of Python 2 are read as latin-1.

    Args:
      source: the bytes; or a BytesIO or mmap, left behind the pickle; or another binary
        stream, read to its end.
      allowed: what stands for the global (module, name), such as `NUMPY`. Functions
        among the values are called with arguments of the pickle, which they must not
        trust, and return no functions.
      persistent_load: what stands for a persistent id.
      name: the file, for messages.
    """
    if not isinstance(source, (io.BytesIO, mmap.mmap)):
        source = io.BytesIO(source if isinstance(source, bytes) else source.read())
    start = source.tell()
    end = source.size() if isinstance(source, mmap.mmap) else len(source.getbuffer())
    machine = _Machine(
        stack=[],
        marks=[],
        memo={},
        allowed=allowed,
        persistent_load=persistent_load,
        name=name,
        counts=Counter(),
        read=lambda: source.tell() - start,
        size=end - start,
    )
    try:
        operations = read_operations(source, _OPERATIONS)
        value = _run(machine, itertools.islice(operations, MAX_OPERATIONS))
    except InputError:
        raise
    except _DAMAGES as error:
        raise InputError(f"{name}: not a valid pickle ({error!s:.200})") from None
    _check_extent(value, name)
    return value


_DAMAGES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _run(machine: _Machine, operations: Iterable[tuple[str, Any]]) -> Any:
    for operation, argument in operations:
        if operation == "STOP":
            return _pop(machine)
        if operation not in _OPERATIONS:
            raise ValueError(f"{operation} is not an operation of plain data")
        machine.counts["operations"] += 1
        _OPERATIONS[operation](machine, argument)
    raise ValueError(f"more than {MAX_OPERATIONS} operations")


def _check_extent(value: Any, name: str) -> None:
    """InputError if `value` is nested deeply, endlessly, or into more than is sane."""
    level, times, items = {id(value): value}, Counter({id(value): 1}), 0
    for _ in range(MAX_DEPTH):
        below: dict[int, Any] = {}
        times_below: Counter = Counter()
        for key, container in level.items():
            if not isinstance(container, _CONTAINERS):
                continue
            children = container.values() if isinstance(container, dict) else container
            items += times[key] * len(container)
            for child in children:
                if isinstance(child, _CONTAINERS):
                    below[id(child)] = child
                    times_below[id(child)] += times[key]
        if items > MAX_ITEMS:
            raise InputError(f"{name}: a pickle of more than {MAX_ITEMS} items")
        if not below:
            return
        level, times = below, times_below
    raise InputError(f"{name}: a pickle nested deeper than {MAX_DEPTH}, or in itself")


def _push(machine: _Machine, argument: Any) -> None:
    mutable = isinstance(argument, bytearray)
    machine.stack.append(bytes(argument) if mutable else argument)


def _marked(machine: _Machine) -> list[Any]:
    """The items above the last mark, taken off."""
    height = machine.marks.pop()
    items = machine.stack[height:]
    del machine.stack[height:]
    return items


def _last(machine: _Machine, kind: type | tuple[type, ...] = object) -> Any:
    """The last item, which must be of this kind and above the last mark."""
    if machine.marks and machine.marks[-1] >= len(machine.stack):
        raise IndexError("an item below the mark")
    last = machine.stack[-1]
    if not isinstance(last, kind):
        raise TypeError(f"{type(last).__name__} in place of another type")
    return last


def _pop(machine: _Machine) -> Any:
    last = _last(machine)
    del machine.stack[-1]
    return last


def _pop_or_unmark(machine: _Machine, _: None) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _push_tuple(machine: _Machine, count: int) -> None:
    machine.stack.append(tuple([_pop(machine) for _ in range(count)][::-1]))


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _update(target: dict, pairs: Iterable[tuple[Any, Any]]) -> dict:
    for key, value in pairs:
        # The hash of a tuple goes as deep as the tuple, on the stack of the machine.
        if not isinstance(key, _KEYS):
            raise TypeError(f"a key of type {type(key).__name__}")
        target[key] = value
    return target


def _extend(machine: _Machine, items: list[Any]) -> None:
    _last(machine, list).extend(items)


def _set_items(machine: _Machine, items: list[Any]) -> None:
    _update(_last(machine, dict), _pairs(items))


DICTS = {("collections", "OrderedDict"): lambda pairs=(): _update({}, pairs)}


def _memoize(machine: _Machine, key: int) -> None:
    machine.memo[key] = _last(machine)


def _push_global(machine: _Machine, module: Any, qualified_name: Any) -> None:
    key = (module, qualified_name)
    if not all(type(part) is str for part in key) or key not in machine.allowed:
        raise InputError(
            f"{machine.name}: needs {module!s:.80}.{qualified_name!s:.80}, which "
            "is not plain data, and is refused"
        )
    machine.stack.append(machine.allowed[key])


def _call(machine: _Machine, _: None) -> None:
    arguments, function = _pop(machine), _pop(machine)
    if not callable(function) or not isinstance(arguments, tuple):
        raise TypeError("a call of what is not a function")
    result = function(*arguments)
    if isinstance(result, _CONTAINERS):
        _account(machine, items=len(result))
    elif isinstance(result, (bytes, np.ndarray)):
        _account(machine, len(result) if isinstance(result, bytes) else result.nbytes)
    machine.stack.append(result)


def _account(machine: _Machine, size: int = 0, items: int = 0) -> None:
    """ValueError if calls make more than the pickle has, as bombs do."""
    machine.counts.update(bytes=size, items=items)
    # Protocol 2 has its bytes as text: they are made, then the array of them.
    if machine.counts["bytes"] > 2 * machine.read():
        raise ValueError("it makes more bytes than it has")
    if machine.counts["items"] > machine.counts["operations"]:
        raise ValueError("it makes more items than it has")


def _build(machine: _Machine, _: None) -> None:
    """Fills an array or a dtype; what others have beside their items is left out."""
    state, target = _pop(machine), _last(machine)
    if isinstance(target, np.dtype):
        # Numpy's stubs do not have it.
        target.__setstate__(dtype_state(state))  # type: ignore[attr-defined]
    elif isinstance(target, np.ndarray):
        state = array_state(state)
        _account(machine, len(state[-1]))
        target.__setstate__(state)
    elif callable(target):
        raise TypeError("a state of a function")


def _push_persistent(machine: _Machine, key: Any) -> None:
    if machine.persistent_load is None:
        raise InputError(f"{machine.name}: refers to data outside of the pickle")
    machine.stack.append(machine.persistent_load(key))


def _check_frame(machine: _Machine, size: int) -> None:
    """Frames help to read ahead, which is not done here."""
    if size > machine.size - machine.read():
        raise ValueError(f"a frame of {size} bytes that are not there")


_PUSHED = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING "
    "SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES "
    "BINBYTES BINBYTES8 BYTEARRAY8"
).split()
_OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_PUSHED, _push),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": _pop_or_unmark,
    "POP_MARK": lambda m, _: _marked(m),
    "DUP": lambda m, _: m.stack.append(_last(m)),
    "DICT": lambda m, _: m.stack.append(_update({}, _pairs(_marked(m)))),
    "LIST": lambda m, _: m.stack.append(_marked(m)),
    "TUPLE": lambda m, _: m.stack.append(tuple(_marked(m))),
    "TUPLE1": lambda m, _: _push_tuple(m, 1),
    "TUPLE2": lambda m, _: _push_tuple(m, 2),
    "TUPLE3": lambda m, _: _push_tuple(m, 3),
    "APPEND": lambda m, _: _extend(m, [_pop(m)]),
    "APPENDS": lambda m, _: _extend(m, _marked(m)),
    "SETITEM": lambda m, _: _set_items(m, [_pop(m), _pop(m)][::-1]),
    "SETITEMS": lambda m, _: _set_items(m, _marked(m)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _memoize),
    "MEMOIZE": lambda m, _: _memoize(m, len(m.memo)),
    "GET": lambda m, key: m.stack.append(m.memo[key]),
    "BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "GLOBAL": lambda m, names: _push_global(m, *names),
    "STACK_GLOBAL": lambda m, _: _push_global(m, *[_pop(m), _pop(m)][::-1]),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "BUILD": _build,
    "PERSID": _push_persistent,
    "BINPERSID": lambda m, _: _push_persistent(m, _pop(m)),
    "PROTO": lambda m, _: None,
    "FRAME": _check_frame,
}


_CODES = {operation.code: operation for operation in pickletools.opcodes}


def read_operations(
    stream: io.BytesIO | mmap.mmap, known: Container[str]
) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the operations; ValueError where the pickle is cut.

    Such streams take no memory for bytes that they do not have. Arguments of operations
    that are not `known` are not read: what follows one means nothing.
    """
    while True:
        code = stream.read(1)
        operation = _CODES.get(code.decode("latin-1"))
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
        raise ValueError(f"{line:.40} is not a string")
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
