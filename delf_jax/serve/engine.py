"""An index that is open to be searched, compared with, and added to.

All of it is for one thread; see worker.py.
"""

import itertools
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from delf_jax import images
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.one_call import raise_error
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.files import InputError, atomic_write
from delf_jax.image_files import FORMATS, is_hidden
from delf_jax.index import photo_index
from delf_jax.index.photo_index import Index
from delf_jax.search import matching, query
from delf_jax.search.query import CANDIDATES, FirstStage, Result
from delf_jax.search.verdict import Verdict

# Uploads have fewer pixels than files may: 16 bytes each while they are resized.
MOST_PIXELS = 64_000_000
# The folder of the index's root that photos are added to.
ADDED = "added"
# Candidates that are verified between two answers.
_STEP = 10
# Seconds for which an index is taken to be unchanged.
_FRESH = 1.0
# Pixels of a photo, as extracted, that a disc of the attention overlay is wide: three
# cells of the map, in which the strongest are neighbours.
_DISC = 48
_MOST_LETTERS = 100

Box = tuple[float, float, float, float]
"""(y_min, x_min, y_max, x_max) in parts of height and width"""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class NotFound(InputError):
    """There is no such photo."""


class Found(NamedTuple):
    """What is known so far of a search: candidates, then the best of them verified."""

    results: list[Result]
    """those asked for, best first; lines are in parts of the whole query photo"""
    verified: int
    candidates: int
    """how many will be verified"""
    verdict: Verdict
    """empty until all are"""
    more: bool
    """whether there are results behind these"""
    attention: Float[np.ndarray, "N 4"]
    """of the query, as `Engine.attention` gives it"""
    searched: Index


class Engine:
    """An index, its model, and what is needed to search it."""

    def __init__(
        self,
        directory: str | os.PathLike,
        model: Model,
        settings: ExtractionSettings,
        codebook: str | os.PathLike | None = None,
    ):
        self.problem = ""
        """why the index could not be opened again after a change; "": it could"""
        self._directory = pathlib.Path(directory)
        self._model, self.settings, self._codebook = model, settings, codebook
        self._verification = matching.verification_settings(model=model)
        index = photo_index.open_index(self._directory)
        self._stamp, self._looked = _stamp(self._directory), time.monotonic()
        self._use(index)

    @property
    def index(self) -> Index:
        """As it was last opened."""
        return self._index

    def search(
        self, photo: bytes, top: int, skip: int = 0, box: Box = WHOLE
    ) -> Iterator[Found]:
        """What is found for a photo, or a part of it: at once, then as it is verified.

        Args:
          top, skip: results, from that place on.
        """
        self.refresh()
        index, features = self._index, self._extract(photo, box)
        local = features.local
        count = max(skip + top, CANDIDATES)
        ((similarities, rows),) = self._find([features], count)
        steps = query.rank_in_steps(
            *(index.store, features, rows, similarities, self.settings),
            *(self._verification, _STEP),
        )
        candidates = min(len(rows), CANDIDATES) if local is not None else 0
        attention = _onto_whole(_attention(features), box)
        attention[:, 2] *= max(box[2] - box[0], box[3] - box[1])
        for results, verified in steps:
            verdict = Verdict()
            if verified == candidates:
                verdict = query.judge_results(
                    results, features, self.settings, None, self._verification
                )
            shown = [_with_whole_lines(r, box) for r in results[skip : skip + top]]
            more = skip + top < len(index.store)
            yield Found(shown, verified, candidates, verdict, more, attention, index)

    def match(self, photo: bytes, other: bytes | str) -> Iterator[dict[str, Any]]:
        """What two photos have in common, as `match --json`; other: bytes, or an id."""
        self.refresh()
        second = self._stored(other) if isinstance(other, str) else self._extract(other)
        bounds = self.settings.size_bounds
        first = self._extract(photo)
        found = matching.compare_features(first, second, bounds, self._verification)
        yield matching.to_json(found, ["photo", second.image or "other"])

    def attention(self, id: str) -> Iterator[Float[np.ndarray, "N 4"]]:
        """(y, x, size, attention) of each local feature of a photo of the index.

        y and x are in parts of height and width, sizes in parts of the longer side.
        """
        yield _attention(self._stored(id))

    def add(self, photo: bytes, name: str) -> Iterator[str]:
        """The id of a photo once it is saved in the index's folder, and indexed."""
        self.refresh()
        self._decode(photo)
        path = _free_path(self._index.places.root / ADDED, name)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as file:
            file.write(photo)
        report = photo_index.add_images(
            [path], self._directory, self._model, self.settings, progress=False
        )
        id = path.relative_to(self._index.places.root).as_posix()
        if report.failed:
            photo_index.remove_images(self._directory, [id])
            path.unlink()
            reason = next(iter(report.failed.values()))
            raise InputError(reason.removeprefix(f"{path}: "))
        self._looked = 0.0
        self.refresh()
        yield id

    def refresh(self) -> None:
        """Opens the index again if it has changed since, by whatever process.

        One that cannot be opened is searched as it was: its files are mapped.
        """
        now = time.monotonic()
        if now - self._looked < _FRESH:
            return
        self._looked = now
        try:
            stamp = _stamp(self._directory)
            if stamp != self._stamp:
                self._use(photo_index.open_index(self._directory))
                self._stamp = stamp
            self.problem = ""
        except (InputError, OSError) as error:
            self.problem = str(error)

    def _use(self, index: Index) -> None:
        if not len(index.store):
            raise InputError(f"{self._directory}: has no photos; index some first")
        photo_index.check_model(index, self._model, self.settings)
        self._find: FirstStage = query.first_stage(
            index, self.settings, self._codebook, progress=False
        )
        self._index = index

    def _extract(self, photo: bytes, box: Box = WHOLE) -> Features:
        """Features of an upload; InputError if it is no photo."""
        pixels = _crop(self._decode(photo), box)
        (found,) = extract_features(self._model, [pixels], self.settings)
        try:
            return raise_error(found)
        except InputError as error:
            raise InputError(str(error).removeprefix("image 1: ")) from None

    def _decode(self, photo: bytes) -> UInt8[np.ndarray, "H W 3"]:
        return images.decode_image(photo, min(self.settings.max_pixels, MOST_PIXELS))

    def _stored(self, id: str) -> Features:
        check_id(self._index, id)
        return self._index.store[self._index.store.row(id)]


def check_id(index: Index, id: str) -> None:
    """NotFound if the index has no photo of this id."""
    place = index.store.records.get(id)
    if place is None or not place.extracted:
        raise NotFound(f"no photo {id!r:.200} in the index")


def _stamp(directory: pathlib.Path) -> list[tuple[int, ...]]:
    """Another when an index has changed: shards are files that come and go."""
    paths = directory / "index.json", directory / "store", directory / "store/shards"
    found = [path.stat() for path in (*paths, directory / "store/manifest.json")]
    return [(each.st_ino, each.st_mtime_ns, each.st_size) for each in found]


def _crop(pixels: UInt8[np.ndarray, "H W 3"], box: Box) -> UInt8[np.ndarray, "h w 3"]:
    height, width = pixels.shape[:2]
    sides = np.array([height, width, height, width])
    top, left, bottom, right = np.rint(np.array(box) * sides).astype(int)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _with_whole_lines(result: Result, box: Box) -> Result:
    """The result with lines that end in the whole query photo, not in a part of it."""
    lines = _onto_whole(np.asarray(result.lines, np.float64), box)
    return result._replace(lines=lines)


def _onto_whole(rows: Float[np.ndarray, "N 4"], box: Box) -> Float[np.ndarray, "N 4"]:
    """Rows that begin with (y, x) in a part of a photo, which they get in the whole."""
    top, left, bottom, right = box
    places = rows[:, :2] * [bottom - top, right - left] + [top, left]
    return np.concatenate([places, rows[:, 2:]], axis=1)


def _attention(
    features: Features,
) -> Float[np.ndarray, "N 4"]:
    if features.local is None:
        return np.zeros((0, 4))
    locations, scales, _, attention = map(np.asarray, features.local)
    sizes = np.maximum(features.image_size, 1)
    discs = scales * (_DISC / sizes.max())
    return np.column_stack([(locations + 0.5) / sizes, discs, attention])


def _free_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A path in the folder that no file has, named as the upload says, if it may be."""
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(letter for letter in name if letter.isprintable())
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in " ".join(FORMATS.values()).split():
        stem, suffix = name, ".jpg"  # Its bytes say what it is.
    stem = stem[:_MOST_LETTERS].strip()
    stem = "photo" if not stem or is_hidden(stem) else stem
    names = itertools.chain([stem], (f"{stem} ({n})" for n in itertools.count(2)))
    paths = (folder / f"{each}{suffix}" for each in names)
    return next(path for path in paths if not os.path.lexists(path))
