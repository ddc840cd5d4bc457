"""Lists of landmarks, classes or queries that are to be left out, read from files."""

import os

from delf_jax.files import InputError, read_text


def read_names(path: str | os.PathLike) -> list[str]:
    """The names in a file, one a line, in its order; after a # stands a comment.

    InputError if there are none, or one comes twice.
    """
    names: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name = line.split("#")[0].strip()
        if name in names:
            raise InputError(
                f"{path}, line {number}: {name!r:.80} stands in line {names[name]}, too"
            )
        if name:
            names[name] = number
    if not names:
        raise InputError(f"{path}: names nothing to leave out")
    return list(names)


def read_landmark_ids(path: str | os.PathLike) -> frozenset[int]:
    """The landmark ids in a file as of `read_names`."""
    names = read_names(path)
    for name in names:
        if not name.isdecimal() or not name.isascii():
            raise InputError(f"{path}: {name!r:.80} is no landmark id, a whole number")
    return frozenset(map(int, names))
