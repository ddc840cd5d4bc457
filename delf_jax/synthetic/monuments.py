"""More kinds of drawn landmarks: castles, arches, towers, domes, modern blocks."""

from itertools import pairwise

import numpy as np

from delf_jax.synthetic import emblems, facades, ornaments
from delf_jax.synthetic.buildings import Building
from delf_jax.synthetic.canvas import (
    Number,
    Random,
    blank,
    cut,
    fill,
    finish,
    mottle,
    opening,
    rectangle,
    split,
    write,
)
from delf_jax.synthetic.surfaces import (
    box,
    footprint,
    hip_roof,
    lathe,
    panel,
    prism,
    ring,
    slab,
    wall,
)


def castle(rng: Random) -> Building:
    """A curtain wall with round towers, a gate and a keep behind."""
    look = facades.draw_look(rng, 24, ("rubble", "granite", "sandstone", "red stone"))
    style = look.style._replace(shutters=False, flowers=False)
    look = look._replace(style=style)
    width, tall = rng.uniform(15, 20), rng.uniform(5, 7.5)
    radius, height = rng.uniform(2, 2.8), tall + rng.uniform(1.5, 4)
    curtain = facades.bare(rng, look, width, tall)
    ornaments.door(curtain, rng, style, width / 2, 2.8, 0.6 * tall, "round")
    emblems.shield(curtain, rng, width / 2, 0.8 * tall, 1.5)
    for x in np.linspace(0.24, 0.76, int(rng.integers(3, 6))) * width:
        if abs(x - width / 2) > 2:
            if rng.random() < 0.4:
                emblems.emblem(curtain, rng, style, x, 0.55 * tall, 2.0)
            else:
                ornaments.window(curtain, rng, style, x, 0.45 * tall, 0.5, 1.5)
    ornaments.cornice(curtain, style, tall - 1.5, 0.5)
    facades.battlements(curtain, rng.uniform(0.45, 0.8), 0.8)
    left, right, sides = (-width / 2, 0), (width / 2, 0), 10
    surfaces = [wall(finish(curtain), left, right, 0, tall, two_sided=True)]
    for side in (-1, 1):
        around = 2 * radius * np.pi
        skin = facades.bare(rng, look, around, height)
        for i in range(4):
            x = around * (i + 0.5) / 4
            for y in (0.3, 0.62):
                if rng.random() < 0.75:
                    place = x + rng.uniform(-1, 1)
                    ornaments.window(skin, rng, style, place, y * height, 0.45, 1.3)
        if rng.random() < 0.6:
            place = rng.uniform(0.05, 0.4) * around
            emblems.banner(skin, rng, place, 0.4 * height, 1, 2)
        ornaments.cornice(skin, style, height - 1.7, 0.7)
        roofed = rng.random() < 0.5
        if not roofed:
            facades.battlements(skin, 0.5, 0.9)
        centre = (side * width / 2, 0.3 * radius)
        textures = [finish(part) for part in split(skin, sides)]
        surfaces += prism(textures, ring(*centre, radius, sides), 0, height)
        rise = rng.uniform(2.5, 5)
        tiles = facades.roof(rng, look, 2, rise)
        top, out = (height, 1.15) if roofed else (height - 0.9, 0.98)
        profile = [(out * radius, top), (0.0, top + (rise if roofed else 0.4))]
        surfaces += lathe([tiles], centre, profile, sides)
    keep = rng.uniform(6, 9)
    high = tall + rng.uniform(4, 8)
    front = facades.flank(rng, look, keep, high, 1.0, storeys=4, bays=3)
    if rng.random() < 0.5:
        facades.battlements(front, 0.6, 0.8)
    flank = facades.flank(rng, look, keep, high, storeys=4, bays=2)
    plan = footprint(rng.uniform(-keep, 0), 5, keep, keep)
    surfaces += prism([finish(front), finish(flank)], plan, 0, high)
    tiles = facades.roof(rng, look, keep, 4)
    surfaces += hip_roof(tiles, plan, high - 0.8, rng.uniform(2, 5), -0.1)
    return Building(surfaces, width + 2 * radius, 12, high + 3)


def arch(rng: Random) -> Building:
    """A triumphal arch of one or three openings, carved all over."""
    materials = ("limestone", "sandstone", "granite", "red stone")
    look = facades.draw_look(rng, 17, materials)
    style = look.style
    width, depth, tall = rng.uniform(11, 15), rng.uniform(3, 5), rng.uniform(10, 14)
    three, openings = rng.random() < 0.45, [(0.5, 0.36, 0.64)]
    if three:
        openings = [(0.5, 0.28, 0.62), (0.18, 0.14, 0.4), (0.82, 0.14, 0.4)]
    faces = []
    for _ in range(2):
        face = facades.bare(rng, look, width, tall)
        for x, wide, high in openings:
            outline = opening("round", x * width, 0, wide * width, high * tall)
            fill(face, ornaments.scaled(outline, 0.5), style.trim, 0.2)
            cut(face, outline)
        for x in (0.04, 0.29, 0.71, 0.96):
            ornaments.pilaster(face, style, x * width, 0.3, 0.6, 0.66 * tall)
        for x in (0.165, 0.835):
            for y in (0.55,) if three else (0.2, 0.48):
                emblems.emblem(face, rng, style, x * width, y * tall, 0.17 * width)
        ornaments.cornice(face, style, 0.7 * tall, 0.8)
        text = emblems.words(rng, int(rng.integers(8, 22)))
        write(face, text, width / 2, 0.83 * tall, 0.7, (70, 60, 48))
        for x in (0.1, 0.9):
            emblems.emblem(face, rng, style, x * width, 0.84 * tall, 1.6)
        ornaments.cornice(face, style, 0.93 * tall, 0.07 * tall)
        faces.append(finish(face))
    flank = facades.bare(rng, look, depth, tall)
    emblems.emblem(flank, rng, style, depth / 2, 0.45 * tall, 2.4)
    ornaments.cornice(flank, style, 0.7 * tall, 0.8)
    side = finish(flank)
    plan = footprint(-width / 2, 0, width, depth)
    surfaces = prism([faces[0], side, faces[1], side], plan, 0, tall)
    stone = facades.plain(rng, look, depth, 6)
    for x, wide, high in openings:
        left, right = ((x - 0.5 + s * wide / 2) * width for s in (-1, 1))
        spring = high * tall - wide * width / 2
        surfaces += [
            wall(stone, (left, 0), (left, depth), 0, spring),
            wall(stone, (right, depth), (right, 0), 0, spring),
        ]
        turns = np.linspace(0, np.pi, 7)
        rim = np.stack([np.cos(turns), np.sin(turns)], -1) * wide * width / 2
        rim += ((x - 0.5) * width, spring)
        for (ax, az), (bx, bz) in pairwise(rim):
            start, along, up = (ax, 0.0, az), (0.0, depth, 0.0), (bx - ax, 0.0, bz - az)
            surfaces.append(panel(stone, start, along, up, two_sided=True))
    surfaces.append(slab(stone, -width / 2, 0, width, depth, tall))
    if rng.random() < 0.6:
        corner, size = (-0.2 * width, 0.3, tall), (0.4 * width, depth - 0.6, 2.2)
        block = facades.flank(
            rng, look, size[0], size[2], 1.0, storeys=1, bays=3, decorated=1
        )
        surfaces += box(finish(block), stone, stone, corner, size)
        tall += 2.2
    return Building(surfaces, width, depth, tall)


def clock_tower(rng: Random) -> Building:
    """A town hall whose tower carries a clock."""
    look = facades.draw_look(rng, 22)
    width, depth, tall = rng.uniform(11, 16), rng.uniform(7, 10), rng.uniform(6, 9)
    wide, height = rng.uniform(3.2, 4.4), rng.uniform(15, 21)
    storeys, bays = int(rng.integers(2, 4)), int(rng.integers(5, 8))
    hall = facades.facade(rng, look, width, tall, storeys=storeys, bays=bays)
    flank = facades.flank(rng, look, depth, tall, storeys=2, bays=3)
    plan = footprint(-width / 2, 0, width, depth)
    surfaces = prism([finish(hall), finish(flank)], plan, 0, tall)
    tiles = facades.roof(rng, look, width, depth / 2)
    surfaces += hip_roof(tiles, plan, tall, rng.uniform(2, 4), 0.3)
    x = rng.choice((-width / 2 + 0.5, -wide / 2, width / 2 - wide - 0.5))
    faces = []
    for _ in range(2):
        storeys = int(rng.integers(4, 6))
        face = facades.flank(
            rng, look, wide, height, 1.0, storeys=storeys, bays=1, decorated=0.3
        )
        emblems.clock(face, rng, look.style, wide / 2, 0.82 * height, 0.36 * wide)
        faces.append(finish(face))
    ground = footprint(x, -0.9, wide, wide)
    surfaces += prism(faces, ground, 0, height)
    cap = facades.metal(rng, look, wide, 3)
    rise = rng.uniform(2.5, 6)
    if rng.random() < 0.5:
        surfaces += hip_roof(cap, ground, height, rise, 0.3)
    else:
        middle = (x + wide / 2, wide / 2 - 0.9)
        surfaces += prism(faces, ring(*middle, 0.36 * wide, 8), height, 1.8)
        profile = [(0.45, 0), (0.42, 0.35), (0.2, 0.6), (0.04, 0.75), (0.02, 1.2)]
        profile = [(r * wide, height + 1.8 + z * rise) for r, z in profile]
        surfaces += lathe([cap], middle, profile, 8)
    return Building(surfaces, width, depth, height + rise)


def domed_church(rng: Random) -> Building:
    """A drum with windows under a dome, over a porch with a pediment."""
    look = facades.draw_look(rng, 22, ("limestone", "plaster", "sandstone", "brick"))
    width, depth, tall = rng.uniform(12, 16), rng.uniform(11, 15), rng.uniform(7, 9)
    front = facades.facade(rng, look, width, tall, storeys=2, bays=5, decorated=0.4)
    flank = facades.flank(rng, look, depth, tall, storeys=2, bays=4)
    plan = footprint(-width / 2, 0, width, depth)
    surfaces = prism([finish(front), finish(flank)], plan, 0, tall)
    stone = facades.plain(rng, look, width, depth, 0.4)
    surfaces.append(slab(stone, -width / 2, 0, width, depth, tall))
    radius, drum = rng.uniform(0.3, 0.38) * width, rng.uniform(2.5, 4)
    centre, sides = (0.0, 0.42 * depth), 12
    around = 2 * np.pi * radius
    skin = facades.flank(
        rng, look, around, drum, 1.0, storeys=1, bays=12, decorated=0.2
    )
    textures = [finish(part) for part in split(skin, sides)]
    surfaces += prism(textures, ring(*centre, radius, sides), tall, drum)
    bulge, foot = rng.uniform(0.75, 1.3) * radius, tall + drum
    turns = np.linspace(0, 0.46 * np.pi, 5)
    profile = [(radius * np.cos(t), foot + bulge * np.sin(t)) for t in turns]
    rings = [facades.metal(rng, look, radius / 2, radius / 3) for _ in turns[:-1]]
    surfaces += lathe(rings, centre, profile, sides)
    top = profile[-1][1]
    lantern = facades.plain(rng, look, 1, 2)
    tip = [(0.5, top - 0.2), (0.45, top + 1.2), (0.55, top + 1.3), (0.0, top + 2.4)]
    surfaces += lathe([lantern, lantern, rings[0]], centre, tip, 8)
    rise = rng.uniform(1.5, 2.5)
    gable = facades.bare(rng, look, 0.6 * width, rise)
    ornaments.rosette(gable, look.style.motif, 0.3 * width, 0.4 * rise, 0.28 * rise)
    fill(gable, rectangle(0, 0, width, 0.2), look.style.trim, 0.2)
    facades.gabled(gable, 0.0)
    left, right = (-0.3 * width, -0.05), (0.3 * width, -0.05)
    surfaces.append(wall(finish(gable), left, right, tall, rise, two_sided=True))
    if rng.random() < 0.6:
        surfaces += _minarets(rng, look, width, tall)
    return Building(surfaces, width, depth, top + 2)


def _minarets(rng: Random, look: facades.Look, width: Number, tall: Number):
    surfaces, height = [], tall + rng.uniform(3, 7)
    for side in (-1, 1):
        skin = facades.flank(
            rng, look, 7, height, 1.0, storeys=5, bays=4, decorated=0.1
        )
        textures = [finish(part) for part in split(skin, 8)]
        centre = (side * (width / 2 + 0.8), 0.8)
        surfaces += prism(textures, ring(*centre, 1.1, 8), 0, height)
        cap = facades.metal(rng, look, 1, 3)
        profile = [(1.35, height), (0.9, height + 1), (0.0, height + 2.8)]
        surfaces += lathe([cap], centre, profile, 8)
    return surfaces


def modern_block(rng: Random) -> Building:
    """Stacked boxes of coloured panels and glass, with large letters."""
    look = facades.draw_look(rng, 20, ("plaster", "limestone"))
    width, depth = rng.uniform(11, 17), rng.uniform(8, 11)
    surfaces, low, x, wide = [], 0.0, -width / 2, width
    palette = ornaments.VIVID[rng.permutation(9)[:4]]
    for _ in range(int(rng.integers(2, 4))):
        tall = rng.uniform(3.5, 7)
        front, side = (
            finish(_panels(rng, look, length, tall, palette, low == 0))
            for length in (wide, depth)
        )
        top = facades.plain(rng, look, wide, depth, 0.3)
        y = rng.uniform(-1.2, 1.0) if low else 0.0
        surfaces += box(front, side, top, (x, y, low), (wide, depth, tall))
        low += tall
        wide *= rng.uniform(0.55, 1.0)
        x += rng.uniform(-1, 1.5)
    return Building(surfaces, width, depth, low)


def _panels(rng: Random, look, width, tall, palette, street: bool):
    canvas = blank(width, tall, look.density, look.wall)
    columns, rows = max(int(width / rng.uniform(1.1, 2)), 2), max(int(tall / 1.7), 2)
    w, h = width / columns, tall / rows
    glassy = rng.uniform(0.3, 0.7)
    for i in range(columns):
        for j in range(rows):
            cell = rectangle(i * w + 0.08, j * h + 0.08, w - 0.16, h - 0.16)
            if rng.random() < glassy:
                tone = np.array((70, 92, 112)) * rng.uniform(0.5, 1.5)
                lit = (255, 230, 180) if rng.random() < 0.4 else None
                fill(canvas, cell, tone, -0.1, lit)
                streak = [(i * w + 0.2, j * h + 0.2), (i * w + 0.5, j * h + 0.2)]
                streak.append((i * w + 0.3 * w + 0.5, (j + 1) * h - 0.15))
                fill(canvas, streak, tone * 1.25, None, lit)
            elif rng.random() < 0.55:
                fill(canvas, cell, palette[rng.integers(4)] * 0.8 + 40, 0.06)
    mottle(canvas, rng, fine=0.02, coarse=0.04)
    spot = width * rng.uniform(0.3, 0.7)
    emblems.sign(canvas, rng, spot, tall - 1.5, 0.5 * width, 1.2)
    if street:
        ornaments.door(canvas, rng, look.style, width / 2, 2.4, 2.3, "square")
    if rng.random() < 0.6:
        spot = rng.uniform(0.2, 0.8) * width
        emblems.mural(canvas, rng, spot, 0.25 * tall, 2.6, 0.45 * tall)
    return canvas


def palace(rng: Random) -> Building:
    """A long facade with a raised middle and, now and then, corner pavilions."""
    look = facades.draw_look(rng, 22, ("plaster", "plaster", "sandstone", "brick"))
    width, depth, tall = rng.uniform(17, 23), rng.uniform(7, 9), rng.uniform(6.5, 9)
    storeys, bays = int(rng.integers(2, 4)), int(rng.integers(8, 12))
    front = facades.facade(
        rng, look, width, tall, storeys=storeys, bays=bays, decorated=0.2
    )
    flank = facades.flank(rng, look, depth, tall, storeys=storeys, bays=3)
    plan = footprint(-width / 2, 0, width, depth)
    surfaces = prism([finish(front), finish(flank)], plan, 0, tall)
    tiles = facades.roof(rng, look, width, depth / 2)
    surfaces += hip_roof(tiles, plan, tall, rng.uniform(1.5, 3.5), 0.3)
    places = [0.0] if rng.random() < 0.5 else [-width / 2 + 2, 0.0, width / 2 - 2]
    for x in places:
        wide, bays = (rng.uniform(3.6, 5.5), 3) if x == 0 else (4.0, 2)
        high = tall + rng.uniform(1, 3.5)
        face = facades.facade(
            rng, look, wide, high, storeys=storeys + 1, bays=bays, decorated=0.45
        )
        side = facades.plain(rng, look, depth, high)
        ground = footprint(x - wide / 2, -0.8, wide, depth + 1.6)
        surfaces += prism([finish(face), side], ground, 0, high)
        surfaces += hip_roof(tiles, ground, high, rng.uniform(1.5, 4), 0.25)
    return Building(surfaces, width, depth, tall + 5)
