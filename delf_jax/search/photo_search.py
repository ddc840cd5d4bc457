"""An index of images that is built, changed and searched in a few calls.

In memory or in a folder, what is searched is a feature store, and `query.py` ranks. In
memory the images may be of any kind; in a folder they are files.
"""

import itertools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, overload

from delf_jax.extraction import one_call
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.one_call import Errors
from delf_jax.extraction.settings import PCA_FIELDS, ExtractionSettings, settings_for
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.image_files import find_images
from delf_jax.images import ImageLike, image_name
from delf_jax.index import global_search, photo_index
from delf_jax.index.photo_index import Index
from delf_jax.index.photo_places import Places
from delf_jax.progress import format_count, track
from delf_jax.report.html import Thumbnail, read_thumbnail
from delf_jax.search import matching
from delf_jax.search.query import (
    CANDIDATES,
    FirstStage,
    by_global_descriptors,
    judge_results,
    rank,
)
from delf_jax.search.results import SearchResults
from delf_jax.store import memory

# Of pictures in a notebook: the longer side in pixels.
_SIDE = 160


class PhotoIndex:
    """Images that can be searched; `build_index` and `open_index` give one."""

    path: pathlib.Path | None
    """its folder; None: in memory"""
    failed: dict[str, str]
    """images that cannot be used: name -> reason"""

    def __init__(
        self, model: Model, settings: ExtractionSettings, path: pathlib.Path | None
    ):
        self.model, self.settings, self.path = model, settings, path
        self.failed = {}
        self._find: FirstStage | None = None
        # Of images in memory that are no files.
        self._thumbnails: dict[str, Thumbnail | None] = {}
        store = memory.empty_store(model, settings)
        self._use(Index(memory.NAME, store, Places(pathlib.Path(), {})))

    def __len__(self) -> int:
        return len(self._index.store)

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        shortfall = self._index.store.shortfall
        more = f", {shortfall}" if shortfall else ""
        return f"{self.path or memory.NAME}: {len(self)} images{failed}{more}"

    @property
    def ids(self) -> list[str]:
        """Names of the images: of files, their paths in the folder they share."""
        return self._index.store.ids

    def file(self, id: str) -> pathlib.Path:
        """Where the file with this id was when it was indexed."""
        return self._index.file(id)

    def add(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        errors: Errors = "return",
        progress: bool = True,
    ) -> None:
        """Adds an image, several, or those of a folder; arguments as `build_index`."""
        self._add(photo_index.add_images, images, errors, progress)

    def remove(self, ids: str | Iterable[str]) -> None:
        """Removes images; InputError, and none is removed, if one is not there."""
        ids = dict.fromkeys([ids] if isinstance(ids, str) else ids)
        if self.path is not None:
            photo_index.remove_images(self.path, ids)
            self._open(self.path)
            return
        store = memory.without_images(self._index.store, ids)
        for id in ids:
            self._index.places.outside.pop(id, None)
            self._thumbnails.pop(id, None)
        self._use(self._index._replace(store=store))

    def prune(self) -> list[str]:
        """Removes images whose files were deleted, and gives their ids.

        A file counts as deleted if its folder exists and is not empty. Nothing else
        forgets images: those absent may be on a drive that is not mounted.
        """
        if self.path is None:
            return []
        gone = photo_index.absent_images(self.path).gone
        self.remove(gone)
        return gone

    @overload
    def search(
        self,
        images: ImageLike | Features,
        top: int = 10,
        *,
        errors: Literal["raise"] = "raise",
    ) -> SearchResults: ...

    @overload
    def search(self, images: Any, top: int = 10, *, errors: Errors = ...) -> Any: ...

    def search(
        self,
        images: ImageLike | Features | Iterable[ImageLike | Features],
        top: int = 10,
        *,
        errors: Errors = "raise",
    ) -> Any:
        """The `SearchResults` of an image; of several a list of them.

        Candidates are found by global descriptor; the best hundred of them are verified
        by local features.

        Args:
          images: of any kind that `extract` takes, or features that it gave.
          top: results of each; 0: all.
          errors: of an image that cannot be used: "raise" the InputError, or "return"
            it in the place of the results.
        """
        one_call.check_errors(errors)
        queries = [one_call.read_once(image) for image in one_call.as_list(images)]
        found = one_call.features_of(queries, self.model, self.settings)
        if errors == "raise":
            found = map(one_call.raise_error, found)
        answers = [
            each if isinstance(each, InputError) else self._answer(image, each, top)
            for image, each in zip(queries, found, strict=True)
        ]
        return answers[0] if one_call.is_image(images) else answers

    def _answer(self, image: Any, features: Features, top: int) -> SearchResults:
        store = self._index.store
        if self._find is None:
            self._find = _first_stage(self._index)
        k = max(top, CANDIDATES + 1) if top else len(store)
        ((similarities, rows),) = self._find([features], k)
        source = features.image if isinstance(image, Features) else image
        own = -1
        if isinstance(source, str | os.PathLike):
            own = photo_index.own_row(self._index, pathlib.Path(source))
        how = matching.verification_settings(model=self.model)
        results = rank(store, features, rows, similarities, self.settings, how, own=own)

        def picture(id: str | None) -> Thumbnail | None:
            if id in self._thumbnails:
                return self._thumbnails[id]
            return read_thumbnail(source if id is None else self.file(id), _SIDE)

        found, notes = results[: top or None], []
        if self.path is not None:
            outsiders = self._index.outsiders(result.image for result in found)
            notes = [self._index.shortfall, outsiders]
        itself = store.ids[own] if own >= 0 else None
        judged = judge_results(results, features, self.settings, itself, how)
        return SearchResults(features.image, found, picture, judged, notes)

    def _use(self, index: Index) -> None:
        self._index, self._find = index, None

    def _open(self, path: pathlib.Path) -> None:
        index = photo_index.open_index(path)
        photo_index.check_model(index, self.model, self.settings)
        self._use(index)
        self.failed = dict(index.store.failed)

    def _add(
        self, change: Callable, images: Any, errors: Errors, progress: bool
    ) -> None:
        """change: `make_index` or `add_images`, where the index is in a folder."""
        one_call.check_errors(errors)
        given = list(one_call.as_list(images))
        if self.path is None:
            failed = self._add_to_memory(given, progress)
        else:
            failed = self._add_to_folder(self.path, change, given, progress)
        if not failed:
            return
        image, reason = next(iter(failed.items()))
        if errors == "raise":
            raise InputError(reason, image)
        count = format_count(len(failed), "image")
        warnings.warn(f"{count} left out, see .failed; first: {reason}", stacklevel=3)

    def _add_to_folder(
        self, path: pathlib.Path, change: Callable, images: list, progress: bool
    ) -> dict[str, str]:
        """What failed, once the others are in the index."""
        if not all(isinstance(image, str | os.PathLike) for image in images):
            raise InputError(
                f"{path}: an index in a folder takes image files; without a path it "
                "is in memory and takes images of any kind"
            )
        there, absent = _split(images)
        failed = dict(absent)
        if there or not absent:
            report = change(there, path, self.model, self.settings, progress=progress)
            failed |= report.failed
            self._open(path)
        self.failed |= absent
        return failed

    def _add_to_memory(self, images: list, progress: bool) -> dict[str, str]:
        """What failed, once the features of the others are here."""
        files = [image for image in images if isinstance(image, str | os.PathLike)]
        there, failed = _split(files)
        known = self._index.places.outside
        named: dict[str, Any] = {}
        for id, path in find_images(there) if there else ():
            taken = id in self._index.store.records and known.get(id) != path
            named[path.as_posix() if taken else id] = path
        names = {*self.ids, *named}
        numbers: dict[str, Iterator[int]] = {}
        for image in images:
            if not isinstance(image, str | os.PathLike):
                name = image_name(image, len(self) + len(named) + 1)
                name = _free_name(name, names, numbers)
                names.add(name)
                named[name] = one_call.read_once(image)
        features = {}
        with track("extract", len(named), progress=progress) as advance:
            found = one_call.extract_each(named.values(), self.model, self.settings)
            for (id, image), each in zip(named.items(), found, strict=True):
                advance()
                if isinstance(each, InputError):
                    failed[id] = str(each)
                    continue
                features[id] = each
                if isinstance(image, pathlib.Path):
                    known[id] = image
                else:
                    self._thumbnails[id] = read_thumbnail(image, _SIDE)
        self.failed = {i: r for i, r in self.failed.items() if i not in features}
        self.failed |= failed
        store = memory.with_features(self._index.store, features)
        self._use(self._index._replace(store=store))
        return failed


def build_index(
    images: ImageLike | Iterable[ImageLike],
    path: str | os.PathLike | None = None,
    model: one_call.ModelLike = None,
    *,
    errors: Errors = "return",
    progress: bool = True,
    **settings: Any,
) -> PhotoIndex:
    """An index of images, in memory, or with a path, of image files in that folder.

    What is in the folder and unchanged is kept, and so are images whose files are gone:
    `prune` and `remove` forget them.

    Args:
      images: a folder of image files, several images, or one.
      path: the folder of the index, which `open_index` opens again.
      model: a model, its folder, or None for the bundled one.
      errors: images that cannot be used are left out and listed in `.failed`; "return"
        warns of them, "raise" raises the first InputError.
      settings: as of `extract`.
    """
    if isinstance(images, str | os.PathLike) and not os.path.exists(images):
        raise InputError(f"{os.fspath(images)}: no such file or folder")
    folder = None if path is None else pathlib.Path(path)
    model = photo_index.model_of(path, model) if path else one_call.open_model(model)
    index = PhotoIndex(model, settings_for(model, **settings), folder)
    index._add(photo_index.make_index, images, errors, progress)
    return index


def open_index(
    path: str | os.PathLike, model: one_call.ModelLike = None, **settings: Any
) -> PhotoIndex:
    """The index in a folder, to be searched with the settings that it was made with.

    InputError if it is absent, damaged, or was made by another model.

    Args:
      model: the model that made it, its folder, or None for the bundled one; of an
        index with a global model, for the two that it was made by.
      settings: pca and global_pca, if others than the model's were taken.
    """
    path = pathlib.Path(path)
    manifest = photo_index.open_index(path).store.manifest
    stored = manifest["settings"] or {}
    kept = {*ExtractionSettings._fields} - {*PCA_FIELDS}
    stored = {name: value for name, value in stored.items() if name in kept}
    model = photo_index.model_of(path, model)
    photo_index.check_global_model(path, manifest, model)
    index = PhotoIndex(model, settings_for(model, **stored | settings), path)
    index._open(path)
    return index


def _first_stage(index: Index) -> FirstStage:
    descriptors = None
    if index.directory == memory.NAME:
        found = index.store.global_descriptors
        descriptors = global_search.from_array(found, "float32")
    return by_global_descriptors(index, descriptors)


def _split(files: list[str | os.PathLike]) -> tuple[list, dict[str, str]]:
    """The files and folders that exist, and why the others cannot be used."""
    there = [file for file in files if os.path.exists(file)]
    absent = [os.fspath(file) for file in files if not os.path.exists(file)]
    return there, {file: f"{file}: no such file or folder" for file in absent}


def _free_name(name: str, taken: set[str], numbers: dict[str, Iterator[int]]) -> str:
    """The name, or with a number behind it the first that is not taken.

    Args:
      numbers: of names that came before, those that follow.
    """
    if name not in taken:
        return name
    following = numbers.setdefault(name, itertools.count(2))
    return next(n for i in following if (n := f"{name} ({i})") not in taken)
