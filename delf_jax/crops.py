"""One crop of a training image: a random box, resized to a square.

With `flip` off and `colour` 0 it is the augmentation of the released DELF and DELG
training [DELG]; flips, colours and larger sizes are those of later work. All is drawn
from the generator that is passed in.
"""

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8

from delf_jax import augment
from delf_jax.augment import ViewSettings

# Boxes are drawn again until one covers this share of the image, a hundred times at
# most; then it is the whole image. Of the released code, as the draws themselves.
_LEAST_COVERED, _ATTEMPTS = 0.1, 100

Box = tuple[int, int, int, int]


def crop(
    example: dict, rng: np.random.Generator, settings: ViewSettings
) -> dict[str, np.ndarray]:
    """A random crop of a JPEG file, `example["encoded"]`: image [1, S, S, 3], label."""
    encoded = example["encoded"]
    height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
    box = draw_box(rng, (height, width), settings)
    shrink = min(box[2] - box[0], box[3] - box[1]) / settings.size
    image, scale = _decode(encoded, (height, width), shrink)
    top, left, bottom, right = (round(side / scale) for side in box)
    view = resize_area(image[top:bottom, left:right], settings.size)
    if settings.flip and rng.random() < 0.5:
        view = np.ascontiguousarray(view[:, ::-1])
    view = augment.recolour(view, rng, settings.colour)
    return {"image": view[None], "label": np.int32(example["label"])}


def draw_box(
    rng: np.random.Generator, size: tuple[int, int], settings: ViewSettings
) -> Box:
    """(top, left, bottom, right) of a box within an image, in whole pixels.

    An aspect ratio (width / height) is drawn, then the height among all whole numbers
    for which the area is in its range and the box within the image, then the place:
    areas are not drawn uniformly. As TensorFlow's sample_distorted_bounding_box does.
    """
    height, width = size
    for _ in range(_ATTEMPTS):
        aspect = rng.uniform(*settings.aspect)
        box = _draw_size(rng, size, aspect, settings.area)
        if box is not None and box[0] * box[1] >= _LEAST_COVERED * height * width:
            top = int(rng.integers(height - box[0] + 1))
            left = int(rng.integers(width - box[1] + 1))
            return top, left, top + box[0], left + box[1]
    return 0, 0, height, width


def _draw_size(
    rng: np.random.Generator,
    size: tuple[int, int],
    aspect: float,
    area: tuple[float, float],
) -> tuple[int, int] | None:
    """(height, width) of a box, or None if the whole numbers do not let it be."""
    whole = size[0] * size[1]
    low, high = (round(np.sqrt(share * whole / aspect)) for share in area)
    high = min(high, size[0], int((size[1] + 0.5 - 1e-7) / aspect))
    low = min(low, high)
    height = int(rng.integers(low, high + 1))
    width = round(height * aspect)
    # Rounding may have led out of the range; one row more or less leads back.
    if height * width < area[0] * whole:
        height, width = height + 1, round((height + 1) * aspect)
    if height * width > area[1] * whole:
        height, width = height - 1, round((height - 1) * aspect)
    inside = 0 < height <= size[0] and 0 < width <= size[1]
    return (height, width) if inside else None


def _decode(
    encoded: bytes, size: tuple[int, int], shrink: float
) -> tuple[UInt8[np.ndarray, "H W 3"], int]:
    """The image at 1/1, 1/2, 1/4 or 1/8 of its size, which saves work, and that 1."""
    scale = 2 ** int(np.clip(np.log2(max(shrink, 1)), 0, 3))
    least = {"min_height": -(-size[0] // scale), "min_width": -(-size[1] // scale)}
    return simplejpeg.decode_jpeg(encoded, "RGB", **least), scale


def resize_area(
    image: UInt8[np.ndarray, "H W 3"], size: int
) -> UInt8[np.ndarray, "S S 3"]:
    """The image squeezed to a square; a pixel is the mean of what it covers.

    As TensorFlow's resize by area, rounded.
    """
    height, width = image.shape[:2]
    if min(height, width) >= size:
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    # OpenCV enlarges by another rule.
    smaller = min(width, size), min(height, size)
    image = cv2.resize(image.astype(np.float32), smaller, interpolation=cv2.INTER_AREA)
    for axis in (0, 1):
        image = _enlarge(image, size, axis)
    return (image + np.float32(0.5)).astype(np.uint8)


def _enlarge(
    image: Float[np.ndarray, "H W 3"], size: int, axis: int
) -> Float[np.ndarray, "h w 3"]:
    """The image with an axis of `size`, each pixel of which covers one or two."""
    length = image.shape[axis]
    if length == size:
        return image
    edges = np.arange(size + 1) * length / size
    first = np.floor(edges[:-1]).astype(int)
    # The share of a pixel that lies beyond the end of the first one it covers.
    beyond = np.maximum(edges[1:] - (first + 1), 0) * size / length
    weights = np.expand_dims(np.float32(beyond), (1, 2) if axis == 0 else 1)
    one = np.take(image, first, axis)
    other = np.take(image, np.minimum(first + 1, length - 1), axis)
    return one + weights * (other - one)
