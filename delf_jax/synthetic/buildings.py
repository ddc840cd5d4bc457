"""The kinds of drawn landmarks: each function builds one from a generator.

A building stands with the middle of its front at the origin and looks to the visitor,
towards -y.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.synthetic import emblems, facades, ornaments
from delf_jax.synthetic.canvas import (
    Number,
    Random,
    Texture,
    blank,
    fill,
    finish,
    mottle,
    rectangle,
    write,
)
from delf_jax.synthetic.facades import Look
from delf_jax.synthetic.surfaces import (
    Surface,
    box,
    footprint,
    hip_roof,
    lathe,
    panel,
    prism,
    saddle_roof,
    wall,
)


class Building(NamedTuple):
    """The surfaces of a building and the room it takes."""

    surfaces: list[Surface]
    width: float
    depth: float
    height: float


def _hall(
    front: Texture,
    side: Texture,
    tiles: Texture,
    ground: Float[np.ndarray, "4 2"],
    eaves: Number,
    rise: Number,
    over: Number,
) -> list[Surface]:
    """A gabled front, the walls behind it and their saddle roof."""
    a, b, c, d = ground
    walls = [
        wall(front, a, b, 0, eaves + rise, two_sided=True),
        wall(side, b, c, 0, eaves),
        wall(side, d, a, 0, eaves),
    ]
    behind = ground + 0.15 * np.array([(0, 1), (0, 1), (0, 0), (0, 0)])
    return walls + saddle_roof(tiles, behind, eaves, rise, over)


def _gable_house(
    rng: Random, look: Look, x: Number, width: Number, depth: Number
) -> tuple[list[Surface], float]:
    """A house with its gable to the street, and its height."""
    storeys = int(rng.integers(2, 5))
    eaves = storeys * rng.uniform(2.4, 3.0)
    rise = width * rng.uniform(0.4, 0.75)
    height, bays = float(eaves + rise), int(rng.integers(2, 5))
    front = facades.facade(rng, look, width, height, storeys=storeys + 1, bays=bays)
    steps = int(rng.integers(3, 7)) if rng.random() < 0.5 else 0
    facades.gabled(front, eaves, steps)
    attic = min(0.3 * width, 0.4 * rise)
    emblems.emblem(front, rng, look.style, width / 2, eaves + 0.3 * rise, 1.6 * attic)
    bays = max(int(depth / 3), 1)
    side = finish(facades.flank(rng, look, depth, eaves, storeys=storeys, bays=bays))
    tiles = facades.roof(rng, look, depth, np.hypot(width / 2, rise))
    ground, over = footprint(x - width / 2, 0, width, depth), 0.0 if steps else 0.3
    return _hall(finish(front), side, tiles, ground, eaves, rise, over), height


def town_houses(rng: Random) -> Building:
    """A row of two to four gabled houses."""
    count = int(rng.integers(2, 5))
    widths = rng.uniform(5, 8, count)
    depth, surfaces, heights = rng.uniform(7, 11), [], []
    x = -widths.sum() / 2
    for width in widths:
        look = facades.draw_look(rng, 15.0)
        parts, height = _gable_house(rng, look, x + width / 2, width, depth)
        surfaces += parts
        heights.append(height)
        x += width
    return Building(surfaces, widths.sum(), depth, max(heights))


def _tower(
    rng: Random,
    look: Look,
    corner: tuple[Number, Number],
    width: Number,
    height: Number,
    storeys: int,
    clock: bool = False,
) -> list[Surface]:
    """A square tower with a spire, a hipped roof or battlements."""
    sides = []
    for _ in range(2):
        canvas = facades.flank(
            rng, look, width, height, 1.0, storeys=storeys, bays=1, decorated=0.2
        )
        if clock:
            x, y = width / 2, 0.86 * height
            emblems.clock(canvas, rng, look.style, x, y, 0.3 * width)
        sides.append(canvas)
    kind = rng.integers(3)
    if kind == 0:
        sides = [facades.battlements(c, 0.5, 0.8) for c in sides]
    ground = footprint(*corner, width, width)
    surfaces = prism([finish(c) for c in sides], ground, 0, height)
    if kind == 0:
        tiles = facades.roof(rng, look, width, width)
        return surfaces + hip_roof(tiles, ground, height - 0.8, 0.3 * width, -0.1)
    rise = width * (rng.uniform(1.4, 2.4) if kind == 1 else rng.uniform(0.5, 0.9))
    tiles = facades.roof(rng, look, width, rise)
    return surfaces + hip_roof(tiles, ground, height, rise, 0.25)


def cathedral(rng: Random) -> Building:
    """A nave behind a west front with portals, a rose window and one or two towers."""
    materials = ("sandstone", "limestone", "granite", "red stone")
    look = facades.draw_look(rng, 22, materials)
    style = look.style._replace(window="pointed", head="arch", shutters=False)
    look = look._replace(style=style)
    width, depth = rng.uniform(8, 11), rng.uniform(16, 22)
    eaves, rise = rng.uniform(10, 14), rng.uniform(4, 6)
    front = facades.bare(rng, look, width, eaves + rise)
    radius = rng.uniform(0.18, 0.26) * width
    for x in (0.22, 0.5, 0.78):
        tall = 0.32 * eaves if x == 0.5 else 0.25 * eaves
        ornaments.door(front, rng, style, x * width, 0.18 * width, tall, "pointed")
    ornaments.cornice(front, style, 0.4 * eaves, 0.6)
    niches = int(rng.integers(4, 8))
    for i in range(niches):
        x = width * (i + 0.5) / niches
        emblems.statue(front, rng, style, x, 0.4 * eaves + 0.8, 1.5)
    high = 0.4 * eaves + 2.7 + 1.2 * radius
    ornaments.rose_window(front, style, width / 2, high, radius)
    emblems.emblem(front, rng, style, width / 2, eaves + 0.35 * rise, 0.32 * rise)
    facades.gabled(front, eaves)
    nave = facades.flank(rng, look, depth, eaves, storeys=2, bays=6, decorated=0.1)
    tiles = facades.roof(rng, look, depth, np.hypot(width / 2, rise), 0.6)
    ground = footprint(-width / 2, 0, width, depth)
    surfaces = _hall(finish(front), finish(nave), tiles, ground, eaves, rise, 0.2)
    tower = rng.uniform(3.6, 5)
    storeys, height = int(rng.integers(4, 6)), eaves + rng.uniform(3, 9)
    plan = rng.integers(3)
    clock = bool(rng.random() < 0.5)
    total = width
    for side in (-1, 1):
        if plan == side + 1:
            continue
        low = 0.0 if plan == 1 or side == 1 else rng.uniform(-2, 0)
        left = width / 2 if side == 1 else -width / 2 - tower
        surfaces += _tower(rng, look, (left, -0.6), tower, height + low, storeys, clock)
        total += tower
    return Building(surfaces, total, depth, height + 6)


def temple(rng: Random) -> Building:
    """A colonnade with a carved pediment on a flight of steps."""
    look = facades.draw_look(rng, 20, ("limestone", "sandstone", "granite", "plaster"))
    style = look.style
    width, depth, tall = rng.uniform(13, 18), rng.uniform(14, 20), rng.uniform(6, 8)
    columns, steps = 2 * int(rng.integers(2, 5)), int(rng.integers(3, 7))
    base, rise, porch = 0.28 * steps, width * rng.uniform(0.16, 0.24), 2.6
    surfaces = []
    stone = facades.plain(rng, look, 8, 1)
    for i in range(steps):
        out = 0.4 * (steps - 1 - i)
        corner = (-width / 2 - out, -out, 0.28 * i)
        surfaces += box(
            stone, stone, stone, corner, (width + 2 * out, depth + out, 0.28)
        )
    inner = facades.facade(
        rng, look, width - 2, tall, storeys=2, bays=columns - 1, decorated=0.5
    )
    side = facades.flank(rng, look, depth - porch, tall, storeys=1, bays=4)
    ground = footprint(-width / 2 + 1, porch, width - 2, depth - porch)
    surfaces += prism([finish(inner), finish(side)], ground, base, tall)
    radius = rng.uniform(0.4, 0.55)
    shaft = blank(1, tall, 24, look.wall)
    for i in range(2):
        groove = rectangle(0.25 + 0.4 * i, 0.3, 0.14, tall - 0.9)
        fill(shaft, groove, look.wall * 0.8, -0.06)
    for low, high in ((0, 0.25), (tall - 0.5, 0.2), (tall - 0.25, 0.25)):
        fill(shaft, rectangle(0, low, 1, high), style.trim, 0.1)
    mottle(shaft, rng)
    texture = finish(shaft)
    profile = [(radius, base), (0.82 * radius, base + tall)]
    for i in range(columns):
        x = -width / 2 + 0.8 + (width - 1.6) * i / (columns - 1)
        surfaces += lathe([texture], (x, 0.8), profile, 8)
    beam = blank(width, 1.6, look.density, style.trim)
    mottle(beam, rng)
    ornaments.cornice(beam, style, 0.95, 0.65)
    inscription = emblems.words(rng, int(rng.integers(8, 20)))
    write(beam, inscription, width / 2, 0.45, 0.55, (60, 50, 40))
    ends = facades.plain(rng, look, depth, 1.6)
    top = base + tall
    ceiling = panel(stone, (-width / 2, depth, top), (width, 0, 0), (0, -depth, 0))
    plan = footprint(-width / 2, 0, width, depth)
    surfaces += [ceiling, *prism([finish(beam), ends], plan, top, 1.6)]
    top += 1.6
    gable = facades.bare(rng, look, width, rise)
    figures = int(rng.integers(3, 8))
    for i in range(figures):
        x = width * (0.22 + 0.56 * (i + 0.5) / figures)
        size = 0.82 * rise * (1 - abs(x / width - 0.5) * 2)
        emblems.figure(gable, rng, style.trim, x, 0.1, size)
    ornaments.rosette(gable, style.motif, width / 2, 0.42 * rise, 0.2 * rise)
    slope = np.array([(0, 0), (width / 2, rise), (width / 2, rise - 0.4), (0.9, 0)])
    for outline in (slope * (-1, 1) + (width, 0), slope):
        fill(gable, outline, style.trim, 0.35)
    facades.gabled(gable, 0.0)
    start, end = (-width / 2, 0.1), (width / 2, 0.1)
    surfaces.append(wall(finish(gable), start, end, top, rise, two_sided=True))
    tiles = facades.roof(rng, look, depth, np.hypot(width / 2, rise), 0.5)
    plan = footprint(-width / 2, 0.2, width, depth)
    surfaces += saddle_roof(tiles, plan, top, rise, 0.2)
    return Building(surfaces, width, depth, top + rise)
