"""A folder of photos that can be searched: made, changed, asked.

An index is a folder: `store/` holds the features and says which model made them (see
store.py), and `index.json` says where the photos are.
"""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from delf_jax import (
    global_descriptors,
    global_search,
    inverted_build,
    inverted_file,
    pairs,
    store,
)
from delf_jax.extraction import extract_features
from delf_jax.files import InputError, read_json, write_json
from delf_jax.global_search import Descriptors
from delf_jax.ops import Features
from delf_jax.retrieval import ranking
from delf_jax.retrieval.nearest import BLOCK, Best
from delf_jax.settings import ExtractionSettings
from delf_jax.store import FeatureStore, StoreReport
from delf_jax.weights import Model

FORMAT = 1
# As many of the most similar photos are verified.
CANDIDATES = pairs.VERIFICATION["default"].candidates
# One more query for so many photos waits to be searched for together with others: a
# pass over the index for each would then take longer than its extraction.
_PHOTOS_PER_QUERY = 4096

Paths = Iterable[str | os.PathLike]


class Index(NamedTuple):
    """What can be searched."""

    directory: pathlib.Path
    store: FeatureStore
    places: "Places"

    def file(self, image: str) -> pathlib.Path:
        """Where the photo with this id was when it was indexed."""
        return self.places.file(image)

    def __str__(self) -> str:
        return f"{self.directory.name} ({len(self.store)} photos)"


class Places(NamedTuple):
    """Where the photos of an index are."""

    root: pathlib.Path
    """ids are paths within it"""
    outside: dict[str, pathlib.Path]
    """photos that were added from elsewhere, by id"""

    def file(self, image: str) -> pathlib.Path:
        return self.outside.get(image, self.root / image)


class Result(NamedTuple):
    """One photo that was found."""

    image: str
    similarity: float
    inliers: int | None
    """verified matches; None if the photo was not among those verified"""
    lines: Float[np.ndarray, "P 4"]
    """inliers as (y, x) in the query and (y, x) here, in parts of height and width"""


# (similarities, rows), best first, of each query, from the queries and how many.
FirstStage = Callable[[Sequence[Features], int], Best]


class Answer(NamedTuple):
    """What was found for one query, best first."""

    image: str
    path: pathlib.Path
    results: list[Result]


def make_index(
    paths: Paths,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    shown: bool = True,
) -> StoreReport:
    """Indexes images and folders; what is there already and unchanged is kept.

    Photos of the index whose file is gone are forgotten. InputError if `directory`
    holds an index of another folder.
    """
    found = store.find_images(paths)
    image, path = found[0]
    root = pathlib.Path(os.path.abspath(path)).parents[image.count("/")]
    places = Places(root, {})
    if _path(directory).exists():
        places = _read_places(directory)
        if places.root not in (root, *root.parents):
            raise InputError(
                f"{directory}: holds an index of {places.root}; use --add, or another "
                "folder for another index"
            )
    return _update(found, pathlib.Path(directory), places, model, settings, shown)


def add_images(
    paths: Paths,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    shown: bool = True,
) -> StoreReport:
    """Adds images and folders from anywhere to an index."""
    index = open_index(directory)
    _check_model(index, model, settings)
    found = store.find_images(paths)
    return _update(found, index.directory, index.places, model, settings, shown)


def remove_images(directory: str | os.PathLike, ids: Sequence[str]) -> int:
    """Number of images left; InputError, and none removed, if one is not there."""
    places = _read_places(directory)
    path = pathlib.Path(directory) / "store"
    store.remove_from_store(path, ids)
    if places.outside.keys() & set(ids):
        kept = {id: p for id, p in places.outside.items() if id not in ids}
        _write_places(directory, places._replace(outside=kept))
    return len(store.open_store(path))


def open_index(directory: str | os.PathLike) -> Index:
    """The index at `directory`; InputError if it is absent, damaged or truncated."""
    places = _read_places(directory)
    directory = pathlib.Path(directory)
    return Index(directory, store.open_store(directory / "store"), places)


def search(
    index: Index,
    queries: Sequence[pathlib.Path],
    model: Model,
    settings: ExtractionSettings,
    *,
    top: int = 10,
    rerank: bool = True,
    codebook: str | os.PathLike | None = None,
    descriptors: Descriptors | None = None,
    shown: bool = True,
) -> Iterator[Answer | InputError]:
    """The answer to each query photo, in order; InputError where one is unusable.

    top: results of each; 0: all. rerank: verify the best by geometry. codebook: compare
    by ASMK* with its visual words, not by global descriptors; the index keeps what that
    takes, so where there are no global descriptors it is named once. descriptors: of
    the index as global_descriptors.py opens them, in float32 by default. Under
    jax.distributed all processes call this; each searches its part of them. InputError
    at once if the index was made by another model or with other settings.
    """
    _check_model(index, model, settings)
    aggregated = codebook or not settings.global_scales
    if aggregated:
        find = _by_words(index, codebook, shown)
    else:
        find = _by_global_descriptors(index, descriptors)
    k = max(top, CANDIDATES + 1 if rerank else 0) if top else len(index.store)
    found = extract_features(model, queries, settings)
    size = 1 if aggregated else min(BLOCK, 1 + len(index.store) // _PHOTOS_PER_QUERY)
    asked = zip(queries, found, strict=True)
    while block := list(itertools.islice(asked, size)):
        usable = [each for _, each in block if not isinstance(each, InputError)]
        nearest = iter(zip(*find(usable, k), strict=True))
        for path, features in block:
            if isinstance(features, InputError):
                yield features
                continue
            similarities, rows = next(nearest)
            own = _own_row(index, path)
            results = rank(
                *(index.store, features, rows, similarities, settings),
                own=own,
                rerank=rerank,
            )
            yield Answer(str(path), pathlib.Path(path), results[: top or None])


def _by_words(
    index: Index, codebook: str | os.PathLike | None, shown: bool
) -> FirstStage:
    """The k images of each query that ASMK* finds the most similar."""
    inverted = inverted_build.inverted_file_of_index(
        index.directory, index.store, codebook, shown=shown
    )

    def find(queries: Sequence[Features], k: int) -> Best:
        found = [
            inverted_file.search(
                inverted, inverted_file.aggregate_query(inverted, query), k
            )
            for query in queries
        ]
        return Best([values for _, values in found], [rows for rows, _ in found])

    return find


def _by_global_descriptors(index: Index, descriptors: Descriptors | None) -> FirstStage:
    """The k images of each query that are globally most similar."""
    if descriptors is None:
        descriptors, _ = global_descriptors.open_descriptors(index.store)
    part = jax.process_index(), jax.process_count()
    held = global_search.hold(global_search.take_part(descriptors, *part))
    return functools.partial(find_first, held)


def find_first(descriptors: Descriptors, queries: Sequence[Features], k: int) -> Best:
    """The first stage: for each query the k images that are globally most similar."""
    if any(query.global_descriptor is None for query in queries):
        raise InputError("search needs global descriptors; set global_scales")
    if not queries:
        return Best(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64))
    asked = np.stack([np.asarray(query.global_descriptor) for query in queries])
    return global_search.find_nearest(descriptors, asked, k)


def rank(
    images: FeatureStore,
    query: Features,
    rows: Int[np.ndarray, " K"],
    similarities: Float[np.ndarray, " K"],
    settings: ExtractionSettings,
    *,
    own: int = -1,
    rerank: bool = True,
) -> list[Result]:
    """What a first stage found, best first: the first hundred again by evidence.

    rows, similarities: of images, the most similar first. own: row of the query photo
    itself, if it is in the index; it is verified, but is none of the hundred.
    """
    verified: dict[int, tuple[int, Float[np.ndarray, "P 4"]]] = {}
    order = rows
    if rerank and query.local is not None:
        count = np.count_nonzero(np.cumsum(rows != own) <= CANDIDATES)
        verified = _verify_all(images, query, rows[:count].tolist(), settings)
        inliers = np.array([verified[row][0] for row in rows[:count].tolist()], int)
        best = ranking.rerank(rows[:count], similarities[:count], inliers)
        order = np.concatenate([best, rows[count:]])
    nothing = None, np.zeros((0, 4))
    known = dict(zip(rows.tolist(), similarities.tolist(), strict=True))
    return [
        Result(images.ids[row], known[row], *verified.get(row, nothing))
        for row in order.tolist()
    ]


def describe(answers: Iterable[Answer]) -> dict[str, Any]:
    """The answers, ready for JSON."""
    return {
        "queries": [
            {
                "image": answer.image,
                "results": [
                    {
                        "image": result.image,
                        "similarity": round(result.similarity, 6),
                        "inliers": result.inliers,
                    }
                    for result in answer.results
                ],
            }
            for answer in answers
        ]
    }


def _own_row(index: Index, path: pathlib.Path) -> int:
    """The row of a query photo that is itself in the index; else -1."""
    path = pathlib.Path(os.path.abspath(path))
    by_path = {known: id for id, known in index.places.outside.items()}
    image = by_path.get(path)
    if image is None and path.is_relative_to(index.places.root):
        image = path.relative_to(index.places.root).as_posix()
    try:
        return -1 if image is None else index.store.row(image)
    except InputError:
        return -1


def _verify_all(
    images: FeatureStore,
    query: Features,
    rows: Sequence[int],
    settings: ExtractionSettings,
) -> dict[int, tuple[int, Float[np.ndarray, "P 4"]]]:
    """For each candidate its inliers, and where they are in parts of height, width."""
    found = pairs.verify_candidates(
        query, (images[row] for row in rows), settings.max_image_size
    )
    verified = {}
    for row, pair in zip(rows, found, strict=True):
        sizes = [image.image_size for image in pair.features]
        lines = (pairs.inlier_lines(pair) + 0.5) / np.concatenate(sizes)
        verified[row] = pair.inliers, lines
    return verified


def _update(
    found: Sequence[tuple[str, pathlib.Path]],
    directory: pathlib.Path,
    places: Places,
    model: Model,
    settings: ExtractionSettings,
    shown: bool,
) -> StoreReport:
    """Extracts what is new or changed, and forgets photos whose file is gone."""
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
        known = store.open_store(path, damaged=[]).ids
        for image in [*known, *places.outside]:
            if image not in files and places.file(image).exists():
                files[image] = places.file(image)
    # First the places: a killed job leaves no features whose photo is unknown.
    _write_places(directory, places)
    return store.extract_to_store(
        sorted(files.items()), path, model, settings, prune=True, shown=shown
    )


def _free_id(image: str, path: pathlib.Path, places: Places) -> str:
    """An id for a photo from elsewhere, with as many folders as make it unique."""
    by_path = {known: id for id, known in places.outside.items()}
    if path in by_path:
        return by_path[path]
    parts = path.parts[1:]
    for length in range(image.count("/") + 1, len(parts) + 1):
        image = "/".join(parts[-length:])
        taken = image in places.outside or (places.root / image).exists()
        if not taken:
            return image
    raise InputError(f"{path}: another photo of this index has the same id")


def _path(directory: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(directory) / "index.json"


def _write_places(directory: str | os.PathLike, places: Places) -> None:
    outside = {image: str(path) for image, path in places.outside.items()}
    values = {"format": FORMAT, "root": str(places.root), "outside": outside}
    write_json(_path(directory), values)


def _read_places(directory: str | os.PathLike) -> Places:
    path = _path(directory)
    if not path.exists():
        raise InputError(f"{directory}: no index here (index.json is missing)")
    values = read_json(path)
    try:
        if values["format"] != FORMAT:
            raise InputError(f"{path}: an index of another version; index again")
        outside = {id: pathlib.Path(p) for id, p in values["outside"].items()}
        return Places(pathlib.Path(values["root"]), outside)
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; index again") from None


def _check_model(index: Index, model: Model, settings: ExtractionSettings) -> None:
    """Features of different models, or settings, cannot be compared."""
    made_by = index.store.manifest["model"]
    if made_by["fingerprint"] == "":
        raise InputError(
            f"{index.directory}: holds features from files ({made_by['name']}), which "
            "cannot be compared with those of a model; index the photos themselves"
        )
    if made_by["fingerprint"] != model.fingerprint:
        raise InputError(
            f"{index.directory}: was indexed by model {made_by['name']} "
            f"({made_by['fingerprint'][:8]}), not by {model.name} "
            f"({model.fingerprint[:8]}); name that one with --model, or index again"
        )
    boxes = index.store.manifest.get("with_boxes", False)
    if store.store_key(model, settings, boxes) != index.store.manifest["key"]:
        raise InputError(
            f"{index.directory}: was indexed with other settings; give the same "
            "--config, or index again"
        )
