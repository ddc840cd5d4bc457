"""Query photos, cropped to what is searched for as the original crops and resizes."""

import os
import pathlib

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from delf_jax import images
from delf_jax.evaluation.datasets import Dataset, Photo
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features, whole_image
from delf_jax.files import InputError, atomic_write
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore


def extract_queries(
    dataset: Dataset,
    index: FeatureStore,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    progress: bool = True,
) -> list[Features | InputError]:
    """Features of each query, or why there are none; what was extracted is kept.

    A query that is all of a photo of the index has its features from there, those of
    boxes left out: queries have none [D2R]. Others are cropped, resized and written to
    `directory`/crops, losslessly, and extracted to the store `directory`/queries, so
    locations are in pixels of the crops there.
    """
    directory = pathlib.Path(directory)
    known = set(index.ids)
    boxes = [None] * len(dataset.queries) if dataset.boxes is None else dataset.boxes
    features: dict[int, Features | InputError] = {}
    crops: dict[int, tuple[str, pathlib.Path]] = {}
    for number, (photo, box) in enumerate(zip(dataset.queries, boxes, strict=True)):
        if photo.id in known:
            stored = whole_image(index[index.row(photo.id)])
            if _is_whole(box, stored.image_size):
                features[number] = stored
                continue
        path = directory / "crops" / f"{number:06d}.png"
        try:
            _write_crop(path, photo, box, settings)
            crops[number] = path.name, path
        except InputError as error:
            features[number] = error
    if crops:
        unresized = settings._replace(
            max_image_size=None, min_image_size=None, use_square_images=False
        )
        feature_store.extract_to_store(
            list(crops.values()),
            directory / "queries",
            model,
            unresized,
            prune=True,
            progress=progress,
        )
        store = feature_store.open_store(directory / "queries")
        for number, (name, _) in crops.items():
            reason = store.failed.get(name)
            features[number] = InputError(reason) if reason else store[store.row(name)]
    return [features[number] for number in range(len(dataset.queries))]


def crop_query(
    image: UInt8[np.ndarray, "H W 3"],
    box: Float[np.ndarray, "4"] | None,
    settings: ExtractionSettings,
) -> UInt8[np.ndarray, "h w 3"]:
    """The part of a query photo in its box, at the size for extraction [DELG].

    The box (y_min, x_min, y_max, x_max) is rounded to whole pixels, what lies outside
    of the photo is black. The bounds on the longer side are multiplied by the longer
    side of the crop over that of the photo: the crop is resized as the photo would be.
    None is all of the photo. Follows the released code.
    """
    height, width = image.shape[:2]
    if box is not None:
        image = _cut(image, [int(round(float(x))) for x in box], settings.max_pixels)
    size = images.resize_rule(
        image.shape[:2],
        settings.max_image_size,
        settings.min_image_size,
        settings.use_square_images,
        settings.resize_factor * max(image.shape[:2]) / max(height, width),
    )
    return images.resize_image(image, size)


def _cut(
    image: UInt8[np.ndarray, "H W 3"], box: list[int], max_pixels: int
) -> UInt8[np.ndarray, "h w 3"]:
    height, width = image.shape[:2]
    top, left, bottom, right = box
    if min(bottom, height) <= max(top, 0) or min(right, width) <= max(left, 0):
        raise InputError(
            f"box ({left}, {top}) to ({right}, {bottom}) lies outside of the photo of "
            f"{width} x {height} pixels"
        )
    if (bottom - top) * (right - left) > max_pixels:
        raise InputError(f"box of {right - left} x {bottom - top} pixels is too large")
    return np.asarray(Image.fromarray(image).crop((left, top, right, bottom)))


def _is_whole(box: Float[np.ndarray, "4"] | None, size: tuple[int, int]) -> bool:
    return box is None or np.array_equal(np.round(box), [0, 0, *size])


def _write_crop(
    path: pathlib.Path,
    photo: Photo,
    box: Float[np.ndarray, "4"] | None,
    settings: ExtractionSettings,
) -> None:
    """Writes the crop of a photo as PNG; InputError if the photo is unusable."""
    if photo.path is None:
        raise InputError(f"{photo.name}: no such file")
    try:
        pixels = crop_query(
            images.read_image(photo.path, settings.max_pixels), box, settings
        )
    except InputError as error:
        reason = str(error).removeprefix(f"{photo.path}: ")
        raise InputError(f"{photo.path}: {reason}") from None
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
