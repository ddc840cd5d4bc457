"""Our own JSON files: written with a checksum, and read as a schema says.

A schema is a dict from fields to kinds. A kind is

    str, bool, int, float      int: of 64 bits; float: finite, or an int
    object                     whatever JSON has
    {"field": kind, "may_be_absent?": kind}, {str: kind}   fields, or any names
    [kind]                     a list
    (kind, kind, None)         one of these; None: null
    Is("a positive integer", test)                         what a test says

Fields that a schema does not list are left alone: a later version may have them.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from delf_jax.files import InputError, digest, parse_json, read_text, write_json

CHECKSUM = "checksum"
_ON_WINDOWS = os.sep == "\\"


class Is(NamedTuple):
    """A kind of value: what it is called, and whether anything at all is one."""

    words: str
    test: Callable[[Any], bool]


def within(low: int, high: int = 2**63 - 1) -> Is:
    """Integers from `low` to `high`."""
    words = f"an integer of at least {low}"
    if high < 2**63 - 1:
        words = f"an integer from {low} to {high}"
    return Is(words, lambda value: type(value) is int and low <= value <= high)


def one_of(*values: Any) -> Is:
    """One of these values, which are of the same type as well: 1 is not true."""
    words = "one of " if len(values) > 1 else ""
    words += ", ".join(map(json.dumps, values))
    known = [(type(value), value) for value in values]
    return Is(words, lambda value: (type(value), value) in known)


def matching(pattern: str, words: str) -> Is:
    """Strings that a regular expression matches from end to end."""
    found = re.compile(pattern)
    return Is(words, lambda v: isinstance(v, str) and bool(found.fullmatch(v)))


COUNT = within(0)
POSITIVE = within(1)
SHA256 = matching("[0-9a-f]{64}", "64 hex digits")
PATH = Is("a path", lambda value: isinstance(value, str) and "\0" not in value)
# Of the model that made features; files of other programs do not say.
# "path": its folder, in stores that take global descriptors from another model.
MODEL = {"name": str, "fingerprint": str, "path?": PATH}
_TYPES: dict[Any, Is] = {
    str: Is("a string", lambda value: isinstance(value, str)),
    bool: one_of(True, False)._replace(words="true or false"),
    int: within(-(2**63))._replace(words="an integer"),
    float: Is(
        "a finite number",
        lambda v: type(v) is float and math.isfinite(v) or _TYPES[int].test(v),
    ),
    None: Is("null", lambda value: value is None),
    object: Is("anything", lambda value: True),
}


def is_inside(path: str) -> bool:
    """Whether a path that a file names, or an id, stays within its folder."""
    if _ON_WINDOWS:
        path = path.replace("\\", "/")
        if ":" in path:  # Of a drive, or of a stream.
            return False
    leaves = ".." in path and ".." in path.split("/")
    return not (leaves or path.startswith("/") or "\0" in path)


def owned(path: str | os.PathLike) -> pathlib.Path:
    """The path; InputError if a symbolic link is there.

    What is in a folder of ours may come from elsewhere: nothing is written, or deleted,
    through a link that leads out of it.
    """
    path = pathlib.Path(path)
    if path.is_symlink():
        raise InputError(
            f"{path}: is a symbolic link, which is not written through; move what it "
            "leads to here"
        )
    return path


def write_manifest(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes fields as JSON, atomically, with a checksum of them."""
    content = {name: v for name, v in content.items() if name != CHECKSUM}
    write_json(owned(path), {**content, CHECKSUM: digest(content, 16)})


def read_manifest(
    path: str | os.PathLike, schema: Mapping[str, Any], repair: str
) -> dict[str, Any]:
    """The fields of a file, without its checksum; InputError if one is not as it must.

    Files of version 0.1 have no checksum: only their fields are checked.

    Args:
      repair: what to do where the file is damaged: the end of the sentence.
    """
    content = parse_json(read_text(path), path, repair)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected fields in JSON; {repair}")
    known = content.pop(CHECKSUM, None)
    try:
        same = known is None or known == digest(content, 16)
    except RecursionError:
        same = False
    if not same:
        raise InputError(
            f"{path}: damaged: its checksum differs (if you have changed it yourself, "
            f"delete its field {CHECKSUM}); {repair}"
        )
    check(content, schema, path, repair)
    return content


def check(value: Any, kind: Any, path: str | os.PathLike, repair: str) -> None:
    """InputError that names the first field that is not of its kind.

    Args:
      path: for the error alone, as is `repair`.
    """
    for fault in _faults(value, kind, ""):
        raise InputError(f"{path}: {fault}; {repair}")


def _faults(value: Any, kind: Any, field: str) -> Iterator[str]:
    """What is wrong with a value, in words."""
    if isinstance(kind, dict) and isinstance(value, dict):
        yield from _faults_of_fields(value, kind, field)
    elif isinstance(kind, list) and isinstance(value, list):
        for number, each in enumerate(value):
            yield from _faults(each, kind[0], f"{field}[{number}]")
    elif isinstance(kind, tuple) and not isinstance(kind, Is):
        yield from _faults_of_all(value, kind, field)
    elif isinstance(kind, dict | list) or not _is(kind).test(value):
        yield _fault(value, kind, field)


def _faults_of_all(value: Any, kinds: tuple[Any, ...], field: str) -> Iterator[str]:
    """The faults if a value is of none of these kinds."""
    found = [next(_faults(value, kind, field), None) for kind in kinds]
    if None not in found:
        alike = [type(kind) is type(value) for kind in kinds]
        whole = _fault(value, kinds, field)
        yield str(found[alike.index(True)]) if any(alike) else whole


def _faults_of_fields(
    value: dict[str, Any], kind: Mapping[Any, Any], field: str
) -> Iterator[str]:
    prefix = f"{field}." if field else ""
    for name, of_field in kind.items():
        if name is str:
            for key, each in value.items():
                yield from _faults(each, of_field, f"{prefix}{key}")
        elif (key := name.removesuffix("?")) in value:
            yield from _faults(value[key], of_field, f"{prefix}{key}")
        elif key == name:
            yield f"field {prefix}{key} is missing"


def _fault(value: Any, kind: Any, field: str) -> str:
    found = f"{value!r:.60}"
    return f"field {field!r:.80}: expected {_words(kind)}, got {found}"


def _is(kind: Any) -> Is:
    return kind if isinstance(kind, Is) else _TYPES[kind]


def _words(kind: Any) -> str:
    if isinstance(kind, Is):
        return kind.words
    if isinstance(kind, tuple):
        return " or ".join(map(_words, kind))
    if isinstance(kind, dict | list):
        return "fields" if isinstance(kind, dict) else "a list"
    return _TYPES[kind].words
