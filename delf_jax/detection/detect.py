"""Boxes of landmarks in images, by a detector of our own.

An image is squeezed to the size that the network learned from; the boxes are in pixels
of the image as it was.
"""

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from delf_jax import ops
from delf_jax.extraction.extract import ahead
from delf_jax.extraction.model_folder import Model, load_model
from delf_jax.extraction.settings import make_settings
from delf_jax.files import InputError
from delf_jax.images import ImageLike, image_name, open_image, resize_image
from delf_jax.models.anchors import decode_boxes, suppress

# As the released detectors: boxes of an image at most, and the overlap above which the
# weaker of two goes.
MOST, SUPPRESSION = 100, 0.6
# What has less of a chance is no box at all.
LEAST_SCORE = 0.01
LANDMARK = 1  # The class of every box: the released detectors count from 1, too.


class Detections(NamedTuple):
    """The boxes of one image, best first."""

    boxes: Float32[np.ndarray, "N 4"]
    """(y_min, x_min, y_max, x_max) in pixels of the image"""
    scores: Float32[np.ndarray, " N"]
    """in [0, 1]"""
    class_indices: Int32[np.ndarray, " N"]
    image_size: tuple[int, int]
    """(height, width)"""
    image: str = ""
    """the name of the image"""


def detect_images(
    model: Model,
    images: Iterable[ImageLike | InputError],
    *,
    threads: int | None = None,
) -> Generator[Detections | InputError, None, None]:
    """The boxes of each image, in the order of the images; see `check_detector`.

    In the place of an image that cannot be used stands the InputError that says why, or
    came in its place.

    Args:
      threads: that open images ahead of the device.
    """
    check_detector(model)
    settings = make_settings(model.config.get("extraction", {}))
    side = model.module.image_size
    batch_size = 1 if jax.default_backend() == "cpu" else 8
    run = functools.partial(
        find_boxes,
        model.module,
        (settings.pixel_mean, settings.pixel_std),
        jax.device_put(model.variables),
    )
    read = functools.partial(_read, side=side, max_pixels=settings.max_pixels)
    threads = threads or min(8, os.cpu_count() or 1)
    pool = concurrent.futures.ThreadPoolExecutor(threads, "images")
    try:
        opened = ahead(pool, read, enumerate(images, 1), threads + batch_size)
        while group := list(itertools.islice(opened, batch_size)):
            pictures = [each for each in group if not isinstance(each, InputError)]
            batch = np.zeros((batch_size, side, side, 3), np.uint8)
            for place, picture in enumerate(pictures):
                batch[place] = picture.pixels
            found = collections.deque(zip(*map(np.asarray, run(batch)), strict=True))
            for each in group:
                if isinstance(each, InputError):
                    yield each
                else:
                    yield _in_pixels(each, *found.popleft())
    finally:
        # Not to wait: a generator that nobody asks any more ends wherever garbage is
        # collected, be it in a thread that is just being started.
        pool.shutdown(wait=False, cancel_futures=True)


def check_detector(model: Model) -> None:
    """InputError for a model that gives features."""
    if not model.is_detector:
        raise InputError(
            f"model {model.name} gives features and no boxes: detect takes a detector, "
            "such as train --config=configs/detect_ssd.py makes"
        )


def open_detector(model: Model | str | os.PathLike) -> Model:
    """The detector itself, or that of a folder; InputError if it is none."""
    model = model if isinstance(model, Model) else load_model(model)
    check_detector(model)
    return model


def select(found: Detections, threshold: float) -> Detections:
    """The boxes whose score is at least the threshold."""
    kept = found.scores >= np.float32(threshold)
    return found._replace(
        boxes=found.boxes[kept],
        scores=found.scores[kept],
        class_indices=found.class_indices[kept],
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def find_boxes(
    module: Any,
    pixels: tuple[tuple, tuple],
    variables: Any,
    images: UInt8[Array, "B S S 3"],
) -> tuple[Float[Array, "B K 4"], Float[Array, "B K"], Bool[Array, "B K"]]:
    """(boxes in parts of the image, scores, whether there is one), best first.

    Args:
      pixels: mean and standard deviation of R, G and B that the network expects.
    """
    outputs = module.apply(variables, ops.normalize_pixels(images, *pixels))
    return jax.vmap(_choose, (0, 0, None))(
        outputs["box_logits"], outputs["offsets"], outputs["anchors"]
    )


def _choose(
    logits: Float[Array, " A"], offsets: Float[Array, "A 4"], anchors: Array
) -> tuple[Array, Array, Array]:
    boxes = jnp.clip(decode_boxes(offsets, anchors), 0, 1)
    scores = jax.nn.sigmoid(logits)
    possible = jnp.where(scores >= LEAST_SCORE, scores, -jnp.inf)
    rows, valid = suppress(boxes, possible, MOST, SUPPRESSION)
    return boxes[rows], scores[rows], valid


class _Picture(NamedTuple):
    """An image as the network takes it."""

    name: str
    pixels: UInt8[np.ndarray, "S S 3"]
    size: tuple[int, int]


def _read(
    numbered: tuple[int, ImageLike | InputError], side: int, max_pixels: int
) -> _Picture | InputError:
    number, image = numbered
    if isinstance(image, InputError):
        return image
    name = image_name(image, number)
    try:
        pixels = open_image(image, max_pixels)
    except InputError as error:
        return InputError(f"{name}: {str(error).removeprefix(f'{name}: ')}", name)
    return _Picture(name, resize_image(pixels, (side, side)), pixels.shape[:2])


def _in_pixels(
    picture: _Picture, boxes: np.ndarray, scores: np.ndarray, valid: np.ndarray
) -> Detections:
    """What was found, without boxes of no extent."""
    height, width = picture.size
    boxes = boxes * np.array([height, width] * 2, np.float32)
    valid = valid & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    classes = np.full(int(valid.sum()), LANDMARK, np.int32)
    return Detections(boxes[valid], scores[valid], classes, picture.size, picture.name)
