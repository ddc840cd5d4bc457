"""Textured planes in space, and the walls, prisms, roofs and domes made of them.

The world is measured in units: x to the right, y away from the visitor, z upwards.
Every surface is a parallelogram with a convex outline, so that its picture is one
homography and its inverse depth is linear in the image.
"""

from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.synthetic.canvas import Number, Texture

Place = tuple[Number, Number] | Float[np.ndarray, "2"]
Point = tuple[Number, Number, Number] | Float[np.ndarray, "3"]
Ground = Float[np.ndarray, "_K 2"]  # an outline, counter-clockwise from above
_SQUARE = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])


class Surface(NamedTuple):
    """A texture laid over the parallelogram `corner`, `across`, `down`."""

    texture: Texture
    corner: Float[np.ndarray, "3"]  # where the texture's upper left corner lies
    across: Float[np.ndarray, "3"]  # along the texture's width
    down: Float[np.ndarray, "3"]  # along the texture's height
    outline: Float[np.ndarray, "K 2"] = _SQUARE  # convex, fractions (across, down)
    two_sided: bool = False


def cross(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]):
    """The vector product; np.cross takes 50 microseconds for it."""
    (x, y, z), (u, v, w) = a.tolist(), b.tolist()
    return np.array((y * w - z * v, z * u - x * w, x * v - y * u))


def normal(surface: Surface) -> Float[np.ndarray, "3"]:
    """The unit vector that points out of the front of a surface."""
    vector = cross(surface.down, surface.across)
    return vector / np.linalg.norm(vector)


def vertices(surface: Surface) -> Float[np.ndarray, "K 3"]:
    """The outline in space."""
    return surface.corner + surface.outline @ np.stack([surface.across, surface.down])


def panel(texture: Texture, base_left: Point, across: Point, up: Point, **more):
    """The surface that stands on `base_left` and reaches along `across` and `up`."""
    base_left, across, up = (np.asarray(v, np.float64) for v in (base_left, across, up))
    return Surface(texture, base_left + up, across, -up, **more)


def wall(
    texture: Texture, start: Place, end: Place, base: Number, height: Number, **more
) -> Surface:
    """The upright surface over the ground line from `start` (left) to `end` (right)."""
    across = (end[0] - start[0], end[1] - start[1], 0.0)
    return panel(texture, (*start, base), across, (0.0, 0.0, height), **more)


def facet(
    texture: Texture, left: Point, right: Point, top_right: Point, top_left: Point
) -> Surface:
    """A symmetric trapezoid (or a triangle) between two horizontal edges."""
    left, right, top_right, top_left = (
        np.asarray(v, np.float64) for v in (left, right, top_right, top_left)
    )
    bottom, top = np.linalg.norm(right - left), np.linalg.norm(top_right - top_left)
    widest = max(bottom, top)
    direction = (right - left if bottom >= top else top_right - top_left) / widest
    up = (top_left + top_right - left - right) / 2
    corner = (left + right) / 2 + up - direction * (widest / 2)
    b, t = bottom / widest / 2, top / widest / 2
    outline = np.array([(0.5 - t, 0), (0.5 + t, 0), (0.5 + b, 1), (0.5 - b, 1)])
    if t < 1e-6:
        outline = outline[1:]
    if b < 1e-6:
        outline = outline[:-1]
    return Surface(texture, corner, direction * widest, -up, outline)


def footprint(
    x: Number, y: Number, width: Number, depth: Number
) -> Float[np.ndarray, "4 2"]:
    """A rectangle on the ground, front edge first, counter-clockwise from above."""
    return _corners(x, y, x + width, y + depth)


def _corners(
    x0: Number, y0: Number, x1: Number, y1: Number
) -> Float[np.ndarray, "4 2"]:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def ring(x: Number, y: Number, radius: Number, sides: int) -> Float[np.ndarray, "K 2"]:
    """A regular polygon on the ground with an edge to the front, counter-clockwise."""
    angles = -np.pi / 2 + (np.arange(sides) - 0.5) * (2 * np.pi / sides)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], -1)


def prism(
    textures: Sequence[Texture], ground: Ground, base: Number, height: Number
) -> list[Surface]:
    """Walls over every edge of `ground`; the textures are used in turn."""
    edges = zip(cycle(textures), ground, np.roll(ground, -1, 0), strict=False)
    return [wall(texture, a, b, base, height) for texture, a, b in edges]


def slab(
    texture: Texture, x: Number, y: Number, width: Number, depth: Number, z: Number
) -> Surface:
    """A horizontal surface at height z that faces the sky."""
    return panel(texture, (x, y, z), (width, 0, 0), (0, depth, 0))


def box(
    front: Texture, side: Texture, top: Texture, corner: Point, size: Point
) -> list[Surface]:
    """Four walls and a lid; `corner` lies front left below, `size` is (w, d, h)."""
    (x, y, z), (width, depth, height) = corner, size
    walls = prism([front, side], footprint(x, y, width, depth), z, height)
    return [*walls, slab(top, x, y, width, depth, z + height)]


def lathe(
    textures: Sequence[Texture],
    centre: tuple[Number, Number],
    profile: Sequence[tuple[Number, Number]],
    sides: int,
) -> list[Surface]:
    """A dome, spire or column: rings of facets through (radius, z), lowest first.

    One texture per ring, the last one repeated; edges of radius 0 close to a point.
    """
    surfaces = []
    for i, ((r0, z0), (r1, z1)) in enumerate(pairwise(profile)):
        low, high = ring(*centre, r0, sides), ring(*centre, r1, sides)
        surfaces += _band(textures[min(i, len(textures) - 1)], low, z0, high, z1)
    return surfaces


def _band(
    texture: Texture, low: Ground, base: Number, high: Ground, top: Number
) -> list[Surface]:
    """Facets between two outlines with as many corners, at two heights."""
    edges = zip(low, np.roll(low, -1, 0), np.roll(high, -1, 0), high, strict=True)
    return [
        facet(texture, (*a, base), (*b, base), (*c, top), (*d, top))
        for a, b, c, d in edges
    ]


def saddle_roof(
    tiles: Texture, ground: Ground, base: Number, rise: Number, over: Number
) -> list[Surface]:
    """Two slopes with the ridge from front to back, `over` units beyond the walls."""
    (x0, y0), (x1, y1) = ground[0], ground[2]
    middle, half = (x0 + x1) / 2, (x1 - x0) / 2
    drop = rise * over / half
    y0, y1 = y0 - over, y1 + over
    slope = np.array([half + over, 0.0, rise + drop])
    left, right = (x0 - over, y1, base - drop), (x1 + over, y0, base - drop)
    back = (middle - x1 - over, 0.0, slope[2])
    return [
        panel(tiles, left, (0.0, y0 - y1, 0.0), slope, two_sided=True),
        panel(tiles, right, (0.0, y1 - y0, 0.0), back, two_sided=True),
    ]


def hip_roof(
    tiles: Texture, ground: Ground, base: Number, rise: Number, over: Number
) -> list[Surface]:
    """Four slopes to a ridge along the longer side (a pyramid over a square)."""
    (x0, y0), (x1, y1) = ground[0] - over, ground[2] + over
    width, depth = x1 - x0, y1 - y0
    inset, middle = min(width, depth) / 2, ((x0 + x1) / 2, (y0 + y1) / 2)
    if width > depth:
        ridge = _corners(x0 + inset, middle[1], x1 - inset, middle[1])
    else:
        ridge = _corners(middle[0], y0 + inset, middle[0], y1 - inset)
    return _band(tiles, _corners(x0, y0, x1, y1), base, ridge, base + rise)
