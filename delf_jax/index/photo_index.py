"""The index of a folder of photos: built, grown, shrunk, opened.

An index is a folder: `store/` holds the features and says which model made them (see
feature_store.py), and `index.json` says where the photos are (see photo_places.py). A
table of an engine that serves descriptors is kept up to date with it (see vectors/).
Which photos there are, the store alone says: places of photos that it has removed count
for nothing.

A photo whose file is absent stays: its drive may be. It is forgotten by name, or by
`absent_images` where its folder is there without it.
"""

import os
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from delf_jax.extraction.boxes import RegionBoxes
from delf_jax.extraction.model_folder import CONFIG, Model
from delf_jax.extraction.one_call import ModelLike, open_model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError, changing
from delf_jax.image_files import find_images
from delf_jax.index.photo_places import (
    Places,
    moved,
    name_photos,
    read_places,
    write_places,
)
from delf_jax.index.vectors import update as tables
from delf_jax.index.vectors.update import Wanted
from delf_jax.manifests import is_inside, owned
from delf_jax.progress import format_count, printable
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore, StoreReport
from delf_jax.store.shards import is_absent
from delf_jax.store.writer import open_manifest

# Photos from elsewhere that are named one by one.
_LISTED = 10

Paths = Iterable[str | os.PathLike]
# From (id, path) of photos to their boxes.
FindRegions = Callable[[Sequence[tuple[str, pathlib.Path]]], RegionBoxes]


class Index(NamedTuple):
    """What can be searched."""

    directory: pathlib.Path
    store: FeatureStore
    places: Places

    def file(self, image: str) -> pathlib.Path:
        """Where the photo with this id was when it was indexed."""
        return self.places.file(image)

    @property
    def shortfall(self) -> str:
        """How many photos an interrupted run has left, and what does them; or ""."""
        if not self.store.pending:
            return ""
        return (
            f"{self.directory}: {self.store.shortfall}; finish it with: {self.update}"
        )

    @property
    def update(self) -> str:
        """The command that brings the index up to date."""
        asked = ["index", str(self.places.root), f"--index={self.directory}"]
        return printable(shlex.join(asked))

    def outsiders(self, images: Iterable[str]) -> str:
        """Which of some photos lie outside of the index's folder; "" if none does.

        Whoever made the index chose them: it may be somebody else.
        """
        root = os.path.abspath(self.places.root)
        known = self.places.outside
        files = {os.path.abspath(known[image]) for image in images if image in known}
        found = sorted(f for f in files if not pathlib.Path(f).is_relative_to(root))
        if not found:
            return ""
        count = format_count(len(found), "photo")
        named = ", ".join(found[:_LISTED]) + (", ..." if found[_LISTED:] else "")
        return printable(f"{count} from outside of {root}: {named}")

    def __str__(self) -> str:
        count = format_count(len(self.store), "photo")
        if self.store.pending:
            count += f", {self.store.shortfall}"
        return f"{self.directory.name} ({count})"


class Absent(NamedTuple):
    """Photos of an index whose files are not there."""

    gone: list[str]
    """from a folder that is there: they were deleted, or given another name"""
    away: list[str]
    """with the folder that they were indexed from, such as on a drive"""


def make_index(
    paths: Paths,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    find_regions: FindRegions | None = None,
    vectors: Wanted | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> StoreReport:
    """Indexes images and folders; what is there already and unchanged is kept.

    So are photos whose file is absent. InputError for an index of another folder.

    Args:
      find_regions: gives the boxes of photos, whose features are indexed, too.
      vectors: the table that the index is to have; one that it has is kept up to date.
      ray: address of a cluster that extracts; "": one on this machine.
    """
    found = find_images(paths)
    image, path = found[0]
    root = pathlib.Path(os.path.abspath(path)).parents[image.count("/")]
    if pathlib.Path(directory, "index.json").exists():
        places = read_places(directory)
        if not root.is_relative_to(places.root):
            moved = f", which is absent: if it is {root} now, say so with --root={root}"
            raise InputError(
                f"{directory}: has an index of {places.root}"
                f"{moved if is_absent(places.root) else ''}; use --add, or another "
                "folder for another index"
            )
    directory = pathlib.Path(directory)
    return _update(
        found,
        directory,
        root,
        model,
        settings,
        True,
        find_regions,
        vectors,
        ray,
        progress,
    )


def add_images(
    paths: Paths,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    find_regions: FindRegions | None = None,
    vectors: Wanted | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> StoreReport:
    """Adds images and folders from anywhere to an index; see `make_index`."""
    index = open_index(directory)
    check_model(index, model, settings)
    found = find_images(paths)
    directory, root = index.directory, index.places.root
    return _update(
        found,
        directory,
        root,
        model,
        settings,
        False,
        find_regions,
        vectors,
        ray,
        progress,
    )


def remove_images(directory: str | os.PathLike, ids: Iterable[str]) -> int:
    """Number of images left; InputError, and none removed, if one is not there."""
    read_places(directory)  # Or it is no index.
    directory = pathlib.Path(directory)
    path = owned(pathlib.Path(directory, "store"))
    # Once the store has removed them they are; their places are only cleared away.
    feature_store.remove_from_store(path, ids)
    with changing(directory):
        places, store = read_places(directory), feature_store.open_store(path)
        removed = store.records.keys() - _ids(store)
        outside = {id: p for id, p in places.outside.items() if id not in removed}
        if len(outside) < len(places.outside):
            write_places(directory, places._replace(outside=outside))
    tables.update(directory)
    return len(store)


def absent_images(directory: str | os.PathLike) -> Absent:
    """The photos whose files are not there."""
    index, found = open_index(directory), Absent([], [])
    folders: dict[pathlib.Path, bool] = {}
    for image in sorted(_ids(index.store)):
        path = index.file(image)
        if is_absent(path):
            inside = path.is_relative_to(index.places.root)
            folder = index.places.root if inside else path.parent
            if folder not in folders:
                folders[folder] = _is_filled(folder)
            (found.gone if folders[folder] else found.away).append(image)
    return found


def move_root(directory: str | os.PathLike, root: str | os.PathLike) -> tuple[int, int]:
    """(found there, of how many) photos, of an index whose folder is `root` now.

    InputError if none is found there.
    """
    index, root = open_index(directory), pathlib.Path(os.path.abspath(root))
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    old, new = index.places, moved(index.places, root)
    ids = sorted(_ids(index.store))
    ids = [id for id in ids if old.file(id).is_relative_to(old.root)]
    found = sum(not is_absent(new.file(id)) for id in ids)
    if ids and not found:
        raise InputError(
            f"{root}: none of the {format_count(len(ids), 'photo')} of {directory} "
            f"found there, such as {ids[0]!r}; name the folder that has taken the "
            f"place of {old.root}"
        )
    with changing(directory):
        write_places(directory, moved(read_places(directory), root))
    tables.update(index.directory)
    return found, len(ids)


def open_index(directory: str | os.PathLike) -> Index:
    """The index at `directory`; InputError if it is absent, damaged or truncated.

    Also if an id is no path within a folder: somebody has made that up.
    """
    places, directory = read_places(directory), pathlib.Path(directory)
    store = feature_store.open_store(directory / "store")
    _check_ids(directory, store)
    return Index(directory, store, places)


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
    check_global_model(index.directory, index.store.manifest, model)
    boxes = index.store.manifest.get("with_boxes", False)
    if feature_store.store_key(model, settings, boxes) != index.store.manifest["key"]:
        raise InputError(
            f"{index.directory}: was indexed with other settings; pass the same "
            "--config, or index again"
        )


def recorded_model(directory: str | os.PathLike, name: str) -> str | None:
    """The folder of a "model" or "global_model", as an index or store says it.

    None if it does not: only those do that have global descriptors of another model.
    InputError if it is not there any more.
    """
    store = pathlib.Path(directory, "store")
    try:
        manifest = open_manifest(store if store.is_dir() else pathlib.Path(directory))
    except InputError:  # Absent, or damaged: that is said, or mended, later.
        return None
    path = manifest.get(name, {}).get("path", "")
    if not path and name == "model":  # The bundled one.
        return None
    if "global_model" in manifest and not pathlib.Path(path, CONFIG).is_file():
        raise InputError(
            f"{directory}: was indexed by model {manifest[name]['name']}, which is not "
            f"in {path or 'any folder'} any more; name its folder with --{name}"
        )
    return path or None


def model_of(directory: str | os.PathLike, model: ModelLike = None) -> Model:
    """The model itself; of a folder, or None, with what an index says of others."""
    if isinstance(model, Model):
        return model
    other = recorded_model(directory, "global_model")
    return open_model(model or recorded_model(directory, "model"), other)


def check_global_model(
    directory: str | os.PathLike, manifest: Mapping[str, Any], model: Model
) -> None:
    """InputError if an index has, or is to have, global descriptors of another."""
    known, given = manifest.get("global_model"), model.global_model
    if not known and not given:
        return
    known, given = known or manifest["model"], given or model
    if known["fingerprint"] not in ("", given.fingerprint):
        hint = "name that one with" if "global_model" in manifest else "leave out"
        raise InputError(
            f"{directory}: has global descriptors of model {known['name']} "
            f"({known['fingerprint'][:8]}), not of {given.name} "
            f"({given.fingerprint[:8]}); {hint} --global_model, or name another folder "
            "for another index"
        )


def own_row(index: Index, path: pathlib.Path) -> int:
    """The row of a query photo that is itself in the index; else -1."""
    path, (root, outside) = pathlib.Path(os.path.abspath(path)), index.places
    image = next((id for id, known in outside.items() if known == path), None)
    if image is None and path.is_relative_to(root):
        image = path.relative_to(root).as_posix()
        image = None if image in outside else image
    try:
        return -1 if image is None else index.store.row(image)
    except InputError:
        return -1


def _update(
    found: Sequence[tuple[str, pathlib.Path]],
    directory: pathlib.Path,
    root: pathlib.Path,
    model: Model,
    settings: ExtractionSettings,
    thorough: bool,
    find_regions: FindRegions | None,
    vectors: Wanted | None,
    ray: str | None,
    progress: bool,
) -> StoreReport:
    """Extracts what is new or changed, and what an interrupted run has left.

    root: of an index that is not there yet.
    """
    path, known, removed = owned(directory / "store"), set[str](), set[str]()
    described_by = model.global_model or model
    tables.check(directory, described_by.name, described_by.fingerprint, vectors)
    with changing(directory):
        places = Places(root, {})
        if (directory / "index.json").exists():
            places = read_places(directory)
        if (path / "manifest.json").exists():
            store = feature_store.open_store(path, damaged=[])
            check_global_model(directory, store.manifest, model)
            if store.manifest.get("with_boxes") and find_regions is None:
                raise InputError(
                    f"{directory}: has features of boxes: give --detect as before, or "
                    "index in another folder"
                )
            _check_ids(directory, store)
            known = _ids(store)
            removed = store.records.keys() - known
        outside = {id: p for id, p in places.outside.items() if id not in removed}
        files, places = name_photos(found, places._replace(outside=outside), known)
        # First the places: a killed job leaves no features whose photo is unknown.
        write_places(directory, places)
    for image in sorted({*known, *outside} - files.keys()):
        if not is_absent(places.file(image)):
            files[image] = places.file(image)
    photos = sorted(files.items())
    report = feature_store.extract_to_store(
        photos,
        path,
        model,
        settings,
        boxes=None if find_regions is None else find_regions(photos),
        ray=ray,
        thorough=thorough,
        progress=progress,
    )
    tables.update(directory, vectors, progress=progress)
    return report


def _ids(store: FeatureStore) -> set[str]:
    """All photos of the store, those that failed or are still to be done as well."""
    return {*store.ids, *store.failed, *store.pending}


def _check_ids(directory: pathlib.Path, store: FeatureStore) -> None:
    for id in store.records:
        if not is_inside(id):
            raise InputError(
                f"{directory}: image {id!r:.200} is not a path within a folder; index "
                "the photos again, in another folder"
            )


def _is_filled(folder: pathlib.Path) -> bool:
    """Whether a folder is there and has anything in it: of a drive, it is mounted."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
