"""Curves of trainings: the metrics of their metrics.jsonl in one figure."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from delf_jax.files import InputError
from delf_jax.progress import printable
from delf_jax.report.figures import figure_format, write_figure

# Not drawn by default: they say little of how well a run does.
_BY_NAME_ONLY = (
    "learning_rate",
    "images_per_second",
    "gradient_norm",
    "gem_power",
    # How they begin.
    "attention/",
    "sparsity/",
    "image_range/",
)
_COLUMNS, _PANEL = 3, (3.6, 2.3)  # inches.
# Curves with more points are drawn smoothed, above the faint raw ones.
_MANY, _SPAN = 60, 0.03

Curve = tuple[list[int], list[float]]


def read_curves(workdir: str | os.PathLike) -> dict[str, Curve]:
    """(steps, values) of each metric of a training, by name.

    InputError if there is no metrics.jsonl. Lines that a killed run has cut short, that
    are no text any more, and values that are no number, are left out.
    """
    path = pathlib.Path(workdir) / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"{workdir}: no training; it has no metrics.jsonl")
    curves: dict[str, Curve] = {}
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            continue
        for name, value in values.items():
            if isinstance(value, int | float):
                steps, found = curves.setdefault(name, ([], []))
                steps.append(step)
                found.append(float(value))
    return curves


def draw_curves(
    runs: Mapping[str, Mapping[str, Curve]],
    path: str | os.PathLike,
    *,
    metrics: Sequence[str] = (),
    dpi: int = 130,
) -> None:
    """Writes a figure with a panel for each metric and a line for each run.

    Args:
      runs: curves as of `read_curves`, by their names in the legend.
      path: the suffix chooses the format.
      metrics: their names, in order; all that any run has, if empty.
      dpi: of a bitmap.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    figure_format(path)  # before any work
    names = list(metrics) or _worth_drawing(runs)
    known = {name for curves in runs.values() for name in curves}
    for name in names:
        if name not in known:
            raise InputError(
                f"no run has the metric {name!r}; there are {', '.join(sorted(known))}"
            )
    if not names:
        raise InputError(f"{', '.join(runs)}: nothing to draw yet")
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    widest = max(map(len, runs)) + 6  # letters of a name, and the line before it
    entries = min(len(runs), max(1, int(columns * _PANEL[0] * 11 / widest)))
    legend = 0.17 * -(-len(runs) // entries) + 0.1
    size = columns * _PANEL[0], rows * _PANEL[1] + legend
    rect = (0, legend / size[1], 1, 1 - legend / size[1])
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(rect=rect))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = _colours(len(runs))
    for panel, name in zip(panels, names, strict=False):
        for colour, curves in zip(colours, runs.values(), strict=True):
            if name in curves:
                _draw(panel, *curves[name], colour)
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    last = max(steps[-1] for curves in runs.values() for steps, _ in curves.values())
    for panel in panels[: len(names)]:
        panel.set_xlim(0, 1.02 * last)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(names) - columns) : len(names)]:
        panel.set_xlabel("step", fontsize=8)
    figure.legend(
        handles=[Line2D([], [], color=colour, linewidth=1.8) for colour in colours],
        labels=[printable(name).replace("$", r"\$") for name in runs],
        loc="lower center",
        ncols=entries,
        fontsize=8,
        frameon=False,
    )
    write_figure(figure, path, dpi)


def name_runs(paths: Sequence[str | os.PathLike]) -> dict[str, str | os.PathLike]:
    """The runs by the shortest ends of their paths that differ."""
    parts = [pathlib.Path(path).resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            break
    return dict(zip(names, paths, strict=True))


def _worth_drawing(runs: Mapping[str, Mapping[str, Curve]]) -> list[str]:
    """Loss first, then what was validated, then the rest as it comes."""
    names = dict.fromkeys(
        name
        for curves in runs.values()
        for name in curves
        if not name.startswith(_BY_NAME_ONLY)
    )
    return sorted(names, key=lambda n: (n != "loss", not n.startswith("validation/")))


def _colours(count: int) -> list[Any]:
    """Colours that differ clearly; of many, neighbours are alike."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](number) for number in range(count)]
    return list(colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def _draw(panel: Any, steps: list[int], values: list[float], colour: Any) -> None:
    """One line; few points are marked, many smoothed."""
    if len(steps) <= _MANY:
        marker = {"marker": "o", "markersize": 2.5} if len(steps) <= 20 else {}
        panel.plot(steps, values, color=colour, linewidth=1.2, **marker)
        return
    panel.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
    smooth = smoothed(np.array(values), max(2, int(_SPAN * len(values))))
    panel.plot(steps, smooth, color=colour, linewidth=1.4)


def smoothed(values: Float[np.ndarray, " N"], span: int) -> Float[np.ndarray, " N"]:
    """Means over up to 2 * span + 1 neighbours, fewer at the ends."""
    window = np.ones(2 * span + 1)
    counts = np.convolve(np.ones_like(values), window, "same")
    return np.convolve(values, window, "same") / counts
