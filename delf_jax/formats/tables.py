"""CSV files as named tuples, one row at a time: any length in the memory of one row."""

import csv
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_type_hints

from delf_jax.files import (
    InputError,
    atomic_write,
    csv_delimiter,
    read_text,
    read_text_lines,
)

Row = TypeVar("Row", bound=tuple)
# Python's own limit of 131 072 characters is some 7700 image ids; this bounds memory.
_LARGEST_FIELD = 1 << 26


class Line(NamedTuple):
    """One row of a CSV as it stands."""

    where: str
    """file and line, for messages"""
    fields: list[str]


def read_lines(path: str | os.PathLike) -> Iterator[Line]:
    """The rows of a CSV, header and blank ones included; InputError if broken.

    Fields are separated by commas, or by the semicolons or tabs of spreadsheets if the
    first line has these and no comma.
    """
    # Of the whole process; it only ever grows.
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_FIELD))
    number = 0
    try:
        lines = read_text_lines(path)
        first = next(lines, "")
        lines = itertools.chain([first], lines)
        reader = csv.reader(lines, delimiter=csv_delimiter(first))
        for fields in reader if first else ():
            number = reader.line_num
            yield Line(f"{os.fspath(path)}, line {number}", fields)
    except csv.Error as error:
        raise InputError(f"{path}, after line {number}: not a CSV ({error})") from None


def read_header(path: str | os.PathLike) -> list[str]:
    """The names of the columns; InputError if there is not even a line."""
    for line in read_lines(path):
        return line.fields
    raise InputError(f"{path}: the file is empty, without a header")


def read_rows(path: str | os.PathLike, kind: type[Row]) -> Iterator[Row]:
    """The rows as tuples of `kind`, whose fields are columns, in any order, of a CSV.

    Fields are str, int (or None or str), finite float, or tuple[str, ...], which blanks
    separate. Other columns and blank lines are skipped. InputError names file, line and
    field.
    """
    for fields in read_columns(path, get_type_hints(kind)):
        yield kind(*fields)


def read_columns(path: str | os.PathLike, hints: Mapping[str, Any]) -> Iterator[list]:
    """The fields of each row, as `read_rows`, of columns given by name and type."""
    header = read_header(path)
    if missing := [name for name in hints if name not in header]:
        raise InputError(f"{path}: the CSV has no column {missing[0]!r}")
    steps = [(header.index(name), _PARSERS[hint]) for name, hint in hints.items()]
    for line in itertools.islice(read_lines(path), 1, None):
        if line.fields:
            try:
                yield [parse(line.fields[column]) for column, parse in steps]
            except (ValueError, IndexError):
                raise _explain(line, header, hints) from None


def write_rows(
    path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes the rows below a header, atomically; tuples of str are joined."""
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([" ".join(x) if isinstance(x, tuple) else x for x in row])


def quote(text: str) -> str:
    """A field as it stands in a CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([text])
    return buffer.getvalue()


def read_float(text: str) -> float:
    """The number in a text; ValueError if it is none, or not a finite one."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _is_number(text: str) -> bool:
    """Whether a text is a whole number as it is written out."""
    return text.isdecimal() and str(int(text)) == text


def _read_int(text: str) -> int:
    value = int(text)
    if abs(value) >= 1 << 63:  # No array of numbers holds it.
        raise ValueError
    return value


_PARSERS: dict[Any, Callable[[str], Any]] = {str: str, int: _read_int}
_PARSERS |= {float: read_float, tuple[str, ...]: lambda text: tuple(text.split())}
# Landmarks of photos that show none, as the table of GLDv1 has them.
_PARSERS[int | None] = lambda text: None if text == "None" else _read_int(text)
# Labels of a table of landmarks, or of a folder of classes.
_PARSERS[int | str] = lambda text: int(text) if _is_number(text) else text


def _explain(line: Line, header: Sequence[str], hints: Mapping[str, Any]) -> InputError:
    """What is wrong with a row that could not be read."""
    for name, hint in hints.items():
        column = header.index(name)
        if column >= len(line.fields):
            return InputError(f"{line.where}: no field {name!r}")
        text = line.fields[column]
        try:
            _PARSERS[hint](text)
        except ValueError:
            return InputError(
                f"{line.where}, {name}: {text!r:.80} is not a number, or out of range"
            )
    return InputError(f"{line.where}: not a row of this table")


def read_names(path: str | os.PathLike, *, unique: bool = True) -> list[str]:
    """The names in a file, one a line, in its order; what follows a # is a comment.

    InputError if there are none, or if of `unique` names one is repeated.
    """
    names: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        name = line.split("#")[0].strip()
        if unique and name in names:
            raise InputError(
                f"{path}, line {number}: {name!r:.80} repeats line {names[name]}"
            )
        if name:
            names[name] = number
    if not names:
        raise InputError(f"{path}: has no names, which stand one a line")
    return list(names)


def read_landmark_ids(path: str | os.PathLike) -> frozenset[int]:
    """The landmark ids in a file as of `read_names`."""
    names = read_names(path)
    for name in names:
        if not name.isdecimal() or not name.isascii():
            raise InputError(
                f"{path}: {name!r:.80} is not a landmark id, a whole number"
            )
    return frozenset(map(int, names))
