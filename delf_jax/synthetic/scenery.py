"""What surrounds a drawn landmark: ground, backdrop, trees, passers-by and the sky."""

import functools
from itertools import product
from typing import Any

import cv2
import numpy as np

from delf_jax.synthetic import emblems, facades, ornaments
from delf_jax.synthetic.canvas import (
    Canvas,
    Colour,
    Number,
    Outline,
    Random,
    Texture,
    blank,
    crop,
    fill,
    finish,
    keep,
    masonry,
    mottle,
    noise,
    polygon,
    rectangle,
    to_pixels,
)
from delf_jax.synthetic.surfaces import Surface, footprint, hip_roof, prism, slab, wall

# colour, and (width, height) of the blocks if there are any
_PAVINGS: dict[str, tuple[Colour, tuple[Number, Number] | None]] = {
    "cobbles": ((124, 120, 116), (0.5, 0.42)),
    "slabs": ((164, 160, 152), (1.6, 1.1)),
    "grass": ((92, 116, 58), None),
    "gravel": ((176, 162, 138), None),
    "bricks": ((150, 92, 74), (0.8, 0.35)),
}


def ground(rng: Random, width: Number, depth: Number) -> list[Surface]:
    """Lawn or gravel to the horizon and a paved square before the building."""
    far = _paving(rng, str(rng.choice(["grass", "gravel", "slabs"])), 24, 24, 12)
    field, places = finish(far), product(range(-72, 72, 24), range(-48, 72, 24))
    surfaces = [slab(field, x, y, 24, 24, -0.06) for x, y in places]
    square = (width + rng.uniform(6, 14), depth + 18.0)
    canvas = _paving(rng, str(rng.choice([*_PAVINGS])), *square, 16)
    _ground_ornament(canvas, rng, square)
    rows, strip = canvas.relief.shape[0] // 3, square[1] / 3
    for i in range(3):
        part = finish(crop(canvas, np.s_[i * rows : (i + 1) * rows]))
        near = -16 + square[1] * (2 - i) / 3
        surfaces.append(slab(part, -square[0] / 2, near, square[0], strip, -0.03))
    return surfaces


def _paving(
    rng: Random, kind: str, width: Number, depth: Number, density: Number
) -> Canvas:
    tone, block = _PAVINGS[kind]
    colour = np.array(tone) * rng.uniform(0.85, 1.1)
    canvas = blank(width, depth, density, colour)
    if block:
        joint = colour * 0.66
        masonry(
            canvas, rng, block=block, mortar=0.1, variation=0.11, joint_colour=joint
        )
    mottle(canvas, rng, fine=0.06 if block else 0.16, coarse=0.08)
    canvas.relief[:] = 0
    return canvas


def _ground_ornament(canvas: Canvas, rng: Random, square) -> None:
    """A path, a rosette or beds before the door."""
    pale = np.array((190, 180, 160)) * rng.uniform(0.7, 1.1)
    kind = rng.integers(4)
    if kind != 0:
        fill(canvas, rectangle(square[0] / 2 - 1.6, 0, 3.2, 16), pale)
    if kind == 1:
        ornaments.rosette(canvas, int(rng.integers(1 << 30)), square[0] / 2, 9, 3.5)
    elif kind == 2:
        for side in (-1, 1):
            left = square[0] / 2 + side * 5 - 2
            fill(canvas, rectangle(left, 4, 4, 9), (84, 112, 52))
            for _ in range(60):
                spot = rng.uniform((left, 4), (left + 4, 13))
                colour = ornaments.VIVID[rng.integers(9)]
                fill(canvas, polygon(spot[0], spot[1], 0.14, 6), colour)
    mottle(canvas, rng, fine=0.03, coarse=0.06)
    canvas.relief[:] = 0


def backdrop(rng: Random, width: Number, depth: Number) -> list[Surface]:
    """Plain neighbours on both sides, and hills or a row of roofs behind."""
    surfaces = []
    for side in (-1, 1):
        gap, count = rng.uniform(2.5, 8), int(rng.integers(0, 3))
        x = side * (width / 2 + gap)
        for _ in range(count):
            wide, tall = rng.uniform(6, 11), rng.uniform(5, 10)
            left = x if side > 0 else x - wide
            surfaces += _neighbour(rng, left, rng.uniform(2, 7), wide, tall)
            x += side * (wide + rng.uniform(0, 2))
    far = depth + rng.uniform(18, 30)
    for i in range(-2, 2):
        height = rng.uniform(5, 11)
        texture = finish(_skyline(rng, 40, height, bool(rng.random() < 0.5)))
        start, end = (40 * i, far + i % 2), (40 * i + 40, far)
        surfaces.append(wall(texture, start, end, -0.1, height))
    return surfaces


def _neighbour(rng: Random, x, y, wide, tall) -> list[Surface]:
    look = facades.draw_look(rng, 26)
    storeys = max(int(tall / 2.8), 1)
    plain: dict[str, Any] = {"storeys": storeys, "decorated": 0.05, "detail": 0.7}
    walls = []
    for length in (wide, 7.0):
        bays = max(int(length / 2.6), 1)
        front = facades.facade(rng, look, length, tall, bays=bays, **plain)
        walls.append(finish(front))
    plan = footprint(x, y, wide, 7.0)
    tiles = facades.roof(rng, look, wide, 3, 0.6)
    rise = rng.uniform(1.5, 3.5)
    return prism(walls, plan, 0, tall) + hip_roof(tiles, plan, tall, rise, 0.3)


def _skyline(rng: Random, width, height, wooded: bool) -> Canvas:
    colour = (74, 92, 62) if wooded else (138, 128, 122)
    canvas = blank(width, height, 8, colour)
    if wooded:
        mottle(canvas, rng, fine=0.14, coarse=0.2)
        steps = noise(rng, (1, 81), 0.9)[0] * 0.12 + 0.8
    else:
        for x in np.arange(0, width, 4):
            tone = np.array(colour) * rng.uniform(0.75, 1.2)
            tone = tone * rng.uniform(0.94, 1.06, 3)
            fill(canvas, rectangle(x, 0, 4, height), tone)
            panes = product(np.arange(0.6, height, 1.7), np.arange(0.5, 3.5, 1.1))
            for row, column in panes:
                pane = rectangle(x + column, row, 0.5, 0.9)
                fill(canvas, pane, (70, 76, 86), None, (210, 170, 100))
        steps = rng.uniform(0.55, 1, 10).repeat(8)
        steps = np.append(steps, steps[-1])
    top = np.stack([np.linspace(0, width, 81), (steps.clip(0.3, 1)) * height], -1)
    keep(canvas, np.concatenate([top, [(width, 0), (0, 0)]]))
    return canvas


def tree(rng: Random) -> Canvas:
    """A leafy tree, a fir or a cypress, 4 units wide and 6 tall."""
    kind = rng.integers(3)
    green = np.array([(84, 112, 48), (48, 82, 52), (58, 90, 44)][kind], float)
    if kind == 0 and rng.random() < 0.25:
        green = np.array((176, 118, 48.0))
    canvas = _air(4, 6, 26, green * 0.5)
    _solid(canvas, [(1.85, 0), (2.15, 0), (2.08, 3), (1.92, 3)], (84, 66, 50))
    count = 170
    if kind == 0:
        turn, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
        x, y = 2 + 1.6 * reach * np.cos(turn), 4 + 1.6 * reach * np.sin(turn)
    else:
        y = 0.7 + 5.0 * rng.random(count) ** 1.2
        fir, cypress = 1.6 * (5.9 - y) / 5.2, 0.75 * np.sin(y / 6 * np.pi) ** 0.6
        spread = fir if kind == 1 else cypress
        x = 2 + spread * rng.uniform(-1, 1, count)
    for i in np.argsort(-y + rng.normal(0, 0.4, count)):
        light = 0.62 + 0.12 * (y[i] - 2) + 0.16 * rng.normal()
        radius = rng.uniform(0.12, 0.34)
        _solid(canvas, polygon(x[i], y[i], radius, 9), green * max(light, 0.25))
    mottle(canvas, rng, fine=0.14, coarse=0.05)
    return canvas


def person(rng: Random) -> Canvas:
    """A passer-by, 1 unit wide and 1.9 tall."""
    canvas = _air(1, 1.9, 40, (60, 60, 60))
    skin = np.array((222, 178, 146)) * rng.uniform(0.45, 1.05)
    top, legs = ornaments.VIVID[rng.integers(9, size=2)]
    stride = rng.uniform(0.03, 0.16)
    for side in (-1, 1):
        foot, hip = 0.5 + side * stride, 0.5 + side * 0.1
        leg = [(foot - 0.07, 0), (foot + 0.07, 0), (hip + 0.07, 0.9), (hip - 0.08, 0.9)]
        _solid(canvas, leg, legs * 0.6 + 20)
    body = [(0.34, 0.8), (0.66, 0.8), (0.72, 1.45), (0.6, 1.52)]
    _solid(canvas, [*body, (0.4, 1.52), (0.28, 1.45)], top)
    for side in (-1, 1):
        hand = (0.5 + side * rng.uniform(0.2, 0.42), rng.uniform(0.75, 1.5))
        arm = [(0.5 + side * 0.22, 1.46), (0.5 + side * 0.22, 1.3), hand]
        _solid(canvas, np.array(arm) + (side * 0.02, 0), top * 0.8)
    _solid(canvas, polygon(0.5, 1.68, 0.13, 14), skin)
    hair = np.array((70, 50, 36)) * rng.uniform(0.4, 2.4)
    _solid(canvas, polygon(0.5, 1.75, 0.12, 12), hair)
    return canvas


def lamp(rng: Random) -> Canvas:
    """A lamppost, 1 unit wide and 5 tall."""
    canvas = _air(1, 5, 30, (44, 46, 44))
    tone = np.array((44, 50, 46)) * rng.uniform(0.6, 1.6)
    _solid(canvas, rectangle(0.44, 0, 0.12, 4.2), tone)
    _solid(canvas, rectangle(0.36, 0, 0.28, 0.5), tone)
    lantern = [(0.38, 4.1), (0.62, 4.1), (0.76, 4.7), (0.24, 4.7)]
    _solid(canvas, lantern, (236, 226, 190), (255, 226, 160))
    _solid(canvas, [(0.2, 4.7), (0.8, 4.7), (0.5, 4.98)], tone)
    return canvas


def stall(rng: Random) -> Canvas:
    """A market stall or a van with a name on it, 4 units wide and 2.6 tall."""
    canvas = _air(4, 2.6, 30, (60, 60, 60))
    colour, other = ornaments.VIVID[rng.permutation(9)[:2]]
    _solid(canvas, rectangle(0.1, 0.35, 3.8, 1.4), colour)
    if rng.random() < 0.5:
        for i in range(8):
            strip = rectangle(0.5 * i, 1.75, 0.5, 0.8)
            _solid(canvas, strip, colour if i % 2 else (236, 230, 220))
        _solid(canvas, rectangle(0.3, 0, 3.4, 0.5), other * 0.5)
    else:
        _solid(canvas, rectangle(0.1, 1.5, 3.2, 0.95), colour)
        _solid(canvas, rectangle(2.2, 1.5, 0.9, 0.7), (60, 74, 88))
        for x in (0.8, 3.1):
            _solid(canvas, polygon(x, 0.38, 0.38, 16), (28, 28, 30))
    emblems.sign(canvas, rng, 1.6, 0.8, 2.4, 0.6)
    return canvas


@functools.cache
def passers(kind: str, number: int) -> Texture:
    """One of the things in the way: a "person", "lamp", "tree" or "stall"."""
    draw = {"person": person, "lamp": lamp, "tree": tree, "stall": stall}[kind]
    return finish(draw(np.random.default_rng((number, len(kind)))))


def _air(width: Number, height: Number, density: Number, colour: Colour) -> Canvas:
    """A canvas that is transparent all over."""
    canvas = blank(width, height, density, colour)
    canvas.alpha[:] = 0
    return canvas


def _solid(canvas: Canvas, outline: Outline, colour: Colour, glow=None) -> None:
    """Fills an outline and makes it opaque."""
    fill(canvas, outline, colour, None, glow)
    pixels = to_pixels(canvas, outline)
    cv2.fillPoly(canvas.alpha, [pixels], 255.0, cv2.LINE_AA, 4)
