"""Draws docs/architecture.svg, the house, from the arrows that a test holds.

    python -m docs.draw_house

Each room is a step of the stairs; dots in its row show what it may import.
"""

import pathlib

from tests.test_architecture import ARROWS, CORE, CORE_GROUND, GROUND

FILE = pathlib.Path(__file__).with_name("architecture.svg")
_STEP = 30  # pixels between rooms.
_LEFT, _TOP, _RIGHT, _BOTTOM = 120, 100, 80, 90  # beside the stairs.
_SHELL, _PURE, _INK, _LINE, _FLOOR = "#4878a8", "#c8702a", "#222", "#b8c4d0", "#e4e8ec"


def draw_house() -> str:
    """The drawing, as the text of an SVG file."""
    rooms = list(ARROWS)
    place = {room: _STEP * number for number, room in enumerate(rooms)}
    targets = {
        room: rooms[number + 1 :] if words == "every wing" else words.split()
        for number, (room, words) in enumerate(ARROWS.items())
    }
    lines, marks, names = [], [], []
    for room, y in place.items():
        right = [place[target] for target in targets[room]]
        above = [place[other] for other in rooms if room in targets[other]]
        lines.append(_line(y, y, max(right, default=y), y))
        lines.append(_line(y, min(above, default=y), y, y))
        marks += [f'<circle cx="{x}" cy="{y}" r="5" fill="{_INK}"/>' for x in right]
        marks.append(_square(y, y, _PURE if room in CORE else _SHELL))
        names.append(_text(y - 16, y + 5, room, "end"))
        if above:
            turned = f'transform="rotate(-45 {y} {min(above) - 12})"'
            names.append(_text(y, min(above) - 12, room, "start", turned))
    bottom = _STEP * len(rooms)
    names += [
        _text(-80, bottom - 190, "A dot: the room at the left may", "start"),
        _text(-80, bottom - 170, "import the one below. All lie", "start"),
        _text(-80, bottom - 150, "above the stairs: no circles.", "start"),
        _square(-72, bottom - 115, _SHELL),
        _square(-72, bottom - 90, _PURE),
        _text(-56, bottom - 110, "files, devices, the clock", "start"),
        _text(-56, bottom - 85, "pure functions of arrays", "start"),
    ]
    others = [name for name in GROUND if name not in CORE_GROUND]
    for row, words in enumerate(
        (
            f"all stand on: {', '.join(CORE_GROUND)}",
            f"all but the pure ones, on: {', '.join(others)}",
        )
    ):
        y = bottom + 36 * row
        names.append(
            f'<rect x="-100" y="{y}" width="{bottom + 100}" height="30" rx="3" '
            f'fill="{_FLOOR}"/>'
        )
        names.append(_text(bottom / 2 - 50, y + 20, words, "middle"))
    width, height = _LEFT + bottom - _STEP + _RIGHT, _TOP + bottom + _BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="DejaVu Sans, Verdana, sans-serif" font-size="14">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<g transform="translate({_LEFT} {_TOP})">',
            *lines,
            *marks,
            *names,
            "</g>\n</svg>\n",
        ]
    )


def _line(x1: int, y1: int, x2: int, y2: int) -> str:
    ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line {ends} stroke="{_LINE}" stroke-width="2"/>'


def _square(x: int, y: int, colour: str) -> str:
    corner = f'x="{x - 8}" y="{y - 8}"'
    return f'<rect {corner} width="16" height="16" rx="3" fill="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    place = f'x="{x}" y="{y}" text-anchor="{anchor}"'
    return f'<text {place} fill="{_INK}" {more}>{words}</text>'


if __name__ == "__main__":
    FILE.write_text(draw_house(), "utf-8")
