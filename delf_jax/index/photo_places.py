"""Where the photos of an index are, and what their ids are: its index.json."""

import itertools
import os
import pathlib
from collections.abc import Collection, Iterable
from typing import NamedTuple

from delf_jax.files import InputError
from delf_jax.manifests import PATH, one_of, read_manifest, write_manifest
from delf_jax.store.shards import is_absent

FORMAT = 1
SCHEMA = {"format": one_of(FORMAT), "root": PATH, "outside": {str: PATH}}
_REPAIR = (
    "remove it and index the folder again, whose features are kept; photos from "
    "elsewhere have to be added again"
)


class Places(NamedTuple):
    """Where the photos of an index are."""

    root: pathlib.Path
    """ids are paths within it"""
    outside: dict[str, pathlib.Path]
    """photos that were added from elsewhere, or whose path another has as its id"""

    def file(self, image: str) -> pathlib.Path:
        return self.outside.get(image, self.root / image)


def moved(places: Places, root: pathlib.Path) -> Places:
    """The places once the folder at their root is at another."""
    inside = {
        id: root / path.relative_to(places.root)
        for id, path in places.outside.items()
        if path.is_relative_to(places.root)
    }
    return Places(root, places.outside | inside)


def write_places(directory: str | os.PathLike, places: Places) -> None:
    outside = {image: str(path) for image, path in places.outside.items()}
    values = {"format": FORMAT, "root": str(places.root), "outside": outside}
    write_manifest(pathlib.Path(directory, "index.json"), values)


def read_places(directory: str | os.PathLike) -> Places:
    path = pathlib.Path(directory, "index.json")
    if not path.exists():
        raise InputError(f"{directory}: no index here (index.json is missing)")
    values = read_manifest(path, SCHEMA, _REPAIR)
    outside = {id: pathlib.Path(p) for id, p in values["outside"].items()}
    return Places(pathlib.Path(values["root"]), outside)


def name_photos(
    found: Iterable[tuple[str, pathlib.Path]], places: Places, known: Collection[str]
) -> tuple[dict[str, pathlib.Path], Places]:
    """Photos by id, and places that know them; no two photos have one id.

    Within the root an id is the path there, of others the name with as many folders as
    make it unique. Photos that have an id keep it.
    """
    files, outside = {}, dict(places.outside)
    ids = {path: id for id, path in outside.items()}
    taken = {*known, *outside}
    for image, path in found:
        inside = path.is_relative_to(places.root)
        if inside:
            image = path.relative_to(places.root).as_posix()
        if path in ids:
            image = ids[path]
        elif not inside or image in outside:
            image = _free_id(image, path, places.root, taken)
            outside[image] = path
        taken.add(image)
        files[image] = path
    return files, places._replace(outside=outside)


def _free_id(
    image: str, path: pathlib.Path, root: pathlib.Path, taken: Collection[str]
) -> str:
    """An id that no photo has, nor will have that lies in the root."""
    parts = path.parts[1:]
    lengths = range(image.count("/") + 1, len(parts) + 1)
    longer = ("/".join(parts[-length:]) for length in lengths)
    whole = pathlib.PurePosixPath(*parts)
    counted = (
        str(whole.with_name(f"{whole.stem} ({number}){whole.suffix}"))
        for number in itertools.count(2)
    )
    names = itertools.chain(longer, counted)
    return next(n for n in names if n not in taken and is_absent(root / n))
