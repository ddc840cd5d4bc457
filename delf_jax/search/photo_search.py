"""An index of images that is built, searched and shown in a few calls.

In memory or in a folder, what is searched is a feature store, and `query.py` ranks. In
memory the images may be of any kind; in a folder they are files.
"""

import html
import itertools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from delf_jax.extraction.extract import has_local
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.one_call import (
    Errors,
    ModelLike,
    as_list,
    check_errors,
    extract_each,
    features_of,
    is_image,
    open_model,
    read_once,
)
from delf_jax.extraction.settings import PCA_FIELDS, ExtractionSettings, settings_for
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.images import ImageLike, find_images, image_name
from delf_jax.index import global_index, global_search, photo_index
from delf_jax.index.global_search import GlobalIndex
from delf_jax.index.photo_index import Index, Places
from delf_jax.progress import track
from delf_jax.report.html import Thumbnail, read_thumbnail
from delf_jax.search.query import CANDIDATES, Result, find_first, rank
from delf_jax.store import memory

# Pictures in a notebook: their longer side in pixels, and how many results at most.
_SIDE, _MOST_PICTURES = 160, 30


class SearchResults(list[Result]):
    """What was found for one image, best first; prints as a table.

    In a notebook it shows as pictures. `image` is the name of what was searched for.
    """

    def __init__(
        self,
        image: str,
        results: Iterable[Result],
        picture: Callable[[str | None], Thumbnail | None],
    ):
        super().__init__(results)
        self.image = image
        self._picture = picture

    def __repr__(self) -> str:
        width = max([5, *(len(result.image) for result in self)])
        lines = [f"{self.image}", f"rank  {'image':{width}}  similarity  inliers"]
        for place, (image, similarity, inliers, _) in enumerate(self, 1):
            count = "-" if inliers is None else inliers
            lines.append(f"{place:4}  {image:{width}}  {similarity:10.3f}  {count:>7}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = [_figure(self._picture(None), f"query: {self.image}", "")]
        for place, result in enumerate(self[:_MOST_PICTURES], 1):
            facts = f"similarity {result.similarity:.3f}"
            if result.inliers is not None:
                facts += f", {result.inliers} inliers"
            picture = self._picture(result.image)
            shown.append(_figure(picture, f"{place}. {result.image}", facts))
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(shown)}</div>'


class PhotoIndex:
    """Images that can be searched: of `build_index` or `open_index`."""

    path: pathlib.Path | None
    """its folder; None: in memory"""
    failed: dict[str, str]
    """images that cannot be used: name -> reason"""

    def __init__(
        self, model: Model, settings: ExtractionSettings, path: pathlib.Path | None
    ):
        self.model, self.settings, self.path = model, settings, path
        self.failed = {}
        self._thumbnails: dict[str, Thumbnail | None] = {}
        store = memory.empty_store(model, settings)
        self._use(Index(memory.NAME, store, Places(pathlib.Path(), {})))

    def __len__(self) -> int:
        return len(self._index.store)

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{self._index.directory}: {len(self)} images{failed}"

    @property
    def ids(self) -> list[str]:
        """The names of the images: of files, paths within the folder they share."""
        return self._index.store.ids

    def file(self, id: str) -> pathlib.Path:
        """Where the image with this id was when it was indexed."""
        return self._index.file(id)

    def add(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        errors: Errors = "return",
        progress: bool = True,
    ) -> None:
        """Adds an image, several, or all of a folder; as `build_index`."""
        check_errors(errors)
        given = list(as_list(images))
        if self.path is None:
            failed = self._add_to_memory(given, progress)
        else:
            exists = (self.path / "index.json").exists()
            change = photo_index.add_images if exists else photo_index.make_index
            failed = self._change_folder(self.path, change, given, progress)
        _report(failed, errors)

    def remove(self, ids: str | Iterable[str]) -> None:
        """Removes images by id; InputError, and none is removed, if one is absent."""
        ids = [ids] if isinstance(ids, str) else list(ids)
        if self.path is not None:
            photo_index.remove_images(self.path, ids)
            self._open_folder(self.path)
            return
        store = memory.without_images(self._index.store, ids)
        files = _without(self._index.places.outside, ids)
        self._thumbnails = _without(self._thumbnails, ids)
        self._use(Index(memory.NAME, store, Places(pathlib.Path(), files)))

    def search(
        self,
        images: ImageLike | Features | Iterable[ImageLike | Features],
        top: int = 10,
        *,
        errors: Errors = "raise",
    ) -> Any:
        """The most similar images to one, as `SearchResults`; of several a list.

        The best hundred by global descriptor are verified by local features.

        Args:
          images: of any kind that `extract` takes, or features that it gave.
          top: results of each; 0: all.
          errors: of an image that cannot be used: "raise" the InputError, or "return"
            it in the place of the results.
        """
        check_errors(errors)
        queries = [read_once(image) for image in as_list(images)]
        found = features_of(queries, self.model, self.settings)
        answers: list[SearchResults | InputError] = []
        for image, features in zip(queries, found, strict=True):
            if isinstance(features, Features):
                answers.append(self._answer(image, features, top))
            elif errors == "raise":
                raise features
            else:
                answers.append(features)
        return answers[0] if is_image(images) else answers

    def _answer(self, image: Any, features: Features, top: int) -> SearchResults:
        store = self._index.store
        if self._descriptors is None:
            self._descriptors = _open_descriptors(self._index)
        k = max(top, CANDIDATES + 1) if top else len(store)
        (similarities,), (rows,) = find_first(self._descriptors, [features], k)
        own = -1
        if isinstance(image, str | os.PathLike):
            own = photo_index.own_row(self._index, pathlib.Path(image))
        results = rank(store, features, rows, similarities, self.settings, own=own)

        def picture(id: str | None) -> Thumbnail | None:
            if id is not None:
                return self._thumbnail(id)
            source = features.image if isinstance(image, Features) else image
            return read_thumbnail(source, _SIDE)

        return SearchResults(features.image, results[: top or None], picture)

    def _thumbnail(self, id: str) -> Thumbnail | None:
        if id in self._thumbnails:
            return self._thumbnails[id]
        return read_thumbnail(self.file(id), _SIDE)

    def _use(self, index: Index) -> None:
        self._index = index
        self._descriptors: GlobalIndex | None = None

    def _open_folder(self, path: pathlib.Path) -> None:
        index = photo_index.open_index(path)
        photo_index.check_model(index, self.model, self.settings)
        self._use(index)
        self.failed = dict(index.store.failed)

    def _change_folder(
        self, path: pathlib.Path, change: Callable, images: list, progress: bool
    ) -> dict[str, str]:
        """What failed, once the files are in the index at `path`."""
        if not all(isinstance(image, str | os.PathLike) for image in images):
            raise InputError(
                f"{path}: an index in a folder takes image files; without a path it "
                "is in memory and takes images of any kind"
            )
        missing = {
            os.fspath(image): f"{os.fspath(image)}: no such file"
            for image in images
            if not os.path.exists(image)
        }
        files = [image for image in images if os.fspath(image) not in missing]
        report = None
        if files or not missing:
            report = change(
                files, path, self.model, self.settings, progress=progress
            )
            self._open_folder(path)
        self.failed |= missing
        return missing | (report.failed if report else {})

    def _add_to_memory(self, images: list, progress: bool) -> dict[str, str]:
        """What failed, once the features of the others are here."""
        named = self._named(images)
        features, failed, files = {}, {}, {}
        with track("extract", len(named), progress=progress) as advance:
            found = extract_each(
                (image for _, image in named), self.model, self.settings
            )
            for (id, image), each in zip(named, found, strict=True):
                advance()
                if isinstance(each, InputError):
                    failed[id] = str(each)
                    continue
                features[id] = each
                if isinstance(image, pathlib.Path):
                    files[id] = image
                else:
                    self._thumbnails[id] = read_thumbnail(image, _SIDE)
        self.failed = {id: r for id, r in self.failed.items() if id not in features}
        self.failed |= failed
        store = memory.with_features(self._index.store, features)
        places = Places(pathlib.Path(), self._index.places.outside | files)
        self._use(Index(memory.NAME, store, places))
        return failed

    def _named(self, images: list) -> list[tuple[str, Any]]:
        """(id, image) of each, and of each in the folders; files as absolute paths."""
        named: dict[str, Any] = {}
        paths = [image for image in images if isinstance(image, str | os.PathLike)]
        there = [path for path in paths if os.path.exists(path)]
        for path in paths:
            if not os.path.exists(path):
                named[os.fspath(path)] = pathlib.Path(path)
        known = self._index.places.outside
        for id, path in find_images(there) if there else []:
            named[id if known.get(id, path) == path else path.as_posix()] = path
        for image in images:
            if not isinstance(image, str | os.PathLike):
                name = image_name(image, len(self) + len(named) + 1)
                names = itertools.chain([name], (f"{name} ({n})" for n in itertools.count(2)))
                named[next(n for n in names if n not in {*self.ids, *named})] = read_once(image)
        return list(named.items())


def build_index(
    images: ImageLike | Iterable[ImageLike],
    path: str | os.PathLike | None = None,
    model: ModelLike = None,
    *,
    errors: Errors = "return",
    progress: bool = True,
    **settings: Any,
) -> PhotoIndex:
    """An index of images, in memory; with a path of image files, in that folder.

    A folder keeps what is there and unchanged, and forgets files that are gone.

    Args:
      images: several, one, or a folder of image files.
      path: the folder of the index; `open_index` opens it again.
      model: a model, its folder, or None for the bundled one.
      errors: images that cannot be used are left out and listed in `.failed`: "return"
        warns of them, "raise" raises the first InputError once the others are indexed.
      progress: report progress.
      settings: as of `extract`.
    """
    check_errors(errors)
    model = open_model(model)
    folder = None if path is None else pathlib.Path(path)
    index = PhotoIndex(model, settings_for(model, **settings), folder)
    ...


def open_index(
    path: str | os.PathLike, model: ModelLike = None, **settings: Any
) -> PhotoIndex:
    """The index in a folder, with the settings that it was made with.

    InputError if it is absent, damaged, or was made by another model.

    Args:
      path: the folder.
      model: the model that made it, its folder, or None for the bundled one.
      settings: as of `extract`: those that the index was made with, where they are not
        of the model nor written in the index (projections).
    """
