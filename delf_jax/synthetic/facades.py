"""Whole walls and roofs: a material, storeys of windows, an entrance, emblems."""

from typing import NamedTuple

import numpy as np

from delf_jax.synthetic import emblems, ornaments
from delf_jax.synthetic.canvas import (
    Canvas,
    Number,
    Random,
    Rgb,
    Texture,
    blank,
    cut,
    fill,
    finish,
    keep,
    masonry,
    mottle,
    rectangle,
)
from delf_jax.synthetic.ornaments import Style

# wall colour, (block width, height), mortar width, variation, joints' brightness
_MATERIALS = {
    "brick": ((158, 82, 62), (0.5, 0.2), 0.04, 0.13, 1.25),
    "yellow brick": ((196, 164, 112), (0.5, 0.2), 0.04, 0.1, 0.8),
    "sandstone": ((206, 176, 130), (1.1, 0.55), 0.05, 0.08, 0.68),
    "granite": ((146, 144, 146), (1.3, 0.65), 0.06, 0.1, 0.6),
    "rubble": ((142, 128, 108), (0.7, 0.38), 0.09, 0.2, 0.62),
    "limestone": ((212, 206, 190), (1.4, 0.6), 0.04, 0.06, 0.74),
    "red stone": ((168, 96, 76), (1.0, 0.5), 0.05, 0.1, 0.6),
}
_PLASTERS = (
    (226, 190, 120),
    (214, 142, 112),
    (186, 204, 186),
    (224, 214, 198),
    (154, 178, 200),
    (216, 170, 164),
    (198, 96, 74),
    (236, 226, 160),
)
_ROOFS = ((154, 74, 52), (84, 84, 92), (112, 74, 58), (96, 140, 120), (178, 100, 60))


class Look(NamedTuple):
    """What the walls and the roof of a landmark are made of."""

    style: Style
    wall: Rgb
    material: str  # a key of _MATERIALS, or "plaster" or "timber"
    roof: Rgb
    density: float  # pixels per unit on the main facade


def draw_look(rng: Random, extent: Number, materials: tuple[str, ...] = ()) -> Look:
    """A random look, from `materials` if any, for a facade `extent` units large."""
    choices = materials or (*_MATERIALS, "plaster", "plaster", "timber")
    material = str(rng.choice(choices))
    if material in _MATERIALS:
        base = np.array(_MATERIALS[material][0]) * rng.uniform(0.82, 1.15)
        base = base * rng.uniform(0.93, 1.07, 3)
    else:
        base = np.array(_PLASTERS[rng.integers(len(_PLASTERS))])
        base = base * rng.uniform(0.88, 1.04)
    wall = base.clip(20, 245)
    roof = np.array(_ROOFS[rng.integers(len(_ROOFS))]) * rng.uniform(0.85, 1.15)
    style = ornaments.draw_style(rng, wall)
    return Look(style, wall, material, roof, min(float(620 / extent), 48.0))


def bare(
    rng: Random, look: Look, width: Number, height: Number, detail: Number = 1.0
) -> Canvas:
    """A wall of the look's material, nothing on it yet."""
    canvas = blank(width, height, look.density * detail, look.wall)
    if look.material in _MATERIALS:
        _, block, mortar, variation, joint = _MATERIALS[look.material]
        # model masons use large blocks: visible, though the picture is small
        masonry(
            canvas,
            rng,
            block=(1.5 * block[0], 1.5 * block[1]),
            mortar=1.3 * mortar,
            variation=variation,
            joint_colour=(look.wall * joint).clip(0, 250),
        )
    elif look.material == "timber":
        _timber(canvas, rng, width, height)
    mottle(canvas, rng)
    return canvas


def _timber(canvas: Canvas, rng: Random, width, height) -> None:
    beam, storey = (82, 56, 40), 2.8
    posts = np.arange(0, width + 0.1, rng.uniform(1.4, 2.2))
    for x in posts:
        fill(canvas, rectangle(x - 0.12, 0, 0.24, height), beam, 0.06)
    for y in np.arange(0, height, storey):
        fill(canvas, rectangle(0, y - 0.14, width, 0.28), beam, 0.08)
        for left, right in zip(posts[:-1], posts[1:], strict=True):
            kind, top = rng.integers(4), y + storey
            for a, b in [(left, right), (right, left)][: kind if kind < 3 else 0]:
                brace = [(a - 0.1, y), (a + 0.1, y), (b + 0.1, top), (b - 0.1, top)]
                fill(canvas, brace, beam, 0.05)


def facade(
    rng: Random,
    look: Look,
    width: Number,
    height: Number,
    *,
    storeys: int,
    bays: int,
    entrance: bool = True,
    decorated: Number = 0.35,
    detail: Number = 1.0,
) -> Canvas:
    """A wall with storeys of windows between string courses, cornice on top.

    decorated: the share of bays that carry an emblem in place of a window.
    """
    canvas = bare(rng, look, width, height, detail)
    style = look.style
    plinth = rectangle(0, 0, width, min(0.9, 0.1 * height))
    fill(canvas, plinth, look.wall * 0.72, 0.12)
    crown = min(1.0, 0.1 * height)
    floor, bay = (height - crown) / storeys, width / bays
    if rng.random() < 0.45:
        for i in range(bays + 1):
            x = np.clip(i * bay, 0.2, width - 0.2)
            ornaments.pilaster(canvas, style, x, 0.4, 0.35, height - crown - 0.4)
    for storey in range(storeys):
        cell, street = (floor, bay, bays), entrance and storey == 0
        _storey(canvas, rng, look, storey * floor, cell, street, decorated)
    ornaments.cornice(canvas, style, height - crown, crown)
    return canvas


def flank(
    rng: Random,
    look: Look,
    width: Number,
    height: Number,
    detail: Number = 0.6,
    **options,
) -> Canvas:
    """A facade without an entrance, by default in less detail."""
    return facade(rng, look, width, height, detail=detail, entrance=False, **options)


def _storey(
    canvas: Canvas,
    rng: Random,
    look: Look,
    low: Number,
    cell: tuple[Number, Number, int],
    entrance: bool,
    decorated: Number,
) -> None:
    """One row of windows; with an entrance, the middle one is a door."""
    floor, bay, bays = cell
    style = look.style
    if low > 0:
        course = rectangle(0, low - 0.1, bay * bays, 0.22)
        fill(canvas, course, style.trim, 0.18)
        if rng.random() < 0.4:
            ornaments.frieze(canvas, style, 0, bay * bays, low + 0.15, 0.28)
    kind = style.window if rng.random() < 0.6 else str(rng.choice(["square", "round"]))
    wide = min(bay * rng.uniform(0.36, 0.52), floor * 0.5)
    tall = min(floor * rng.uniform(0.5, 0.62), 2.6 * wide)
    for i in range(bays):
        x, y = (i + 0.5) * bay, low + 0.24 * floor
        if entrance and i == bays // 2:
            portal = str(rng.choice(["round", "pointed", "square"]))
            wide_door = min(0.55 * bay, 2.4)
            ornaments.door(canvas, rng, style, x, wide_door, 0.82 * floor, portal)
        elif rng.random() < decorated * (0.5 if entrance else 1.0):
            size = min(0.72 * floor, 0.85 * bay)
            emblems.emblem(canvas, rng, style, x, low + 0.52 * floor, size)
        else:
            ornaments.window(canvas, rng, style, x, y, wide, tall, kind)
    if entrance and rng.random() < 0.5:
        place = rng.uniform(0.25, 0.75) * bay * bays
        emblems.sign(canvas, rng, place, 0.86 * floor, 0.4 * bay * bays, 0.13 * floor)


def roof(
    rng: Random, look: Look, width: Number, height: Number, detail: Number = 0.8
) -> Texture:
    """Rows of tiles or slates, some replaced, now and then a dormer."""
    canvas = blank(width, height, look.density * detail, look.roof)
    masonry(
        canvas,
        rng,
        block=(0.45, 0.34),
        mortar=0.07,
        variation=0.14,
        joint_colour=look.roof * 0.55,
    )
    mottle(canvas, rng, fine=0.06, coarse=0.12)
    if rng.random() < 0.5 and height > 2.5:
        for x in np.arange(1.2, width - 1, rng.uniform(2, 4)):
            y = 0.3 * height
            gable = [(x - 0.6, y), (x + 0.6, y), (x + 0.6, y + 0.8), (x, y + 1.4)]
            fill(canvas, [*gable, (x - 0.6, y + 0.8)], look.wall, 0.4)
            ornaments.window(canvas, rng, look.style, x, y + 0.1, 0.5, 0.8, "square")
    return finish(canvas)


def metal(rng: Random, look: Look, width: Number, height: Number) -> Texture:
    """Standing seams of copper or lead, for domes and spires."""
    canvas = blank(width, height, look.density * 0.7, look.roof)
    for x in np.linspace(0, width, 4):
        seam = rectangle(x - 0.05, 0, 0.1, height)
        fill(canvas, seam, look.roof * 1.25, 0.08)
    mottle(canvas, rng, fine=0.04, coarse=0.14)
    return finish(canvas)


def plain(
    rng: Random, look: Look, width: Number, height: Number, detail: Number = 0.6
) -> Texture:
    """A wall without openings, for towers' feet, parapets, columns and copings."""
    return finish(bare(rng, look, width, height, detail))


def gabled(canvas: Canvas, eaves: Number, steps: int = 0) -> Canvas:
    """The canvas cut to a gable above `eaves`, straight or in steps."""
    height, width = (n / canvas.density for n in canvas.relief.shape)
    middle, rise = width / 2, height - eaves
    outline: list[tuple[Number, Number]] = [(0, 0)]
    for i in range(steps):
        x, y = middle * i / steps, eaves + rise * (i + 1) / steps
        outline += [(x, y - rise / steps), (x, y)]
    if steps:
        outline.append((middle * (steps - 0.5) / steps, height))
    else:
        outline += [(0, eaves), (middle, height)]
    mirrored = np.array(outline[::-1]) * (-1, 1) + (width, 0)
    keep(canvas, np.concatenate([outline, mirrored]))
    return canvas


def battlements(canvas: Canvas, merlon: Number, depth: Number) -> Canvas:
    """The canvas with its top edge notched."""
    height, width = (n / canvas.density for n in canvas.relief.shape)
    count = max(round(width / (2 * merlon)), 1)
    step = width / count
    for i in range(count):
        cut(canvas, rectangle(i * step + step / 4, height - depth, step / 2, depth + 1))
    return canvas
