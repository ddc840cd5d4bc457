"""What a training sees of an image: two views of it, a random crop, or its boxes.

A view is a homography (zoom, rotation, shear, perspective) of the image and a change
of colour, blur and noise; a crop is a box of it, as the released code draws them.
Everything is drawn from the generator that is passed in: a view depends on the seed and
the example alone.
"""

import collections
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8

from delf_jax.images import resize_image

OUTSIDE = -1e5  # coordinates, times 1 or 2, of cells that look past the image's border.
# Boxes are drawn again until one covers this share of the image, a hundred times at
# most; then it is the whole image. Of the released code, as the draws themselves.
_LEAST_COVERED, _ATTEMPTS = 0.1, 100
# Boxes of a view, of whose areas at least this share is seen; more are the smaller.
MOST_BOXES, _LEAST_SEEN = 32, 0.3
_GREY = (128, 128, 128)  # beside an image

Box = tuple[int, int, int, int]


class ViewSettings(NamedTuple):
    """How views are drawn; lengths in pixels of the view, spreads of logarithms."""

    kind: str = "pair"
    """two views by `views`, or "crop", one by `crop`, which alone has the last three
    fields and no others but size and colour; or "boxes", one by `boxed`, which has
    these and zoom"""
    size: int = 192
    cell_stride: int = 16
    cell_offset: float = 0.0  # centre of the first cell of the map.
    resolutions: tuple[float, float] = (220.0, 800.0)  # long side of the whole image.
    zoom: float = 0.25  # between the two views.
    rotation: float = 0.15  # radians.
    shear: float = 0.08
    perspective: float = 0.12  # change of scale across the view.
    shift: float = 0.15  # between the views' centres, of the view's side.
    colour: float = 1.0  # strength of the colour changes; 0 turns them off.
    area: tuple[float, float] = (0.08, 1.0)  # shares of the image's.
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height.
    flip: bool = False  # every second crop.


def views(
    example: dict, rng: np.random.Generator, settings: ViewSettings
) -> dict[str, Any]:
    """Two views of `example["image"]` with what is known about them.

    Returns:
      image uint8 [2, S, S, 3]; label int32; coordinates f32 [2, h, w, 2], the centres
      of the map's cells in a frame that both views share, one unit about a pixel of a
      view (cells that look past the image's border are far from everything).
    """
    image = example["image"]
    height, width = image.shape[:2]
    low, high = np.log(settings.resolutions)
    # Never enlarge by more than a quarter: there is no more to see.
    high = max(low, min(high, np.log(1.25 * max(height, width))))
    resolution = np.exp(rng.uniform(low, high))
    ratio = np.exp(rng.normal(0, settings.zoom))
    resolutions = resolution * np.array([ratio, 1 / ratio]) ** 0.5
    half = 0.5 * settings.size / resolution * max(height, width)
    centre = np.array([_inside(rng, height, half), _inside(rng, width, half)])

    cells = _cells(settings)
    output: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for seen in resolutions:
        scale = seen / max(height, width)
        shift = rng.normal(0, settings.shift, 2) * settings.size / scale
        homography = _homography(rng, settings, centre + shift, scale)
        view = _warp(image, homography, scale, settings.size)
        output["image"].append(recolour(view, rng, settings.colour))
        points = _apply(homography, cells.reshape(-1, 2))
        shared = points * (resolution / max(height, width))
        inside = ((points > -1) & (points < [height, width])).all(1)
        # What lies outside the image (a reflection of it) has no counterpart anywhere.
        shared[~inside] = OUTSIDE * (1 + len(output["coordinates"]))
        output["coordinates"].append(shared.reshape(cells.shape).astype(np.float32))
    arrays = {name: np.stack(value) for name, value in output.items()}
    return {**arrays, "label": np.int32(example["label"])}


def crop(
    example: dict, rng: np.random.Generator, settings: ViewSettings
) -> dict[str, Any]:
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
    view = recolour(view, rng, settings.colour)
    return {"image": view[None], "label": np.int32(example["label"])}


def boxed(
    example: dict, rng: np.random.Generator, settings: ViewSettings
) -> dict[str, Any]:
    """A part of `example["image"]`, or all of it on grey, squeezed to a square.

    Returns:
      image uint8 [1, S, S, 3]; boxes f32 [32, 4], those of `example["boxes"]` (in parts
      of the image) that are seen, in parts of the view; valid bool [32], which of them
      are no padding; label int32.
    """
    image, size = example["image"], settings.size
    box = np.array(draw_box(rng, image.shape[:2], settings), float)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    half *= np.exp(abs(rng.normal(0, settings.zoom)))
    low, high = np.round(centre - half).astype(int), np.round(centre + half).astype(int)
    high = np.maximum(high, low + 1)
    view = resize_image(_window(image, low, high), (size, size))
    boxes = _seen_boxes(example["boxes"], image.shape[:2], low, high)
    if settings.flip and rng.random() < 0.5:
        view = np.ascontiguousarray(view[:, ::-1])
        boxes = np.stack(
            [boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=1
        )
    padded = np.zeros((MOST_BOXES, 4), np.float32)
    padded[: len(boxes)] = boxes
    return {
        "image": recolour(view, rng, settings.colour)[None],
        "boxes": padded,
        "valid": np.arange(MOST_BOXES) < len(boxes),
        "label": np.int32(example["label"]),
    }


def _window(
    image: UInt8[np.ndarray, "H W 3"], low: np.ndarray, high: np.ndarray
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels from `low` to `high` (y, x), grey where there is no image."""
    before = np.maximum(-low, 0)
    after = np.maximum(high - image.shape[:2], 0)
    inside = image[max(low[0], 0) : high[0], max(low[1], 0) : high[1]]
    borders = int(before[0]), int(after[0]), int(before[1]), int(after[1])
    return cv2.copyMakeBorder(inside, *borders, cv2.BORDER_CONSTANT, value=_GREY)


def _seen_boxes(
    boxes: Float[np.ndarray, "N 4"],
    size: tuple[int, int],
    low: np.ndarray,
    high: np.ndarray,
) -> Float[np.ndarray, "M 4"]:
    """Boxes of an image, as far as a window shows them, in parts of the window."""
    moved = boxes * [*size, *size] - [*low, *low]
    moved /= np.array([*(high - low)] * 2)
    seen = np.clip(moved, 0, 1)
    whole, left = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (moved, seen))
    kept = np.flatnonzero((left > 0) & (left >= _LEAST_SEEN * whole))
    largest = kept[np.argsort(-left[kept], kind="stable")][:MOST_BOXES]
    return seen[np.sort(largest)]


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


def recolour(
    view: np.ndarray, rng: np.random.Generator, strength: float
) -> UInt8[np.ndarray, "S S 3"]:
    """Another light, sensor and lens; half of the views lose little."""
    if strength == 0:
        return view
    if rng.random() < 0.3:
        kernel = 2 * int(rng.integers(1, 3)) + 1
        view = cv2.GaussianBlur(view, (kernel, kernel), rng.uniform(0.5, 1.6))
    pixels = view.astype(np.float32) / 255
    pixels = pixels ** np.float32(np.exp(rng.normal(0, 0.3 * strength)))
    if rng.random() < 0.5:
        pixels *= np.exp(rng.normal(0, 0.12 * strength, 3)).astype(np.float32)
    saturation = 0.0 if rng.random() < 0.1 else np.exp(rng.normal(0, 0.3 * strength))
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels = grey[..., None] + np.float32(saturation) * (pixels - grey[..., None])
    contrast = np.exp(rng.normal(0, 0.25 * strength))
    brightness = rng.normal(0, 0.1 * strength)
    pixels = (pixels - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    if rng.random() < 0.3:
        sigma = np.float32(rng.uniform(0, 0.05 * strength))
        pixels += sigma * rng.standard_normal(pixels.shape, np.float32)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


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


def _inside(rng: np.random.Generator, side: int, half: float) -> float:
    """A centre along one axis: its window stays inside the image where it can."""
    low = min(half, side / 2)
    return rng.uniform(low, side - low) - 0.5  # pixel centres are at integers.


def _cells(settings: ViewSettings) -> Float[np.ndarray, "h w 2"]:
    """(y, x) of the map's cell centres, in pixels of a view."""
    count = -(-settings.size // settings.cell_stride)
    axis = settings.cell_stride * np.arange(count) + settings.cell_offset
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).astype(np.float64)


def _homography(
    rng: np.random.Generator, settings: ViewSettings, centre: np.ndarray, scale: float
) -> Float[np.ndarray, "3 3"]:
    """From (x, y) of the view to (x, y) of the image."""
    angle = rng.normal(0, settings.rotation)
    shear, stretch = rng.normal(0, settings.shear, 2)
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    sheared = np.array([[np.exp(stretch), shear], [0, np.exp(-stretch)]])
    linear = rotation @ sheared / scale
    middle = (settings.size - 1) / 2
    tilt = rng.uniform(-settings.perspective, settings.perspective, 2) / settings.size
    to_middle = np.array([[1, 0, -middle], [0, 1, -middle], [0, 0, 1]])
    projective = np.array([[1, 0, 0], [0, 1, 0], [*tilt, 1]])
    affine = np.eye(3)
    affine[:2, :2], affine[:2, 2] = linear, centre[::-1]
    return affine @ projective @ to_middle


def _apply(homography: np.ndarray, points: np.ndarray) -> Float[np.ndarray, "N 2"]:
    """(y, x) points mapped."""
    mapped_xyw = np.c_[points[:, ::-1], np.ones(len(points))] @ homography.T
    return (mapped_xyw[:, :2] / mapped_xyw[:, 2:])[:, ::-1]


def _warp(
    image: np.ndarray, homography: np.ndarray, scale: float, size: int
) -> UInt8[np.ndarray, "S S 3"]:
    """The view; the image is shrunk first where the view would skip pixels."""
    if scale < 0.8:
        height, width = (max(8, round(n * scale * 1.2)) for n in image.shape[:2])
        shrink = np.array([width / image.shape[1], height / image.shape[0]])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        to_small = np.diag([*shrink, 1.0])
        to_small[:2, 2] = (shrink - 1) / 2  # pixel centres are at integers.
        homography = to_small @ homography
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REFLECT_101
    return cv2.warpPerspective(
        image, homography, (size, size), flags=flags, borderMode=border
    )


def _draw_size(
    rng: np.random.Generator,
    size: tuple[int, int],
    aspect: float,
    area: tuple[float, float],
) -> tuple[int, int] | None:
    """(height, width) of a box, or None if no whole numbers fit."""
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
