"""HDF5 files of hloc, the toolbox of hierarchical localisation: features and matches.

Its conventions: keypoints are (x, y) with pixel centres at integers, as ours are;
descriptors are columns; the match of a feature is the number of another one, or -1.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from delf_jax.features import Features
from delf_jax.files import InputError, atomic_write, encode_name

# Standard deviation of a feature from where it should be, in its scale: it stands in
# the centre of a cell of 16 pixels. hloc verifies at 4 of it, 18 pixels at scale 1.
_UNCERTAINTY = 16 / np.sqrt(12)


@contextlib.contextmanager
def create(path: str | os.PathLike) -> Iterator[Any]:
    """A new HDF5 file that takes the name `path` once all is written to it."""
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path}: HDF5 is written with h5py; pip install 'delf_jax[h5]'"
        ) from None
    with atomic_write(path) as file, h5py.File(file.name, "w") as opened:
        yield opened


def add_local(file: Any, image: str, features: Features, zoom: float) -> None:
    """Writes the local features of an image as hloc/extract_features.py does.

    Args:
      zoom: pixels of the photo for one of the photo as it was extracted.
    """
    local = features.local
    assert local is not None
    scales = np.asarray(local.scales, np.float32)
    group = _create_group(file, image)
    group["keypoints"] = np.asarray(local.locations, np.float32)[:, ::-1]
    uncertainty = zoom * _UNCERTAINTY * float(scales.mean()) if len(scales) else 1.0
    group["keypoints"].attrs["uncertainty"] = uncertainty
    group["descriptors"] = np.asarray(local.descriptors).T
    group["scores"] = np.asarray(local.attention, np.float32)
    group["scales"] = scales * np.float32(zoom)
    group["image_size"] = np.array(features.image_size[::-1])


def add_global(file: Any, image: str, features: Features) -> None:
    """Writes the global descriptor of an image likewise."""
    group = _create_group(file, image)
    group["global_descriptor"] = np.asarray(features.global_descriptor, np.float32)
    group["image_size"] = np.array(features.image_size[::-1])


def add_matches(
    file: Any,
    images: tuple[str, str],
    count: int,
    matches: Int[np.ndarray, "P 2"],
    cosines: Float[np.ndarray, " P"],
) -> None:
    """Writes the matches of two images as hloc/match_features.py does.

    Args:
      count: features of the first image, each of which has a match at most.
      cosines: of the descriptors that match.
    """
    others, scores = np.full(count, -1, np.int32), np.zeros(count, np.float32)
    others[matches[:, 0]] = matches[:, 1]
    scores[matches[:, 0]] = (cosines + 1) / 2  # as its nearest_neighbor.py.
    # What hloc stores. More features it could not number.
    small = others.max(initial=-1) <= np.iinfo(np.int16).max
    group = _create_group(file, pair_name(*images))
    group["matches0"] = others.astype(np.int16 if small else np.int32)
    group["matching_scores0"] = scores.astype(np.float16)


def pair_name(a: str, b: str) -> str:
    """The group of the matches of two images."""
    return "/".join(name.replace("/", "-") for name in (a, b))


def _create_group(file: Any, name: str) -> Any:
    """A group of this name, whose bytes need not be UTF-8."""
    raw = encode_name(name)
    text = raw.decode("utf-8", "replace")
    try:
        return file.create_group(name if name == text else raw)
    except ValueError:
        raise InputError(
            f"{pathlib.Path(file.filename).parent}: {name!r:.200} is another group or "
            "array of the HDF5 file; give one of the images another name"
        ) from None
