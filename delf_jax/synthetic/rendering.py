"""How a camera paints textured planes into a picture with a depth buffer."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int16, UInt8

from delf_jax.synthetic import conditions, surfaces
from delf_jax.synthetic.canvas import Level
from delf_jax.synthetic.conditions import Conditions
from delf_jax.synthetic.correspondence import NEAR, Camera
from delf_jax.synthetic.surfaces import Surface

SUPERSAMPLING = 2


class Picture(NamedTuple):
    """What is painted so far, supersampled; the arrays are changed in place."""

    colour: UInt8[np.ndarray, "H W 3"]
    inverse_depth: Float[np.ndarray, "H W"]  # 0 where nothing stands
    surface: Int16[np.ndarray, "H W"]  # which one is seen, -1 for none


def paint(
    picture: Picture,
    surface: Surface,
    number: int,
    camera: Camera,
    weather: Conditions,
    hulls: Float[np.ndarray, "S 4 3"],
) -> Float[np.ndarray, "3"] | None:
    """The surface's inverse depth as (x, y, 1) weights, or None if it is not seen.

    The surface is painted where it is nearer than what the picture shows.
    """
    axes = np.stack([surface.across, surface.down, surface.corner - camera.position])
    axes = axes @ camera.rotation.T  # rows in the camera's frame
    across = surfaces.cross(axes[1], axes[0])
    facing = across @ axes[2]
    if facing >= -1e-9 and not (surface.two_sided and facing > 1e-9):
        return None
    matrix = _intrinsics(picture, camera)
    outline, pixels = _outline(surface, axes, matrix)
    box = _bounds(pixels, picture.inverse_depth.shape)
    if box is None:
        return None
    left, top, wide, tall = box
    patch = np.s_[top : top + tall, left : left + wide]
    plane = across @ np.linalg.inv(matrix) / facing
    columns = np.arange(left, left + wide, dtype=np.float32)
    rows = np.arange(top, top + tall, dtype=np.float32)
    a, b, c = plane.astype(np.float32)
    inverse = a * columns + (b * rows + c)[:, None]
    mask = np.zeros((tall, wide), np.uint8)
    points = np.round((pixels - (left, top)) * 16).astype(np.int32)
    cv2.fillConvexPoly(mask, points, 255, cv2.LINE_8, 4)
    mask[inverse <= picture.inverse_depth[patch]] = 0
    if not cv2.hasNonZero(mask):
        return None
    shift = np.array([(1, 0, -left), (0, 1, -top), (0, 0, 1.0)])
    level = _level(surface, outline, pixels)
    homography = shift @ matrix @ axes.T @ _texture_to_unit(level)
    if level.alpha is not None:
        alpha = cv2.warpPerspective(level.alpha, homography, (wide, tall))
        mask[alpha < 128] = 0
    lit = conditions.light(surface, level, weather, hulls)
    colour = cv2.warpPerspective(
        lit, homography, (wide, tall), borderMode=cv2.BORDER_REPLICATE
    )
    cv2.copyTo(colour, mask, picture.colour[patch])
    cv2.copyTo(inverse, mask, picture.inverse_depth[patch])
    picture.surface[patch][mask > 0] = number
    # from pixels X = s x + (s - 1) / 2 of the supersampled picture to pixels x
    s = SUPERSAMPLING
    middle = (s - 1) / 2 * (plane[0] + plane[1])
    return np.array([s * plane[0], s * plane[1], plane[2] + middle])


def upward(camera: Camera) -> Float[np.ndarray, "H W"]:
    """The sine of the elevation of every supersampled pixel's ray."""
    height, width = (SUPERSAMPLING * n for n in camera.size)
    focal = np.float32(SUPERSAMPLING * camera.focal)
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / focal
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / focal
    up = camera.rotation[:, 2].astype(np.float32)
    length = np.sqrt(1 + x**2 + y[:, None] ** 2)
    return (up[0] * x + up[1] * y[:, None] + up[2]) / length


def _intrinsics(picture: Picture, camera: Camera) -> Float[np.ndarray, "3 3"]:
    height, width = picture.inverse_depth.shape
    focal, x, y = SUPERSAMPLING * camera.focal, (width - 1) / 2, (height - 1) / 2
    return np.array([(focal, 0, x), (0, focal, y), (0, 0, 1)])


def _outline(surface: Surface, axes: np.ndarray, matrix: np.ndarray):
    """The visible outline, as fractions of the texture and in pixels (x, y)."""
    points = surface.outline @ axes[:2] + axes[2]
    points = _clipped(np.concatenate([points, surface.outline], 1))
    pixels = points[:, :3] @ matrix.T
    return points[:, 3:], pixels[:, :2] / pixels[:, 2:]


def _bounds(pixels: Float[np.ndarray, "K 2"], shape: tuple[int, int]):
    """(left, top, width, height) of an outline within the picture, None if empty."""
    if len(pixels) < 3:
        return None
    low = np.floor(pixels.min(0)).astype(int).clip(0)
    high = np.minimum(np.ceil(pixels.max(0)).astype(int) + 1, shape[::-1])
    if (high <= low).any():
        return None
    return (*low.tolist(), *(high - low).tolist())


def _texture_to_unit(level: Level) -> Float[np.ndarray, "3 3"]:
    """From pixels of a texture, whose centres are at integers, to fractions of it."""
    y, x = (1 / side for side in level.colour.shape[:2])
    return np.array([(x, 0, 0.5 * x), (0, y, 0.5 * y), (0, 0, 1)])


def _clipped(polygon: Float[np.ndarray, "K 5"]) -> Float[np.ndarray, "L 5"]:
    """The part of a convex polygon in front of the camera."""
    depths = polygon[:, 2] - NEAR
    if (depths > 0).all():
        return polygon
    kept = []
    for i, (point, depth) in enumerate(zip(polygon, depths, strict=True)):
        if depth > 0:
            kept.append(point)
        after = (i + 1) % len(polygon)
        if depth * depths[after] < 0:
            share = depth / (depth - depths[after])
            kept.append(point + share * (polygon[after] - point))
    return np.array(kept).reshape(-1, 5)


def _level(
    surface: Surface,
    outline: Float[np.ndarray, "K 2"],
    pixels: Float[np.ndarray, "K 2"],
) -> Level:
    """The coarsest resolution of a texture that still suits its area in the picture."""
    levels = surface.texture.levels
    rows, columns = levels[0].colour.shape[:2]
    drawn = cv2.contourArea(pixels.astype(np.float32))
    share = cv2.contourArea(outline.astype(np.float32))
    ratio = rows * columns * share / max(drawn, 1.0)
    halvings = 0.5 * np.log2(max(ratio, 1e-9)) + 0.35
    return levels[int(np.clip(halvings, 0, len(levels) - 1))]
