"""What facades carry: windows, doors, columns, rosettes, statues, clocks, signs.

A landmark chooses its `Style` once; every ornament then takes its look from there and
its details (figures, letters, hands of a clock) from its generator.
"""

from typing import NamedTuple

import numpy as np

from delf_jax.synthetic.canvas import (
    Canvas,
    Colour,
    Number,
    Random,
    Rgb,
    fill,
    opening,
    polygon,
    rectangle,
    to_pixels,
)

VIVID = np.array(
    [
        (176, 42, 40),
        (36, 74, 148),
        (205, 158, 46),
        (42, 110, 70),
        (120, 58, 128),
        (226, 214, 190),
        (40, 44, 52),
        (206, 104, 44),
        (60, 140, 160),
    ]
)
_LAMPLIGHT = (255, 214, 140)


class Style(NamedTuple):
    """The choices that make the parts of one landmark belong together."""

    trim: Rgb
    frame: Colour
    accent: Rgb
    door: Rgb
    window: str  # a kind of canvas.opening
    head: str  # what crowns a window: "none", "lintel", "pediment", "arch", "keystone"
    panes: tuple[int, int]
    shutters: bool
    flowers: bool
    motif: int  # seed of the rosettes
    frieze: str


def draw_style(rng: Random, wall: Colour) -> Style:
    """A style that suits the colour of a wall."""
    light = np.array(wall) * rng.uniform(1.12, 1.3) + rng.uniform(5, 25)
    dark = np.array(wall) * rng.uniform(0.45, 0.7)
    trim = light if rng.random() < 0.7 else dark
    accent, door = VIVID[rng.permutation(len(VIVID))[:2]]
    white_frame = rng.random() < 0.55
    friezes = ["dentils", "triangles", "discs", "waves", "diamonds", "swags"]
    return Style(
        trim=trim.clip(20, 245),
        frame=(232, 228, 218) if white_frame else rng.uniform(30, 90, 3),
        accent=accent,
        door=door * rng.uniform(0.4, 0.9),
        window=str(rng.choice(["square", "square", "round", "pointed"])),
        head=str(rng.choice(["none", "lintel", "pediment", "arch", "keystone"])),
        panes=(int(rng.integers(1, 4)), int(rng.integers(2, 6))),
        shutters=bool(rng.random() < 0.3),
        flowers=bool(rng.random() < 0.3),
        motif=int(rng.integers(1 << 30)),
        frieze=str(rng.choice(friezes)),
    )


def scaled(outline: np.ndarray, grow: Number) -> np.ndarray:
    """The outline moved outwards by about `grow` units."""
    low, high = outline.min(0), outline.max(0)
    centre, half = (low + high) / 2, (high - low) / 2
    return centre + (outline - centre) * (half + grow) / half


def window(
    canvas: Canvas,
    rng: Random,
    style: Style,
    x: Number,
    y: Number,
    width: Number,
    height: Number,
    kind: str | None = None,
) -> None:
    """A window centred on x whose sill lies at y."""
    outline = opening(kind or style.window, x, y, width, height)
    _window_head(canvas, style, x, y + height, width)
    fill(canvas, scaled(outline, 0.13 * width), style.trim, 0.08)
    glass = np.array((52, 62, 76)) * rng.uniform(0.5, 1.4) + rng.uniform(-6, 14, 3)
    lit, light = rng.random() < 0.45, np.array(_LAMPLIGHT) * rng.uniform(0.55, 1.0)
    fill(canvas, outline, glass, -0.14, light if lit else None)
    if rng.random() < 0.5:  # a blind or curtains, drawn to a depth of their own
        drop = height * rng.uniform(0.1, 0.6)
        cloth = np.array((190, 180, 160)) * rng.uniform(0.5, 1.0)
        low = y + height - drop
        fill(canvas, rectangle(x - width / 2, low, width, drop * 0.9), cloth)
    bar = max(0.05 * width, 0.04)
    columns, rows = style.panes
    for i in range(1, columns):
        left = x - width / 2 + width * i / columns - bar / 2
        fill(canvas, rectangle(left, y, bar, height * 0.95), style.frame, -0.08)
    for i in range(1, rows):
        low = y + height * 0.95 * i / rows - bar / 2
        fill(canvas, rectangle(x - width / 2, low, width, bar), style.frame, -0.08)
    sill = rectangle(x - 0.66 * width, y - 0.14 * width, 1.32 * width, 0.15 * width)
    fill(canvas, sill, style.trim, 0.2)
    if style.shutters:
        _shutters(canvas, style, x, y, width, height)
    if style.flowers and rng.random() < 0.8:
        _flower_box(canvas, rng, x, y, width)


def _window_head(canvas: Canvas, style: Style, x: Number, top: Number, width: Number):
    half = 0.7 * width
    if style.head == "lintel":
        lintel = rectangle(x - half, top + 0.1, 2 * half, 0.2 * width)
        fill(canvas, lintel, style.trim, 0.2)
    elif style.head == "pediment":
        low = top + 0.13 * width
        outer = [(x - half, low), (x + half, low), (x, low + 0.45 * width)]
        fill(canvas, outer, style.trim, 0.22)
        inner = [(x - half / 2, low + 0.1), (x + half / 2, low + 0.1)]
        fill(canvas, [*inner, (x, low + 0.3 * width)], style.trim * 0.75, 0.1)
    elif style.head == "arch":
        outline = opening("round", x, top - half + 0.2 * width, 2 * half, half)
        fill(canvas, outline, style.trim, 0.15)
    elif style.head == "keystone":
        wedge = [(-0.12, 0), (0.12, 0), (0.2, 0.36), (-0.2, 0.36)]
        fill(canvas, np.array(wedge) * width + np.array((x, top)), style.trim, 0.25)


def _shutters(canvas: Canvas, style: Style, x, y, width, height) -> None:
    leaf = 0.45 * width
    for left in (x - width / 2 - leaf - 0.08 * width, x + width / 2 + 0.08 * width):
        fill(canvas, rectangle(left, y, leaf, height * 0.96), style.door, 0.1)
        for i in range(7):
            low = y + height * (0.06 + 0.125 * i)
            slat = rectangle(left + 0.1 * leaf, low, 0.8 * leaf, 0.04 * height)
            fill(canvas, slat, style.door * 0.6, 0.04)


def _flower_box(canvas: Canvas, rng: Random, x, y, width) -> None:
    box = rectangle(x - 0.6 * width, y - 0.1, 1.2 * width, 0.22)
    fill(canvas, box, (84, 60, 44), 0.3)
    petals = VIVID[rng.choice((0, 2, 4, 5, 7))]
    for _ in range(14):
        spot = (x + rng.uniform(-0.6, 0.6) * width, y + rng.uniform(0.02, 0.3))
        green = rng.random() < 0.5
        colour = (50, 96, 44) if green else petals * rng.uniform(0.8, 1.2)
        fill(canvas, polygon(*spot, rng.uniform(0.05, 0.1), 7), colour, 0.3)


def door(
    canvas: Canvas,
    rng: Random,
    style: Style,
    x: Number,
    width: Number,
    height: Number,
    kind: str = "round",
) -> None:
    """A portal of receding arches with two panelled leaves, steps before it."""
    outline = opening(kind, x, 0.0, width, height)
    orders = int(rng.integers(1, 4))
    for i in range(orders, 0, -1):
        tone = style.trim * (1.0 if i % 2 else 0.78)
        fill(canvas, scaled(outline, 0.14 * i * width / 1.6), tone, 0.05 + 0.05 * i)
    fill(canvas, outline, style.door, -0.2)
    panel = style.door * 1.35 + 10
    for side in (-1, 1):
        for row in range(3):
            low = height * (0.06 + 0.2 * row)
            left = x + side * 0.25 * width - 0.17 * width
            board = rectangle(left, low, 0.34 * width, 0.15 * height)
            fill(canvas, board, panel, -0.14)
    gap = rectangle(x - 0.02 * width, 0, 0.04 * width, 0.7 * height)
    fill(canvas, gap, (20, 18, 16))
    if kind != "square":
        rosette(canvas, style.motif + 1, x, height * 0.82, 0.22 * width)
    for i in range(3):
        reach = 0.6 + 0.15 * (2 - i)
        step = rectangle(x - reach * width, 0.1 * i, 2 * reach * width, 0.1)
        fill(canvas, step, style.trim * (0.8 + 0.08 * i), 0.5 - 0.12 * i)


def pilaster(
    canvas: Canvas, style: Style, x: Number, y: Number, width: Number, height: Number
) -> None:
    """A flat fluted column with base and capital."""
    fill(canvas, rectangle(x - width / 2, y, width, height), style.trim, 0.2)
    for i in range(4):
        left = x - 0.4 * width + 0.8 * width * (i + 0.25) / 4
        groove = rectangle(left, y + 0.08 * height, 0.1 * width, 0.8 * height)
        fill(canvas, groove, style.trim * 0.8, 0.13)
    for low, tall, wide in ((0, 0.05, 1.4), (0.9, 0.03, 1.2), (0.94, 0.06, 1.5)):
        left = x - wide * width / 2
        part = rectangle(left, y + low * height, wide * width, tall * height)
        fill(canvas, part, style.trim * 1.05, 0.3)


def cornice(
    canvas: Canvas, style: Style, y: Number, height: Number, depth: Number = 0.4
):
    """A moulding over the whole width of the canvas, with the frieze of the style."""
    width = canvas.relief.shape[1] / canvas.density
    fill(canvas, rectangle(0, y, width, height), style.trim, 0.1)
    top = rectangle(0, y + 0.7 * height, width, 0.3 * height)
    fill(canvas, top, style.trim * 1.06, depth)
    frieze(canvas, style, 0, width, y + 0.08 * height, 0.56 * height)


def frieze(canvas: Canvas, style: Style, x0, x1, y, height) -> None:
    """The style's repeated ornament between x0 and x1."""
    step, size = max(height * 1.25, 5 / canvas.density), height / 2
    count = max(int((x1 - x0) / step), 1)
    dark, bright = style.trim * 0.6, style.accent
    for i in range(count):
        x = x0 + (x1 - x0) * (i + 0.5) / count
        if style.frieze == "dentils":
            fill(canvas, rectangle(x - size / 2, y, size, height), style.trim, 0.3)
        elif style.frieze == "triangles":
            shape = [(x - size, y), (x + size, y), (x, y + height)]
            fill(canvas, shape, bright if i % 2 else dark, 0.14)
        elif style.frieze == "discs":
            fill(canvas, polygon(x, y + size, 0.85 * size, 12), dark, 0.2)
            fill(canvas, polygon(x, y + size, 0.4 * size, 8), bright, 0.24)
        elif style.frieze == "waves":
            fill(canvas, opening("round", x, y, 1.8 * size, height), dark, 0.02)
        elif style.frieze == "diamonds":
            tone = dark if i % 3 else bright
            fill(canvas, polygon(x, y + size, size, 4), tone, 0.18)
        else:
            arc = opening("round", x, 0.0, 2 * size, 0.8 * height)
            fill(canvas, arc * (1, -1) + (0, y + height), dark, 0.18)


def rosette(canvas: Canvas, motif: int, x: Number, y: Number, radius: Number) -> None:
    """A radial ornament that `motif` decides entirely: the mark of a landmark."""
    rng = np.random.default_rng(motif)
    petals = int(rng.integers(4, 13))
    colours = VIVID[rng.permutation(len(VIVID))]
    fill(canvas, polygon(x, y, radius, 32), colours[0] * 0.7 + 50, 0.15)
    fill(canvas, polygon(x, y, 0.9 * radius, 32), colours[1] * 0.6 + 30, 0.05)
    inner, centre = rng.uniform(0.15, 0.35), np.array((x, y))
    for layer in range(int(rng.integers(2, 4))):
        reach, spread = rng.uniform(0.5, 0.88) - 0.12 * layer, rng.uniform(0.3, 0.95)
        tip = rng.choice(["point", "disc", "leaf"])
        for i in range(petals):
            turn = 2 * np.pi * (i + 0.5 * layer) / petals
            along = np.array((np.cos(turn), np.sin(turn)))
            across = np.array((-along[1], along[0])) * spread * np.pi / petals
            if tip == "disc":
                spot = along * 0.75 * reach * radius + centre
                size = 0.5 * spread * reach * radius * 3 / petals
                outline = polygon(spot[0], spot[1], size, 10)
            else:
                middle = 0.5 if tip == "leaf" else inner
                near, far, aside = along * inner, along * reach, across * middle
                left, right = along * middle + aside, along * middle - aside
                outline = np.array([near, left, far, right]) * radius + centre
            fill(canvas, outline, colours[2 + layer], 0.12)
    fill(canvas, polygon(x, y, inner * 0.8 * radius, 16), colours[5], 0.2)


def rose_window(
    canvas: Canvas, style: Style, x: Number, y: Number, radius: Number
) -> None:
    """A rosette of coloured glass in a stone ring, alight at night."""
    fill(canvas, polygon(x, y, 1.2 * radius, 40), style.trim, 0.25)
    fill(canvas, polygon(x, y, 1.08 * radius, 40), style.trim * 0.7, 0.1)
    rosette(canvas, style.motif, x, y, radius)
    ends = [(x - radius, y + radius), (x + radius, y - radius)]
    low, high = to_pixels(canvas, ends) // 16
    area = np.s_[max(low[1], 0) : high[1], max(low[0], 0) : high[0]]
    canvas.glow[area] = canvas.colour[area] // 2
