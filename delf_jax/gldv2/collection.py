"""The images of Google Landmarks v2 [GLDv2] with their features.

They lie as in the release: DATA/index, DATA/test and DATA/train hold a/b/c/abc....jpg,
and index.csv, test.csv, train.csv or train_clean.csv stand in DATA. Features are kept
in a store for each of the three, with the same ids as `extract DATA/index` gives them.
"""

import os
import pathlib
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.evaluation import datasets
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore
from delf_jax.store.shards import is_absent

_TABLES = {
    "index": ("index.csv",),
    # With landmarks, without which nothing can be excluded.
    "labelled index": ("index_image_to_landmark.csv",),
    "test": ("test.csv",),
    "train": ("train_clean.csv", "train.csv"),
}


_UNKNOWN = -1  # in place of a landmark, of an index image whose table has none.


class Listing(NamedTuple):
    """Images of one of the three sets, in the order of a table."""

    split: str
    table: pathlib.Path
    ids: list[str]
    landmarks: Int[np.ndarray, " N"] | None
    excluded: int
    """images that were left out because of what they show"""
    unlabelled: int
    """training images that were left out because no landmark is known of them"""


class Images(NamedTuple):
    """Images that have features."""

    ids: list[str]
    landmarks: Int[np.ndarray, " N"] | None
    store: FeatureStore
    rows: Int[np.ndarray, " N"]
    """of the images in the store"""

    def image(self, place: int) -> Features:
        """The features of one image."""
        return self.store[int(self.rows[place])]


def find_table(
    data: str | os.PathLike,
    split: str,
    table: str | os.PathLike | None = None,
    *,
    labelled: bool = False,
) -> pathlib.Path:
    """The table of a set, or the one that is named; InputError if that is not clear.

    Labelled: of the index the one that says what images show.
    """
    if table is not None:
        return pathlib.Path(table)
    names = _TABLES["labelled index" if labelled and split == "index" else split]
    found = [path for name in names if (path := pathlib.Path(data, name)).is_file()]
    if len(found) > 1:
        raise InputError(
            f"{data}: found {names[0]} and {names[1]}; name one with --{split}_list"
        )
    if not found:
        raise InputError(
            f"{data}: {' or '.join(names)} not found; name a table of images with "
            f"--{split}_list"
        )
    return found[0]


def list_images(
    data: str | os.PathLike,
    split: str,
    table: str | os.PathLike | None = None,
    *,
    exclude: Collection[int] = (),
) -> Listing:
    """The images of "index", "test" or "train", or those of them that a table lists.

    Images of the landmarks to exclude are left out, and training images without one.
    InputError if there are none to exclude, or if the table lists an image twice, or
    none.
    """
    path = find_table(data, split, table, labelled=bool(exclude))
    header = tables.read_header(path)
    labelled = "landmark_id" in header
    if (split == "train" or exclude) and not labelled:
        raise InputError(f"{path}: no column landmark_id")
    rows: Iterable[tuple[str, int | None]]
    if labelled:
        rows = ((row.id, row.landmark_id) for row in gldv2.read_train(path))
    else:
        rows = ((row.id, None) for row in tables.read_rows(path, gldv2.ImageId))
    shown: dict[str, int | None] = {}
    for id, landmark in rows:
        if id in shown:
            raise InputError(f"{path}: lists image {id} twice")
        shown[id] = landmark
    kept = {id: landmark for id, landmark in shown.items() if landmark not in exclude}
    excluded = len(shown) - len(kept)
    if exclude and not excluded:
        raise InputError(f"{path}: none of the landmarks to exclude found")
    if split == "train":
        kept = {id: landmark for id, landmark in kept.items() if landmark is not None}
    if not kept:
        raise InputError(f"{path}: lists no images")
    unlabelled = len(shown) - excluded - len(kept)
    found = None
    if labelled:
        ids = (_UNKNOWN if landmark is None else landmark for landmark in kept.values())
        found = np.fromiter(ids, np.int64)
    return Listing(split, path, list(kept), found, excluded, unlabelled)


def drop_images(listing: Listing, ids: Collection[str]) -> Listing:
    """The listing without some images; InputError if none is left."""
    kept = [place for place, id in enumerate(listing.ids) if id not in ids]
    if not kept:
        raise InputError(f"{listing.table}: no images are left")
    return listing._replace(
        ids=[listing.ids[place] for place in kept],
        landmarks=None if listing.landmarks is None else listing.landmarks[kept],
    )


def extract(
    listing: Listing,
    data: str | os.PathLike,
    features: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    progress: bool = True,
) -> tuple[Images, dict[str, str]]:
    """The images with features, and of the others why they have none.

    Features are kept in the store FEATURES/SPLIT. Those that are there stay valid when
    their image is no longer on this machine.
    """
    out = pathlib.Path(features, listing.split)
    folder = pathlib.Path(data, listing.split)
    known = _known(out, feature_store.store_key(model, settings))
    photos = [
        (name, path)
        for name, path in _places(listing, folder)
        if name not in known or not is_absent(path)
    ]
    if photos:
        feature_store.extract_to_store(photos, out, model, settings, progress=progress)
    found = feature_store.open_store(out)
    rows, missing, known = [], {}, set(found.ids)
    for id, (name, _) in zip(listing.ids, _places(listing, folder), strict=True):
        if name in known:
            rows.append(found.row(name))
        else:
            missing[id] = found.failed.get(name, f"{folder / name}: no such file")
    kept = drop_images(listing, missing) if missing else listing
    return Images(kept.ids, kept.landmarks, found, np.array(rows)), missing


def descriptors(
    images: Images, which: slice | Int[np.ndarray, " N"] = slice(None)
) -> Float[np.ndarray, "N G"]:
    """The global descriptors of some images."""
    return images.store.read_global(images.rows[which].tolist())


def check_whole(
    split: str, total: int, missing: dict[str, str], *, partial: bool
) -> list[str]:
    """A note on what is missing, if anything; InputError unless `partial`."""
    if not missing:
        return []
    summary = f"{split}: of {total} images, {datasets.format_missing(missing)}"
    if not partial:
        raise InputError(
            f"{summary}, first: {next(iter(missing.values()))}; add them, list others, "
            "or leave them out with --partial"
        )
    return [summary]


def _places(
    listing: Listing, folder: pathlib.Path
) -> Iterator[tuple[str, pathlib.Path]]:
    """(id in the store, path) of each image."""
    for id in listing.ids:
        path = gldv2.image_path(folder, id)
        yield path.relative_to(folder).as_posix(), path


def _known(out: pathlib.Path, key: str) -> set[str]:
    """Images whose features, made by this model with these settings, are there."""
    if not (out / "manifest.json").exists():
        return set()
    found = feature_store.open_store(out, damaged=[])
    return set(found.ids) if found.manifest["key"] == key else set()
