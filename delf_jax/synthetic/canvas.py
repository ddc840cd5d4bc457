"""Canvases for drawn facades: materials, filled outlines, relief, textures.

A canvas is measured in units of its scene (about a metre), x to the right and y upwards
from its lower left corner. It holds relief beside colour, so that one drawing can be
lit from any side.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int32, Real, UInt8

Random = np.random.Generator
Number = int | float | np.integer | np.floating
Rgb = Real[np.ndarray, "3"]
Colour = tuple[Number, Number, Number] | Rgb
Outline = Real[np.ndarray, "K 2"] | Sequence[tuple[Number, Number]]
_NOISE_SIDE = 512
_SLOPE_GAIN = 260.0


class Canvas(NamedTuple):
    """A wall being drawn; the arrays are changed in place."""

    colour: UInt8[np.ndarray, "H W 3"]
    relief: Float[np.ndarray, "H W"]  # units in front of the wall
    glow: UInt8[np.ndarray, "H W 3"]  # light given off at night
    alpha: UInt8[np.ndarray, "H W"]  # 0 where one looks through
    density: float  # pixels per unit


class Level(NamedTuple):
    """A texture at one resolution."""

    colour: UInt8[np.ndarray, "H W 3"]
    slope: UInt8[np.ndarray, "H W 3"] | None  # 128 + relief falling off to the right
    glow: UInt8[np.ndarray, "H W 3"] | None
    alpha: UInt8[np.ndarray, "H W"] | None


class Texture(NamedTuple):
    """A finished drawing at halved resolutions, finest first."""

    levels: tuple[Level, ...]


def blank(width: Number, height: Number, density: Number, colour: Colour) -> Canvas:
    """A flat, opaque canvas of one colour, `width` by `height` units."""
    shape = (max(round(height * density), 4), max(round(width * density), 4))
    return Canvas(
        colour=np.full((*shape, 3), colour, np.float32).astype(np.uint8),
        relief=np.zeros(shape, np.float32),
        glow=np.zeros((*shape, 3), np.uint8),
        alpha=np.full(shape, 255, np.uint8),
        density=float(density),
    )


def noise(
    rng: Random, shape: tuple[int, int], exponent: Number
) -> Float[np.ndarray, "H W"]:
    """Unit-variance noise with spectrum 1 / f^exponent, cut out of a fixed tile."""
    rows, columns = (rng.integers(_NOISE_SIDE) + np.arange(n) for n in shape)
    return _noise_tile(exponent)[rows[:, None] % _NOISE_SIDE, columns % _NOISE_SIDE]


@functools.cache
def _noise_tile(exponent: Number) -> Float[np.ndarray, "side side"]:
    rng = np.random.default_rng(round(1000 * exponent))
    spectrum = np.fft.rfft2(rng.standard_normal((_NOISE_SIDE, _NOISE_SIDE)))
    rows, columns = np.fft.fftfreq(_NOISE_SIDE), np.fft.rfftfreq(_NOISE_SIDE)
    radius = np.hypot(rows[:, None], columns)
    radius[0, 0] = np.inf
    tile = np.fft.irfft2(spectrum / radius**exponent)
    return ((tile - tile.mean()) / tile.std()).astype(np.float32)


def masonry(
    canvas: Canvas,
    rng: Random,
    *,
    block: tuple[Number, Number],
    mortar: Number,
    variation: Number,
    joint_colour: Colour,
) -> None:
    """Lays courses of blocks (width, height in units) over the colour of a canvas."""
    height, width = canvas.relief.shape
    y = np.arange(height, dtype=np.float32)[::-1] / (block[1] * canvas.density)
    row = y.astype(np.int32)
    offsets = (np.arange(row[0] + 1) % 2) / 2 + rng.uniform(-0.15, 0.15, row[0] + 1)
    x = np.arange(width, dtype=np.float32) / (block[0] * canvas.density)
    x = x + offsets.astype(np.float32)[row][:, None] + 1
    column = x.astype(np.int32)
    tones = rng.normal(0, variation, (row[0] + 1, column.max() + 1, 3))
    tones = tones * 0.35 + rng.normal(0, variation, (*tones.shape[:2], 1))
    tones = (1 + tones).clip(0.3, 1.7).astype(np.float32)
    colour = canvas.colour * tones[row[:, None], column]
    joint = (x - column) * block[0] < mortar
    joint |= (y - row)[:, None] * block[1] < mortar
    colour[joint] = joint_colour
    np.copyto(canvas.colour, colour.clip(0, 255).astype(np.uint8))
    canvas.relief[joint] -= min(0.5 * mortar, 0.03)


def mottle(
    canvas: Canvas, rng: Random, *, fine: Number = 0.05, coarse: Number = 0.08
) -> None:
    """Roughens and stains the colour of a canvas, by fractions of its brightness."""
    shape = canvas.relief.shape
    tone = 1 + fine * noise(rng, shape, 0.25) + coarse * noise(rng, shape, 1.25)
    streaks = noise(rng, (1, shape[1]), 0.75) * np.linspace(1, 0.2, shape[0])[:, None]
    tone += (0.5 * coarse * streaks).astype(np.float32)
    colour = canvas.colour * tone[..., None]
    np.copyto(canvas.colour, colour.clip(0, 255).astype(np.uint8))


def fill(
    canvas: Canvas,
    outline: Outline,
    colour: Colour | None,
    relief: Number | None = None,
    glow: Colour | None = None,
) -> None:
    """Fills an outline, (x, y) in units, with a colour, a relief and a glow.

    Without a glow, whatever lies under the outline stops glowing.
    """
    pixels = [to_pixels(canvas, outline)]
    if colour is not None:
        value = tuple(float(c) for c in np.clip(np.array(colour), 0, 255))
        cv2.fillPoly(canvas.colour, pixels, value, cv2.LINE_AA, 4)
    if relief is not None:
        cv2.fillPoly(canvas.relief, pixels, float(relief), cv2.LINE_8, 4)
    if glow is not None:
        cv2.fillPoly(canvas.glow, pixels, tuple(map(float, glow)), cv2.LINE_AA, 4)
    elif colour is not None and canvas.glow.any():
        cv2.fillPoly(canvas.glow, pixels, (0.0, 0.0, 0.0), cv2.LINE_AA, 4)


def cut(canvas: Canvas, outline: Outline) -> None:
    """Cuts an opening out of a canvas."""
    cv2.fillPoly(canvas.alpha, [to_pixels(canvas, outline)], 0.0, cv2.LINE_8, 4)


def keep(canvas: Canvas, outline: Outline) -> None:
    """Cuts away everything outside an outline."""
    kept = np.zeros_like(canvas.alpha)
    cv2.fillPoly(kept, [to_pixels(canvas, outline)], 255.0, cv2.LINE_8, 4)
    np.minimum(canvas.alpha, kept, out=canvas.alpha)


def write(
    canvas: Canvas, text: str, x: Number, y: Number, height: Number, colour: Colour
) -> None:
    """Letters of a height in units, centred on (x, y)."""
    size = float(height * canvas.density / 21)
    thickness = max(round(height * canvas.density / 9), 1)
    font = cv2.FONT_HERSHEY_TRIPLEX
    (width, _), _ = cv2.getTextSize(text, font, size, thickness)
    left = round(x * canvas.density - width / 2)
    base = round(canvas.relief.shape[0] - (y - height / 2) * canvas.density)
    ink = tuple(map(float, colour))
    place = (left, base)
    cv2.putText(canvas.colour, text, place, font, size, ink, thickness, cv2.LINE_AA)


def rectangle(x: Number, y: Number, width: Number, height: Number):
    """The outline of a rectangle from its lower left corner."""
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def polygon(x: Number, y: Number, radius: Number, sides: int = 24, turn: Number = 0.0):
    """The outline of a regular polygon around (x, y), by default nearly a circle."""
    angles = turn + np.arange(sides) * (2 * np.pi / sides)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], -1)


def opening(kind: str, x: Number, y: Number, width: Number, height: Number):
    """The outline of a window or door centred on x that stands on y.

    kind: "square", "round" (semicircular head) or "pointed" (Gothic head).
    """
    if kind == "square":
        return rectangle(x - width / 2, y, width, height)
    half, turns = width / 2, np.linspace(0, np.pi / 2, 8)
    if kind == "round":
        right = np.stack([half * np.cos(turns), half * np.sin(turns)], -1)
    else:
        turns = turns * (2 / 3)
        right = np.stack([width * np.cos(turns) - half, width * np.sin(turns)], -1)
    right[:, 1] *= min(1.0, 0.9 * height / right[-1, 1])
    right[:, 1] += height - right[-1, 1]
    left = right[::-1] * (-1, 1)
    outline = np.concatenate([[(half, 0)], right, left[1:], [(-half, 0)]])
    return outline + (x, y)


def crop(canvas: Canvas, area: slice | tuple[slice, slice]) -> Canvas:
    """The rows and columns of an area of a canvas."""
    colour, relief, glow, alpha = (array[area] for array in canvas[:4])
    return Canvas(colour, relief, glow, alpha, canvas.density)


def split(canvas: Canvas, parts: int) -> list[Canvas]:
    """The canvas in vertical strips, left to right: the sides of a round tower."""
    edges = np.linspace(0, canvas.relief.shape[1], parts + 1).round().astype(int)
    return [
        crop(canvas, np.s_[:, a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]


def finish(canvas: Canvas) -> Texture:
    """The texture of a canvas; light from above is baked in, from a side is not."""
    relief, density = canvas.relief, canvas.density
    colour = canvas.colour
    slope: np.ndarray | None = None
    if relief.any():
        above = np.concatenate([relief[:1], relief[:-1]])
        tone = 1 + (2.2 * (relief - above)).clip(-0.35, 0.35)
        surround = cv2.GaussianBlur(relief, (0, 0), max(0.25 * density, 1.0))
        tone -= (1.6 * (surround - relief)).clip(0, 0.4)
        tone = np.where(_shaded(relief, density), tone * 0.68, tone)
        colour = (colour * tone[..., None]).clip(0, 255).astype(np.uint8)
        falling = np.zeros_like(relief)
        falling[:, 1:-1] = relief[:, :-2] - relief[:, 2:]
        slope = (128 + (_SLOPE_GAIN * falling).clip(-100, 100)).astype(np.uint8)
        slope = cv2.cvtColor(slope, cv2.COLOR_GRAY2RGB)
    glow = np.ascontiguousarray(canvas.glow) if canvas.glow.any() else None
    alpha = np.ascontiguousarray(canvas.alpha) if canvas.alpha.min() < 255 else None
    levels = [Level(np.ascontiguousarray(colour), slope, glow, alpha)]
    while min(levels[-1].colour.shape[:2]) >= 8 and len(levels) < 6:
        levels.append(_halved(levels[-1]))
    return Texture(tuple(levels))


def _shaded(relief: Float[np.ndarray, "H W"], density: Number):
    """Where the relief above keeps off light that falls at about 50 degrees."""
    shaded = np.zeros(relief.shape, bool)
    for length in (0.05, 0.1, 0.2, 0.35):
        rows = max(round(length * density), 1)
        if rows < relief.shape[0]:
            shaded[rows:] |= relief[:-rows] - 0.8 * length > relief[rows:]
    return shaded


def _halved(level: Level) -> Level:
    height, width = (max(n // 2, 1) for n in level.colour.shape[:2])

    def halved(array: np.ndarray) -> np.ndarray:
        return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)

    slope, glow, alpha = (None if x is None else halved(x) for x in level[1:])
    return Level(halved(level.colour), slope, glow, alpha)


def to_pixels(canvas: Canvas, outline: Outline) -> Int32[np.ndarray, "K 2"]:
    """Fixed-point (x, y) with four fractional bits, as OpenCV takes them."""
    pixels = np.asarray(outline, np.float64) * (canvas.density, -canvas.density)
    pixels += (-0.5, canvas.relief.shape[0] - 0.5)
    return np.round(pixels * 16).astype(np.int32)
