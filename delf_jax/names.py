"""Names that lists have for photos, met with the ids that the photos have.

Lists leave out ".jpg" or have it where the photo is a .png, name folders that are not
there or leave them out, and were written on systems that know no case.
"""

import functools
import pathlib
import re
import unicodedata
from collections.abc import Callable, Sequence

from delf_jax.files import InputError
from delf_jax.image_files import FORMATS, RAW

# Also of photos that cannot be read here.
_SUFFIXES = frozenset([*" ".join(FORMATS.values()).split(), *RAW])

_ODD = re.compile(r"^\.?$|//|(^|/)\.(/|$)|/$")  # What paths do without.
# The places that a name fits: one if that is clear, none if there is no such photo.
Finder = Callable[[str], list[int]]


def finder(ids: Sequence[str]) -> Finder:
    """A function from a name to the places of the ids that it fits best.

    An id that is the name comes first. Else they may differ in case, in the suffix of
    an image, and in folders before what they have in common: "b/1" fits "a/b/1.jpg" and
    "1.jpg", never "c/1.jpg". Of several ids those that differ least, in this order, are
    given; if there are still several, the name is ambiguous. A name takes O(1).
    """
    exact = {id: place for place, id in enumerate(ids)}

    @functools.cache  # Not needed, and not built, where all names are ids.
    def tables() -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Places by whole ids, and by all that ids end in."""
        whole: dict[str, list[int]] = {}
        ends: dict[str, list[int]] = {}
        for place, id in enumerate(ids):
            first, *others = _ends(_fold(id))
            whole.setdefault(first, []).append(place)
            for end in others:
                ends.setdefault(end, []).append(place)
        return whole, ends

    @functools.cache  # Or a name of many photos, asked for often, would be slow.
    def closest(name: str) -> list[int]:
        whole, ends = tables()
        first, *others = _ends(_fold(name))
        found = whole.get(first, []) + ends.get(first, [])
        if not found:
            found = next((whole[end] for end in others if end in whole), [])
        if len(found) < 2:
            return found
        differences = [_difference(name, ids[place]) for place in found]
        least = min(differences)
        pairs = zip(found, differences, strict=True)
        return [place for place, difference in pairs if difference == least]

    return lambda name: [exact[name]] if name in exact else closest(name)


def find_one(find: Finder, name: str, what: str, where: object) -> int:
    """The place of the only id that a name fits; InputError if none or several do.

    Args:
      what, where: what the name stands for, and where it was looked for.
    """
    places = find(name)
    if not places:
        raise InputError(f"{what} not found in {where}")
    if len(places) > 1:
        raise InputError(
            f"{what} fits {len(places)} photos in {where}; add its folders and suffix"
        )
    return places[0]


def plain(name: str) -> str:
    """A name without the suffix of an image, if it has one."""
    head, dot, suffix = name.rpartition(".")
    return head if head and dot + suffix.lower() in _SUFFIXES else name


def _ends(path: str) -> list[str]:
    """A path, then without its first folder, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _fold(name: str) -> str:
    """What names that differ in case or suffix have in common."""
    return plain(_path(name)).casefold()


def _path(name: str) -> str:
    """A name as a path: lists from Windows have other slashes, macOS other letters."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return pathlib.PurePosixPath(name).as_posix() if _ODD.search(name) else name


def _difference(name: str, id: str) -> tuple[bool, bool, bool]:
    """Whether a name and an id that fits it differ in case, suffix and folders."""
    name, id = _path(name), _path(id)
    one, other = (plain(each).split("/") for each in (name, id))
    common = min(len(one), len(other))
    suffix = name.removeprefix(plain(name)).lower()
    return (
        one[-common:] != other[-common:],
        bool(suffix) and not id.lower().endswith(suffix),
        len(one) != len(other),
    )
