"""Boxes of landmarks in images, by a detector of our own or one of the original's.

Ours gets an image squeezed to the size that the network learned from, the original's
the image itself. The boxes are in pixels of the image as it was.
"""

import collections
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from delf_jax import ops
from delf_jax.detection.saved_model import (
    SavedDetector,
    is_saved_model,
    open_saved_detector,
)
from delf_jax.extraction.extract import ahead, readers
from delf_jax.extraction.model_folder import BUNDLED_DETECTOR, Model, load_model
from delf_jax.extraction.settings import make_settings
from delf_jax.files import InputError
from delf_jax.images import ImageLike, image_name, open_image, resize_image
from delf_jax.models.detectors.anchors import decode_boxes, suppress
from delf_jax.progress import format_count

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

    def __str__(self) -> str:
        name = f"{self.image}: " if self.image else ""
        best = f", the best {self.scores[0]:.2f}" if len(self.scores) else ""
        return f"{name}{format_count(len(self.scores), 'box')}{best}"


Detector = Model | SavedDetector


def detect_images(
    model: Detector,
    images: Iterable[ImageLike | InputError],
    *,
    threads: int | None = None,
) -> Generator[Detections | InputError, None, None]:
    """The boxes of each image, in the order of the images; see `open_detector`.

    In the place of an image that cannot be used stands the InputError that says why, or
    came in its place.

    Args:
      threads: that open images ahead of the device.
    """
    run, side, batch_size = _network(model)
    read = functools.partial(_read, side=side)
    with readers(threads) as (pool, threads):
        opened = ahead(pool, read, enumerate(images, 1), threads + batch_size)
        while group := list(itertools.islice(opened, batch_size)):
            found: collections.deque[tuple] = collections.deque()
            if pixels := [x.pixels for x in group if not isinstance(x, InputError)]:
                empty = [np.zeros_like(pixels[0])] * (batch_size - len(pixels))
                outputs = run(np.stack([*pixels, *empty]))
                found.extend(zip(*map(np.asarray, outputs), strict=True))
            for each in group:
                if isinstance(each, InputError):
                    yield each
                else:
                    yield _in_pixels(each, *found.popleft())


def open_detector(model: Detector | str | os.PathLike | None) -> Detector:
    """The detector itself, that of a folder, or the bundled one, which is kept.

    InputError if it is none.

    Args:
      model: "bundled", as in configs, or None: the bundled one.
    """
    if model in (None, "bundled"):
        return _bundled()
    if isinstance(model, SavedDetector):
        return model
    if not isinstance(model, Model):
        if is_saved_model(model):
            return open_saved_detector(model)
        model = load_model(model)
    if not model.is_detector:
        raise InputError(
            f"model {model.name} gives features and no boxes: detect takes a detector, "
            "or none for the bundled one"
        )
    return model


@functools.cache
def _bundled() -> Model:
    return load_model(BUNDLED_DETECTOR)


def _network(model: Detector) -> tuple[Callable[..., Any], int | None, int]:
    """What runs on a batch of images, their side (None: any), and how many these are.

    It gives boxes in parts of the image, scores and classes of each.
    """
    if isinstance(model, SavedDetector):
        return model.run, None, 1
    settings = make_settings(model.config.get("extraction", {}))
    pixels, variables = (settings.pixel_mean, settings.pixel_std), model.variables
    run = functools.partial(find_boxes, model.module, pixels, jax.device_put(variables))
    on_cpu = jax.default_backend() == "cpu"
    return run, model.module.image_size, 1 if on_cpu else 8


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
) -> tuple[Float[Array, "B K 4"], Float[Array, "B K"], Array]:
    """(boxes in parts of the image, scores, classes), best first; what is none has 0.

    Args:
      pixels: mean and standard deviation of R, G and B that the network expects.
    """
    outputs = module.apply(variables, ops.normalize_pixels(images, *pixels))
    anchors = outputs["anchors"]  # Of all images, or proposals of each.
    own = 0 if anchors.ndim == 3 else None
    return jax.vmap(_choose, (0, 0, own))(
        outputs["box_logits"], outputs["offsets"], anchors
    )


def _choose(
    logits: Float[Array, " A"], offsets: Float[Array, "A 4"], anchors: Array
) -> tuple[Array, Array, Array]:
    boxes = jnp.clip(decode_boxes(offsets, anchors), 0, 1)
    scores = jax.nn.sigmoid(logits)
    possible = jnp.where(scores >= LEAST_SCORE, scores, -jnp.inf)
    rows, valid = suppress(boxes, possible, MOST, SUPPRESSION)
    classes = jnp.full(rows.shape, LANDMARK, jnp.int32)
    return boxes[rows], jnp.where(valid, scores[rows], 0), classes


class _Picture(NamedTuple):
    """An image as the network takes it."""

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    size: tuple[int, int]


def _read(
    numbered: tuple[int, ImageLike | InputError], side: int | None
) -> _Picture | InputError:
    number, image = numbered
    if isinstance(image, InputError):
        return image
    name = image_name(image, number)
    try:
        pixels = open_image(image)
    except InputError as error:
        return InputError(f"{name}: {str(error).removeprefix(f'{name}: ')}", name)
    squeezed = pixels if side is None else resize_image(pixels, (side, side))
    return _Picture(name, squeezed, pixels.shape[:2])


def _in_pixels(
    picture: _Picture, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray
) -> Detections:
    """What was found, without boxes of no extent."""
    height, width = picture.size
    boxes = np.clip(boxes, 0, 1) * np.array([height, width] * 2, np.float32)
    kept = (scores >= LEAST_SCORE) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    return Detections(
        boxes[kept].astype(np.float32),
        scores[kept].astype(np.float32),
        classes[kept].astype(np.int32),  # TensorFlow has floats.
        picture.size,
        picture.name,
    )
