"""The index of a folder of photos: built, grown, shrunk, opened.

An index is a folder: `store/` holds the features and says which model made them (see
feature_store.py), and `index.json` says where the photos are.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.image_files import find_images
from delf_jax.manifests import Is, one_of, read_manifest, write_manifest
from delf_jax.progress import format_count
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore, StoreReport

FORMAT = 1
PATH = Is("a path", lambda value: isinstance(value, str) and "\0" not in value)
SCHEMA = {"format": one_of(FORMAT), "root": PATH, "outside": {str: PATH}}
_REPAIR = (
    "remove it and index the folder again: features are kept, and so are photos from "
    "elsewhere that are added again"
)

Paths = Iterable[str | os.PathLike]


class Places(NamedTuple):
    """Where the photos of an index are."""

    root: pathlib.Path
    """ids are paths within it"""
    outside: dict[str, pathlib.Path]
    """photos that were added from elsewhere, by id"""

    def file(self, image: str) -> pathlib.Path:
        return self.outside.get(image, self.root / image)


class Index(NamedTuple):
    """What can be searched."""

    directory: pathlib.Path
    store: FeatureStore
    places: Places

    def file(self, image: str) -> pathlib.Path:
        """Where the photo with this id was when it was indexed."""
        return self.places.file(image)

    def __str__(self) -> str:
        return f"{self.directory.name} ({format_count(len(self.store), 'photo')})"


def make_index(
    paths: Paths,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    progress: bool = True,
) -> StoreReport:
    """Indexes images and folders; what is there already and unchanged is kept.

    Photos whose file is gone are removed. InputError for an index of another folder.
    """
    found = find_images(paths)
    image, path = found[0]
    root = pathlib.Path(os.path.abspath(path)).parents[image.count("/")]
    places = Places(root, {})
    if pathlib.Path(directory, "index.json").exists():
        places = _read_places(directory)
        if not root.is_relative_to(places.root):
            raise InputError(
                f"{directory}: has an index of {places.root}; use --add, or another "
                "folder for another index"
            )
    return _update(found, pathlib.Path(directory), places, model, settings, progress)


def add_images(
    paths: Paths,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    progress: bool = True,
) -> StoreReport:
    """Adds images and folders from anywhere to an index."""
    index = open_index(directory)
    check_model(index, model, settings)
    found = find_images(paths)
    return _update(found, index.directory, index.places, model, settings, progress)


def remove_images(directory: str | os.PathLike, ids: Sequence[str]) -> int:
    """Number of images left; InputError, and none removed, if one is not there."""
    places = _read_places(directory)
    path = pathlib.Path(directory) / "store"
    feature_store.remove_from_store(path, ids)
    if places.outside.keys() & set(ids):
        kept = {id: p for id, p in places.outside.items() if id not in ids}
        _write_places(directory, places._replace(outside=kept))
    return len(feature_store.open_store(path))


def open_index(directory: str | os.PathLike) -> Index:
    """The index at `directory`; InputError if it is absent, damaged or truncated."""
    places, directory = _read_places(directory), pathlib.Path(directory)
    return Index(directory, feature_store.open_store(directory / "store"), places)


def check_model(index: Index, model: Model, settings: ExtractionSettings) -> None:
    """Features of different models, or settings, cannot be compared."""
    made_by = index.store.manifest["model"]
    if made_by["fingerprint"] == "":
        raise InputError(
            f"{index.directory}: has features from files ({made_by['name']}), which "
            "cannot be compared with those of a model; index the photos themselves"
        )
    if made_by["fingerprint"] != model.fingerprint:
        raise InputError(
            f"{index.directory}: was indexed by model {made_by['name']} "
            f"({made_by['fingerprint'][:8]}), not by {model.name} "
            f"({model.fingerprint[:8]}); name that one with --model, or index again"
        )
    boxes = index.store.manifest.get("with_boxes", False)
    if feature_store.store_key(model, settings, boxes) != index.store.manifest["key"]:
        raise InputError(
            f"{index.directory}: was indexed with other settings; pass the same "
            "--config, or index again"
        )


def own_row(index: Index, path: pathlib.Path) -> int:
    """The row of a query photo that is itself in the index; else -1."""
    path, (root, outside) = pathlib.Path(os.path.abspath(path)), index.places
    image = next((id for id, known in outside.items() if known == path), None)
    if image is None and path.is_relative_to(root):
        image = path.relative_to(root).as_posix()
    try:
        return -1 if image is None else index.store.row(image)
    except InputError:
        return -1


def _update(
    found: Sequence[tuple[str, pathlib.Path]],
    directory: pathlib.Path,
    places: Places,
    model: Model,
    settings: ExtractionSettings,
    progress: bool,
) -> StoreReport:
    """Extracts what is new or changed, and removes photos whose file is gone."""
    files, outside = {}, dict(places.outside)
    for image, path in found:
        if path.is_relative_to(places.root):
            image = path.relative_to(places.root).as_posix()
        else:
            image = _free_id(image, path, places)
            outside[image] = path
        files[image] = path
    places = places._replace(outside=outside)
    path = directory / "store"
    if (path / "manifest.json").exists():
        known = feature_store.open_store(path, damaged=[]).ids
        for image in [*known, *places.outside]:
            if image not in files and places.file(image).exists():
                files[image] = places.file(image)
    # First the places: a killed job leaves no features whose photo is unknown.
    _write_places(directory, places)
    return feature_store.extract_to_store(
        sorted(files.items()), path, model, settings, prune=True, progress=progress
    )


def _free_id(image: str, path: pathlib.Path, places: Places) -> str:
    """An id for a photo from elsewhere, with as many folders as make it unique."""
    by_path = {known: id for id, known in places.outside.items()}
    if path in by_path:
        return by_path[path]
    parts = path.parts[1:]
    for length in range(image.count("/") + 1, len(parts) + 1):
        image = "/".join(parts[-length:])
        if image not in places.outside and not (places.root / image).exists():
            return image
    raise InputError(f"{path}: another photo of this index has the same id")


def _write_places(directory: str | os.PathLike, places: Places) -> None:
    outside = {image: str(path) for image, path in places.outside.items()}
    values = {"format": FORMAT, "root": str(places.root), "outside": outside}
    write_manifest(pathlib.Path(directory, "index.json"), values)


def _read_places(directory: str | os.PathLike) -> Places:
    path = pathlib.Path(directory, "index.json")
    if not path.exists():
        raise InputError(f"{directory}: no index here (index.json is missing)")
    values = read_manifest(path, SCHEMA, _REPAIR)
    outside = {id: pathlib.Path(p) for id, p in values["outside"].items()}
    return Places(pathlib.Path(values["root"]), outside)
