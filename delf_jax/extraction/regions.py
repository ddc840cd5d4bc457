"""Local features of an image and of boxes in it, as [D2R] extracts and aggregates them.

They follow each other, those of the whole image first, and `Features.regions` has
their numbers. All locations are in pixels of the whole image.
"""

import collections
import contextlib
import functools
import pathlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from delf_jax import images
from delf_jax.extraction import extract
from delf_jax.extraction.boxes import RegionBoxes, boxes_of
from delf_jax.extraction.extract import Crop
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features, LocalFeatures, Regions
from delf_jax.files import InputError


class _Picture(NamedTuple):
    """A decoded image, and its boxes."""

    pixels: UInt8[np.ndarray, "H W 3"]
    boxes: Float32[np.ndarray, "R 4"]


def extract_regions(
    model: Model,
    found: Sequence[tuple[str, pathlib.Path]],
    settings: ExtractionSettings,
    boxes: RegionBoxes,
    *,
    threads: int | None = None,
) -> Generator[Features | InputError, None, None]:
    """Features of each (id, path) and of its boxes; InputError where there are none.

    A crop is resized by the same rule as an image. One that is too small for the
    network has no features, and counts as a region nevertheless.
    """
    if not settings.max_features:
        raise InputError("boxes are for local features: set extraction.max_features")
    if settings.use_resized_coordinates:
        raise InputError(
            "boxes need locations in pixels of the image: extraction."
            "use_resized_coordinates must be false"
        )
    waiting: collections.deque[_Picture | InputError] = collections.deque()
    read = functools.partial(_read, boxes=boxes, settings=settings)
    with (
        extract.readers(threads) as (pool, threads),
        contextlib.closing(
            extract.extract_features(
                model,
                _parts(extract.ahead(pool, read, found, threads + 1), waiting),
                settings,
                threads=threads,
            )
        ) as results,
    ):
        for (_, path), whole in zip(found, results, strict=True):
            picture = waiting.popleft()
            if isinstance(picture, InputError):
                yield picture
                continue
            crops = [next(results) for _ in picture.boxes]
            if isinstance(whole, InputError):
                reason = str(whole).partition(": ")[2]
                yield InputError(f"{path}: {reason}")
                continue
            yield _join(whole, crops, picture.boxes)


def _parts(
    pictures: Iterable[_Picture | InputError], waiting: collections.deque
) -> Iterator[np.ndarray | Crop | InputError]:
    """Each photo and its crops; what they are of waits until they are extracted."""
    for picture in pictures:
        waiting.append(picture)
        if isinstance(picture, InputError):
            yield picture
            continue
        yield picture.pixels
        for y_min, x_min, y_max, x_max in picture.boxes.astype(int).tolist():
            yield Crop(picture.pixels[y_min:y_max, x_min:x_max])


def _read(
    image: tuple[str, pathlib.Path], boxes: RegionBoxes, settings: ExtractionSettings
) -> _Picture | InputError:
    id, path = image
    try:
        pixels = images.read_image(path, settings.max_pixels)
        return _Picture(pixels, boxes_of(boxes, id, pixels.shape[:2], settings))
    except InputError as error:
        return error


def _join(
    whole: Features,
    crops: Sequence[Features | InputError],
    boxes: Float32[np.ndarray, "R 4"],
) -> Features:
    """The features of an image and those of its boxes, where these have any."""
    assert whole.local is not None
    parts = [whole.local]
    for crop, box in zip(crops, boxes, strict=True):
        if isinstance(crop, InputError) or crop.local is None:
            parts.append(LocalFeatures(*(array[:0] for array in whole.local)))
        else:
            moved = crop.local.locations + box[None, :2]
            parts.append(crop.local._replace(locations=moved))
    local = LocalFeatures(*map(np.concatenate, zip(*parts, strict=True)))
    counts = np.array([len(part.scales) for part in parts], np.int32)
    everything = np.array([[0, 0, *whole.image_size]], np.float32)
    regions = Regions(np.concatenate([everything, boxes]), counts)
    return whole._replace(local=local, regions=regions)
