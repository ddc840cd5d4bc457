"""Ornaments that make a landmark distinct: figures, clocks, words."""

import numpy as np

from delf_jax.synthetic.canvas import (
    Canvas,
    Number,
    Random,
    Rgb,
    fill,
    opening,
    polygon,
    rectangle,
    write,
)
from delf_jax.synthetic.ornaments import VIVID, Style, rosette

_LETTERS = np.array(list("ABCDEFGHILMNOPRSTUVZ"))


def statue(
    canvas: Canvas, rng: Random, style: Style, x: Number, y: Number, height: Number
) -> None:
    """A robed figure in a niche; what it holds and wears is random."""
    width = 0.5 * height
    niche = opening("round", x, y, width, height)
    fill(canvas, niche, style.trim * 0.5, -0.25)
    stone = np.array((216, 210, 196)) * rng.uniform(0.75, 1.05)
    figure(canvas, rng, stone, x, y + 0.08 * height, 0.78 * height)
    plinth = rectangle(x - 0.6 * width, y - 0.06 * height, 1.2 * width, 0.14 * height)
    fill(canvas, plinth, style.trim, 0.25)


def figure(canvas: Canvas, rng: Random, colour: Rgb, x, y, height) -> None:
    """A standing figure in stone, freely posed."""
    flip = rng.choice((-1, 1))

    def part(points, tone, relief):
        outline = np.array(points) * (flip * height, height) + (x, y)
        fill(canvas, outline, colour * tone, relief)

    lean, hem = rng.uniform(-0.06, 0.06), rng.uniform(0.12, 0.22)
    if rng.random() < 0.35:
        for side in (-1, 1):
            wing = [(side * 0.05, 0.7), (side * 0.32, 0.88), (side * 0.2, 0.4)]
            part(wing, 0.85, 0.0)
    robe = [(-hem, 0), (hem, 0), (0.13 + lean, 0.5), (0.16 + lean, 0.78)]
    robe += [(-0.16 + lean, 0.78), (-0.12 + lean, 0.5)]
    part(robe, 1.0, 0.1)
    for fold in rng.uniform(-0.8, 0.8, 3):
        low, high = fold * hem, fold * 0.1 + lean
        part([(low, 0), (low + 0.025, 0), (high, 0.6)], 0.68, 0.04)
    part(polygon(lean, 0.88, 0.09, 12), 1.05, 0.15)
    reach, lift = rng.uniform(0.15, 0.3), rng.uniform(0.4, 0.95)
    hand = (lean + reach, lift)
    part([(lean + 0.12, 0.76), (lean + 0.12, 0.66), hand], 0.9, 0.18)
    held = rng.integers(4)
    if held == 0:
        part([(hand[0] - 0.015, 0), (hand[0] + 0.015, 0), (hand[0], 1.1)], 0.8, 0.2)
    elif held == 1:
        part(polygon(*hand, 0.09, 10), 0.75, 0.2)
    elif held == 2:
        book = [(-0.07, -0.1), (0.09, -0.07), (0.07, 0.1), (-0.09, 0.07)]
        part(np.array(book) + hand, 0.72, 0.2)
    if rng.random() < 0.5:
        part([(lean - 0.09, 0.93), (lean + 0.09, 0.93), (lean, 1.06)], 0.8, 0.18)


def clock(canvas: Canvas, rng: Random, style: Style, x, y, radius) -> None:
    """A clock that stopped at a time of its own."""
    face, ink = (30, 36, 58), (222, 190, 96)
    if rng.random() < 0.6:
        face, ink = (236, 230, 212), (28, 26, 30)
    fill(canvas, polygon(x, y, 1.22 * radius, 32), style.trim, 0.25)
    fill(canvas, polygon(x, y, 1.06 * radius, 32), style.accent, 0.2)
    fill(canvas, polygon(x, y, radius, 32), face, 0.1, np.array(face) * 0.8)

    def hand(turn, near, far, wide):
        along = np.array((np.sin(turn), np.cos(turn)))
        across = np.array((along[1], -along[0])) * wide
        outline = [along * near - across, along * near + across]
        outline += [along * far + across, along * far - across]
        fill(canvas, np.array(outline) * radius + (x, y), ink, 0.12, (8, 8, 8))

    for hour in range(12):
        hand(hour * np.pi / 6, 0.78, 0.95, 0.05 if hour % 3 else 0.09)
    time = rng.uniform(0, 12)
    hand(time * np.pi / 6, -0.1, 0.55, 0.06)
    hand(time * 2 * np.pi, -0.12, 0.82, 0.035)


def words(rng: Random, letters: int) -> str:
    """A made-up inscription of about so many letters."""
    text = ""
    while len(text) < letters:
        text += "".join(rng.choice(_LETTERS, rng.integers(2, 7))) + " "
    return text[:letters].strip()


def sign(canvas: Canvas, rng: Random, x, y, width, height) -> None:
    """A shop sign with a name."""
    board, ink = VIVID[rng.permutation(len(VIVID))[:2]]
    if abs(board.mean() - ink.mean()) < 50:
        ink = np.array((240, 232, 214) if board.mean() < 128 else (24, 22, 26))
    left, inset = x - width / 2, 0.08 * height
    fill(canvas, rectangle(left, y, width, height), ink, 0.25)
    inner = (left + inset, y + inset, width - 2 * inset, height - 2 * inset)
    fill(canvas, rectangle(*inner), board, 0.25, board * 0.35)
    letters = max(int(width / (0.55 * height)), 3)
    text = words(rng, int(rng.integers(max(letters // 2, 2), letters + 1)))
    write(canvas, text, x, y + height / 2, 0.55 * height, ink)


def banner(canvas: Canvas, rng: Random, x, y, width, height) -> None:
    """A hanging cloth in two colours with a rosette on it."""
    field, stripe = VIVID[rng.permutation(len(VIVID))[:2]]
    left, right, top = x - width / 2, x + width / 2, y + height
    low, wide = y + 0.12 * height, 0.34 * width
    cloth = [(left, top), (left, y), (x, low), (right, y), (right, top)]
    fill(canvas, cloth, field, 0.2)
    shapes = (
        rectangle(left, y + 0.62 * height, width, 0.12 * height),
        rectangle(x - wide / 2, low, wide, 0.88 * height),
        [(left, top), (right, top), (left, y + 0.4 * height)],
    )
    fill(canvas, shapes[rng.integers(3)], stripe)
    rosette(canvas, int(rng.integers(1 << 30)), x, y + 0.5 * height, 0.32 * width)


def mural(canvas: Canvas, rng: Random, x, y, width, height) -> None:
    """A framed painting or mosaic: hills, suns and figures in a few colours."""
    colours, left = VIVID[rng.permutation(len(VIVID))], x - width / 2
    frame = rectangle(left - 0.15, y - 0.15, width + 0.3, height + 0.3)
    fill(canvas, frame, colours[0] * 0.6 + 60, 0.15)
    fill(canvas, rectangle(left, y, width, height), colours[1] * 0.6 + 70, 0.0)
    spot = rng.uniform((-0.35, 0.6), (0.35, 0.85)) * (width, height) + (x, y)
    radius = rng.uniform(0.1, 0.2) * height
    fill(canvas, polygon(spot[0], spot[1], radius, 16), colours[2])
    for layer in range(3):
        heights = rng.uniform(0.1, 0.55 - 0.13 * layer, 7) * height
        ridge = np.stack([np.linspace(-0.5, 0.5, 7) * width + x, heights + y], -1)
        outline = np.array([*ridge, (x + width / 2, y), (left, y)])
        fill(canvas, outline, colours[3 + layer])
    for _ in range(int(rng.integers(2, 5))):
        place = x + rng.uniform(-0.4, 0.4) * width
        tall = rng.uniform(0.45, 0.8) * height
        figure(canvas, rng, colours[rng.integers(6, 9)], place, y + 0.05 * height, tall)


def shield(canvas: Canvas, rng: Random, x, y, height) -> None:
    """A coat of arms around (x, y)."""
    field, charge, rim = VIVID[rng.permutation(len(VIVID))[:3]]
    turns = np.linspace(0, np.pi, 9)
    bottom = np.stack([0.4 * np.cos(turns), -0.1 - 0.42 * np.sin(turns)], -1)
    outline = np.concatenate([[(0.4, 0.5)], bottom, [(-0.4, 0.5)]])
    fill(canvas, outline * 1.2 * height + (x, y), rim, 0.2)
    fill(canvas, outline * height + (x, y), field, 0.25)
    if rng.random() < 0.5:
        half = np.array([*outline[outline[:, 0] >= 0], (0, -0.52), (0, 0.5)])
        fill(canvas, half * height + (x, y), charge)
    if rng.random() < 0.5:
        band = [(-0.4, 0.3), (-0.4, 0.5), (0.36, -0.25), (0.28, -0.42)]
        fill(canvas, np.array(band) * height + (x, y), charge)
    rosette(canvas, int(rng.integers(1 << 30)), x, y + 0.05 * height, 0.2 * height)


def emblem(canvas: Canvas, rng: Random, style: Style, x, y, size) -> None:
    """One of the ornaments above, chosen at random, within a square around (x, y)."""
    kind = rng.integers(6)
    if kind == 0:
        statue(canvas, rng, style, x, y - 0.5 * size, size)
    elif kind == 1:
        shield(canvas, rng, x, y, 0.8 * size)
    elif kind == 2:
        rosette(canvas, int(rng.integers(1 << 30)), x, y, 0.5 * size)
    elif kind == 3:
        mural(canvas, rng, x, y - 0.4 * size, 0.8 * size, 0.8 * size)
    elif kind == 4:
        clock(canvas, rng, style, x, y, 0.4 * size)
    else:
        banner(canvas, rng, x, y - 0.5 * size, 0.5 * size, size)
