"""Retrieval datasets: which photos show what the query photos show.

A dataset is a ground truth of the revisited benchmarks [ROP] with a folder of photos,
the text files of the original Oxford5k and Paris6k with their photos, or a folder of
folders, one for each landmark.
"""

import functools
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.files import InputError, digest, sha256_of
from delf_jax.formats import tables
from delf_jax.formats.datasets import oxford, revisited
from delf_jax.image_files import find_images
from delf_jax.names import Finder, finder, plain
from delf_jax.retrieval import metrics

# Where photos are looked for beside a ground truth: the first is that of the published
# downloads of Revisited Oxford and Paris.
_FOLDERS = ("jpg", "images")
# So many missing photos are named.
_NAMED = 5
# These of Paris6k's download are no images: nobody has them in the index.
_DAMAGED = {
    f"paris_{name}"
    for name in (
        "louvre_000136 louvre_000146 moulinrouge_000422 museedorsay_001059 "
        "notredame_000188 pantheon_000284 pantheon_000960 pantheon_000974 "
        "pompidou_000195 pompidou_000196 pompidou_000201 pompidou_000467 "
        "pompidou_000640 sacrecoeur_000299 sacrecoeur_000330 sacrecoeur_000353 "
        "triomphe_000662 triomphe_000833 triomphe_000863 triomphe_000867"
    ).split()
}

Ids = list[Int[np.ndarray, " _"]]


class Photo(NamedTuple):
    """A photo by the name that the ground truth has for it."""

    name: str
    id: str
    """its path within the folder of photos; the name, if it is missing"""
    path: pathlib.Path | None
    """None if it is missing"""


class _Photos(NamedTuple):
    """The photos of a folder, which names are looked up in."""

    found: list[tuple[str, pathlib.Path]]
    """(id, path)"""
    find: Finder


class Protocol(NamedTuple):
    """What is right, for each query: places in the index."""

    positives: Ids
    junk: Ids
    """photos that count neither way"""


class Dataset(NamedTuple):
    """What is searched for, among what, and what is right."""

    name: str
    version: str
    """SHA-256 of the ground truth"""
    index: list[Photo]  # type: ignore[assignment]  # hides tuple.index
    queries: list[Photo]
    boxes: Float[np.ndarray, "Q 4"] | None
    """(y_min, x_min, y_max, x_max) of what is searched for; None: of all of a photo"""
    protocols: dict[str, Protocol]
    landmarks: list[str] | None
    """what each query shows, where that is known"""
    seen: tuple[str, ...] = ()
    """queries that the protocols "..._unseen" leave out; see overlap.py"""


def read_dataset(
    path: str | os.PathLike, images: str | os.PathLike | None = None
) -> Dataset:
    """The dataset of a ground truth (.mat, .pkl, .json) or of a folder of folders.

    A folder of text files is a ground truth, too: that of Oxford5k or Paris6k.
    `labels.csv` beside it, with columns image and landmark, names the landmarks of the
    queries. Missing photos are those without a path: see `missing_photos`.

    Args:
      images: folder of the photos of a ground truth; None: `jpg` or `images` beside it.
    """
    path = pathlib.Path(path)
    if next(path.glob(f"*{oxford.QUERY}"), None) is not None:
        return _read_original(path, _image_folder(path, images))
    if path.is_dir():
        if images is not None:
            raise InputError(f"{path}: a folder of photos; --images goes with a file")
        return _read_folders(path)
    return _read_revisited(path, _image_folder(path, images))


def missing_photos(dataset: Dataset) -> dict[str, str]:
    """Photos of index and queries that were not found: name -> reason."""
    photos = [*dataset.index, *dataset.queries]
    return {photo.name: "no such file" for photo in photos if photo.path is None}


def index_files(dataset: Dataset) -> list[tuple[str, pathlib.Path]]:
    """(id, path) of the photos of the index that were found."""
    return [(photo.id, photo.path) for photo in dataset.index if photo.path is not None]


def format_missing(missing: Collection[str]) -> str:
    """How many photos are missing, and the names of the first."""
    names, more = list(missing)[:_NAMED], len(missing) - _NAMED
    rest = f" and {more} more" if more > 0 else ""
    photos = "photo" if len(missing) == 1 else "photos"
    return f"{len(missing)} {photos} missing ({', '.join(names)}{rest})"


def drop_missing(dataset: Dataset, missing: Collection[str]) -> Dataset:
    """The dataset without some photos, as query, positive or junk; InputError if empty.

    What is scored on it cannot be compared with results on the whole.
    """
    kept = [photo.name not in missing for photo in dataset.index]
    places = np.where(kept, np.cumsum(kept) - 1, -1)
    rest = [i for i, query in enumerate(dataset.queries) if query.name not in missing]
    if not any(kept) or not rest:
        raise InputError(f"{dataset.name}: no {'query' if any(kept) else 'photo'} left")

    def renumber(lists: Ids) -> Ids:
        renumbered = (places[lists[query]] for query in rest)
        return [ids[ids >= 0].astype(np.int32) for ids in renumbered]

    return dataset._replace(
        index=[p for p, keep in zip(dataset.index, kept, strict=True) if keep],
        queries=[dataset.queries[query] for query in rest],
        boxes=None if dataset.boxes is None else dataset.boxes[rest],
        protocols={
            name: Protocol(*map(renumber, lists))
            for name, lists in dataset.protocols.items()
        },
        landmarks=dataset.landmarks and [dataset.landmarks[query] for query in rest],
    )


def of_landmarks(dataset: Dataset, landmarks: Collection[str]) -> Dataset:
    """The dataset with the queries of some landmarks; InputError if one has none."""
    known = dataset.landmarks or []
    for name in landmarks:
        if name not in known:
            raise InputError(
                f"{dataset.name}: no query shows the landmark {name!r:.80}"
            )
    kept = [query for query, name in enumerate(known) if name in landmarks]

    def choose(lists: Ids) -> Ids:
        return [lists[query] for query in kept]

    return dataset._replace(
        queries=[dataset.queries[query] for query in kept],
        boxes=None if dataset.boxes is None else dataset.boxes[kept],
        protocols={
            name: Protocol(*map(choose, lists))
            for name, lists in dataset.protocols.items()
        },
        landmarks=[known[query] for query in kept],
    )


def _read_revisited(path: pathlib.Path, images: pathlib.Path | None) -> Dataset:
    truth = revisited.read_ground_truth(path)
    if len(set(truth.index_images)) < len(truth.index_images):
        raise InputError(f"{path}, imlist: lists a photo twice")
    if not truth.index_images or not truth.query_images:
        raise InputError(f"{path}: lists no photos or no queries")
    photos = _find_photos(images)
    index = [_locate(name, photos) for name in truth.index_images]
    _check_distinct(index, f"{path}, imlist")
    return Dataset(
        name=path.stem.removeprefix("gnd_"),
        version=sha256_of(path),
        index=index,
        queries=[_locate(name, photos) for name in truth.query_images],
        boxes=truth.boxes,
        protocols=_protocols(truth),
        landmarks=_read_landmarks(path.with_name("labels.csv"), truth.query_images),
    )


def _protocols(truth: revisited.GroundTruth) -> dict[str, Protocol]:
    """Easy, medium and hard; only one, "all", where no photo is called hard."""
    nothing = [np.zeros(0, np.int32) for _ in truth.query_images]
    easy, hard = truth.easy or nothing, truth.hard or nothing
    junk = truth.junk or nothing
    if not any(map(len, hard)):
        return {"all": Protocol(easy, junk)}
    return {
        name: Protocol(*metrics.protocol_lists(name, easy, hard, junk))
        for name in ("easy", "medium", "hard")
    }


def _read_original(folder: pathlib.Path, images: pathlib.Path | None) -> Dataset:
    """Oxford5k or Paris6k: all photos of a folder, good and ok ones are right."""
    queries = oxford.read_ground_truth(folder)
    photos = _find_photos(images)
    here = [Photo(path.stem, id, path) for id, path in photos.found]
    _check_distinct(here, str(images))
    known = {photo.name: photo for photo in here}

    @functools.cache
    def photo(name: str) -> Photo:
        """What a list means, which may say .jpg, named as all photos are: without."""
        located = _locate(name, photos)
        named = plain(name) if located.path is None else located.path.stem
        return known.setdefault(named, Photo(named, named, None))

    shown = [photo(query.photo) for query in queries]
    right = [[photo(name).name for name in (*q.good, *q.ok)] for q in queries]
    junk = [[photo(name).name for name in query.junk] for query in queries]
    names = sorted(known.keys() - _DAMAGED)
    places = {name: place for place, name in enumerate(names)}

    def ids(names: Sequence[str]) -> Int[np.ndarray, " _"]:
        # Sets, as in the original: a photo that is listed twice counts once.
        found = (places[name] for name in dict.fromkeys(names) if name in places)
        return np.array([*found], np.int32)

    files = [(file.name, sha256_of(file)) for file in sorted(folder.glob("*.txt"))]
    return Dataset(
        name=folder.resolve().name,
        version=digest([names, files]),
        index=[known[name] for name in names],
        queries=shown,
        boxes=np.array([query.box for query in queries]),
        protocols={"all": Protocol([*map(ids, right)], [*map(ids, junk)])},
        landmarks=[query.name.rpartition("_")[0] for query in queries],
    )


def _read_folders(folder: pathlib.Path) -> Dataset:
    """Leave-one-out: each photo is searched for among the others of all folders.

    Photos in folders whose names begin with "_", or in none, are distractors.
    """
    photos = [Photo(id, id, path) for id, path in find_images([folder])]
    classes = [photo.id.split("/")[0] if "/" in photo.id else "_" for photo in photos]
    if all(name.startswith("_") for name in classes):
        raise InputError(f"{folder}: no photos in folders, one for each landmark")
    return leave_one_out(folder.resolve().name, photos, classes)


def leave_one_out(name: str, photos: list[Photo], classes: list[str]) -> Dataset:
    """Each photo is searched for among all others; right are those of its class.

    Args:
      classes: of each photo; one that begins with "_" is of distractors.
    """
    queries = [i for i, label in enumerate(classes) if not label.startswith("_")]
    names = np.array(classes)
    own = [np.array([query], np.int32) for query in queries]
    same = [np.flatnonzero(names == names[i]).astype(np.int32) for i in queries]
    others = [np.setdiff1d(*pair) for pair in zip(same, own, strict=True)]
    return Dataset(
        name=name,
        version=digest("\n".join(photo.id for photo in photos)),
        index=photos,
        queries=[photos[query] for query in queries],
        boxes=None,
        protocols={"all": Protocol(others, own)},
        landmarks=[classes[query] for query in queries],
    )


def _image_folder(
    path: pathlib.Path, images: str | os.PathLike | None
) -> pathlib.Path | None:
    if images is not None:
        return pathlib.Path(images)
    folders = (path, path.parent) if path.is_dir() else (path.parent,)
    beside = [folder / name for folder in folders for name in _FOLDERS]
    return next((folder for folder in beside if folder.is_dir()), None)


def _find_photos(folder: pathlib.Path | None) -> _Photos:
    """The photos of a folder; none if there is no folder."""
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: no such folder of photos")
    found = [] if folder is None else find_images([folder])
    return _Photos(found, finder([id for id, _ in found]))


def _locate(name: str, photos: _Photos) -> Photo:
    """The photo that a ground truth means: the published ones leave out ".jpg"."""
    places = photos.find(name)
    if len(places) > 1:
        paths = ", ".join(str(photos.found[place][1]) for place in places[:2])
        raise InputError(f"photo {name!r} is ambiguous: {paths}")
    id, path = photos.found[places[0]] if places else (name, None)
    return Photo(name, id, path)


def _check_distinct(photos: Sequence[Photo], where: str) -> None:
    """InputError if two names are of one photo, or two photos have one name."""
    by_id: dict[str, Photo] = {}
    by_name: dict[str, Photo] = {}
    for photo in photos:
        if (other := by_name.setdefault(photo.name, photo)) is not photo:
            raise InputError(
                f"photo {photo.name!r} is ambiguous: {other.path}, {photo.path}"
            )
        if (other := by_id.setdefault(photo.id, photo)) is not photo:
            raise InputError(
                f"{where}: {other.name!r:.80} and {photo.name!r:.80} are one photo, "
                f"{photo.id}; list it once"
            )


def _read_landmarks(path: pathlib.Path, queries: Sequence[str]) -> list[str] | None:
    """The landmark of each query, of labels.csv; None without such a file."""
    if not path.exists():
        return None
    columns = {"image": str, "landmark": str}
    rows = dict(tables.read_columns(path, columns))
    find, landmarks = finder(list(rows)), list(rows.values())
    found = []
    for query in queries:
        places = find(query)
        if len(places) != 1 or not landmarks[places[0]]:
            raise InputError(f"{path}: no landmark for query {query!r}")
        found.append(landmarks[places[0]])
    return found
