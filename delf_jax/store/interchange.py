"""Feature stores as files of other programs; NAME is the id of an image, whole.

    hdf5    features.h5, global_features.h5: hloc's
    npz     NAME.npz: numpy's, with the words and the (y, x) of this project
    csv     features.csv, a row for each local feature, and images.csv
    colmap  keypoints/NAME.txt: what COLMAP imports

The matches of pairs of images go to matches.h5 or matches.txt. Features of boxes are
left out. Files of many images are written whole or not at all.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.features import Features, whole_image
from delf_jax.files import InputError, atomic_write
from delf_jax.formats import colmap, hloc, tables
from delf_jax.progress import track
from delf_jax.store.delf_files import check_names, update_file
from delf_jax.store.feature_store import FeatureStore, StoreReport


class Matched(NamedTuple):
    """The matches of two images of a store."""

    images: tuple[str, str]
    features: int
    """of the first image"""
    matches: Int[np.ndarray, "P 2"]
    cosines: Float[np.ndarray, " P"]
    """of the descriptors"""


def write_files(
    images: FeatureStore,
    out: str | os.PathLike,
    layout: str,
    *,
    progress: bool = True,
) -> StoreReport:
    """Writes the features of a store in one of these layouts; how many.

    InputError if an id is no path within a folder, or the layout has no place for what
    the store has.
    """
    check_names(images.ids, images.path)
    out, first = pathlib.Path(out), next(iter(images), None)
    if layout == "colmap" and first is not None and first.local is None:
        raise InputError(f"{images.path}: has no local features, which COLMAP takes")
    written = 0
    with (
        track("features", len(images), progress=progress) as advance,
        _WRITERS[layout](images, out) as write,
    ):
        for id, features in zip(images.ids, images, strict=True):
            written += write(id, whole_image(features))
            advance()
    return StoreReport(written, len(images) - written, 0, dict(images.failed))


def write_matches(
    out: str | os.PathLike, layout: str, found: Iterable[Matched]
) -> pathlib.Path:
    """The file in which the matches of pairs of images were written."""
    if layout == "hdf5":
        path = pathlib.Path(out, "matches.h5")
        with hloc.create(path) as file:
            for each in found:
                hloc.add_matches(file, *each)
        return path
    path = pathlib.Path(out, "matches.txt")
    with atomic_write(path) as file:
        for each in found:
            file.write(colmap.encode_matches(*each.images, each.matches))
    return path


@contextlib.contextmanager
def _hdf5(images: FeatureStore, out: pathlib.Path) -> Iterator[Any]:
    longest = (images.manifest.get("settings") or {}).get("max_image_size") or np.inf
    first = next(iter(images), None)
    with contextlib.ExitStack() as files:
        local = descriptors = None
        if first is None or first.local is not None:
            local = files.enter_context(hloc.create(out / "features.h5"))
        if first is not None and first.global_descriptor is not None:
            path = out / "global_features.h5"
            descriptors = files.enter_context(hloc.create(path))

        def write(id: str, features: Features) -> bool:
            if local is not None:
                zoom = max(1.0, max(features.image_size) / longest)
                hloc.add_local(local, id, features, zoom)
            if descriptors is not None:
                hloc.add_global(descriptors, id, features)
            return True

        yield write


@contextlib.contextmanager
def _csv(images: FeatureStore, out: pathlib.Path) -> Iterator[Any]:
    first = next(iter(images), None)
    with contextlib.ExitStack() as files:
        local = None
        if first is not None and first.local is not None:
            names = _numbered("d", first.local.descriptors.shape[1])
            header = ["image", "x", "y", "scale", "attention", *names]
            local = files.enter_context(_table(out / "features.csv", header))
        dimension = 0
        if first is not None and first.global_descriptor is not None:
            dimension = len(first.global_descriptor)
        header = ["image", "height", "width", "features", *_numbered("g", dimension)]
        others = files.enter_context(_table(out / "images.csv", header))

        def write(id: str, features: Features) -> bool:
            count, name = 0, tables.quote(id)
            if local is not None and features.local is not None:
                y, x = np.asarray(features.local.locations).T
                _, scales, descriptors, attention = features.local
                rows = np.column_stack([x, y, scales, attention, descriptors]).tolist()
                local.writelines(f"{name},{_numbers(row)}\n" for row in rows)
                count = len(rows)
            descriptor = features.global_descriptor
            more = [] if descriptor is None else np.asarray(descriptor).tolist()
            row = [*features.image_size, count, *more]
            others.write(f"{name},{_numbers(row)}\n")
            return True

        yield write


@contextlib.contextmanager
def _table(path: pathlib.Path, header: list[str]) -> Iterator[IO[str]]:
    """A new CSV, with its header."""
    with atomic_write(path, "w") as file:
        file.write(",".join(header) + "\n")
        yield file


def _numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def _numbers(row: Sequence[float | int]) -> str:
    """Numbers with as many digits as bring each float32 back."""
    return ",".join([f"{number:.9g}" for number in row])


@contextlib.contextmanager
def _npz(images: FeatureStore, out: pathlib.Path) -> Iterator[Any]:
    def write(id: str, features: Features) -> bool:
        arrays = {} if features.local is None else features.local._asdict()
        if features.global_descriptor is not None:
            arrays["global_descriptor"] = features.global_descriptor
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, image_size=np.array(features.image_size))
        return update_file(out / f"{id}.npz", buffer.getvalue())

    yield write


@contextlib.contextmanager
def _colmap(images: FeatureStore, out: pathlib.Path) -> Iterator[Any]:
    def write(id: str, features: Features) -> bool:
        assert features.local is not None
        data = colmap.encode_keypoints(features.local)
        return update_file(out / "keypoints" / f"{id}.txt", data)

    yield write


_WRITERS = {"hdf5": _hdf5, "npz": _npz, "csv": _csv, "colmap": _colmap}
