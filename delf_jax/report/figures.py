"""Figures for a paper: what two photos have in common."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from delf_jax.features import LocalFeatures
from delf_jax.files import InputError, atomic_write, is_stdout
from delf_jax.retrieval.verification import PairMatch

if TYPE_CHECKING:  # Slow to import, and not needed to match or to search.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from delf_jax.report.inline import InlineFigure

# Width of the figure in inches: the text width of a two-column page.
_WIDTH = 7.0
_GAP = 0.012
_HEADER = 0.26  # inches, above the photos
# More lines than these hide the photos; further inliers are dots only.
_MOST_LINES = 100


def draw_matches(
    image_a: UInt8[np.ndarray, "HA WA 3"],
    image_b: UInt8[np.ndarray, "HB WB 3"],
    features_a: LocalFeatures,
    features_b: LocalFeatures,
    pair_match: PairMatch,
    title: str | Sequence[str] = "",
) -> InlineFigure:
    """The two photos side by side with their inliers joined by lines.

    Both photos get the same height. Features that are not inliers are faint dots. The
    colour of a line follows its place from left to right in the first photo, so that
    crossing lines can be distinguished. All inliers are marked; of more than a hundred,
    a hundred are joined.

    Args:
      title: above the photos; two titles go above one photo each.
    """
    from delf_jax.report.inline import InlineFigure

    ratios = np.array([x.shape[1] / x.shape[0] for x in (image_a, image_b)])
    widths = (1 - _GAP) * ratios / ratios.sum()
    height = _WIDTH * widths[0] / ratios[0]
    figure = InlineFigure(figsize=(_WIDTH, height + _HEADER))
    top = height / (height + _HEADER)
    spans = [(0.0, widths[0]), (widths[0] + _GAP, widths[1])]
    axes = [figure.add_axes((left, 0, width, top)) for left, width in spans]
    places = [np.asarray(features.locations) for features in (features_a, features_b)]
    for axis, image, locations in zip(axes, (image_a, image_b), places, strict=True):
        _draw_photo(axis, image, locations)
    inliers = pair_match.matches[pair_match.inliers]
    _join(figure, axes, [places[side][inliers[:, side]] for side in (0, 1)])
    titles = [title] if isinstance(title, str) else list(title)
    if len(titles) == 1:
        spans = [(0.0, 1.0)]
    for text, (left, width) in zip(titles, spans, strict=True):
        x, y = left + width / 2, (1 + top) / 2
        figure.text(x, y, text, ha="center", va="center", fontsize=8.5, wrap=True)
    return figure


def write_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 200) -> None:
    """Writes a figure in the format that the suffix names (png, pdf, svg, jpg)."""
    form = figure_format(path)
    # A tenth more bytes than by default, in a third of the time.
    how: Any = {"pil_kwargs": {"compress_level": 1}} if form == "png" else {}
    with atomic_write(path) as file:
        figure.savefig(file, format=form, dpi=dpi, **how)


def figure_format(path: str | os.PathLike[str]) -> str:
    """The format that the suffix names; InputError if no figure can be written so.

    Standard output, as `-` or /dev/stdout, gets a PNG.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    suffix = pathlib.Path(path).suffix.lower().removeprefix(".")
    if not suffix and is_stdout(path):
        return "png"
    if suffix not in formats:
        raise InputError(f"{path}: the name must end in one of {', '.join(formats)}")
    return suffix


def _draw_photo(
    axis: Axes, image: UInt8[np.ndarray, "H W 3"], locations: Float[np.ndarray, "N 2"]
) -> None:
    axis.imshow(image, interpolation="antialiased", aspect="auto")
    y, x = locations.T
    axis.scatter(x, y, s=1.2, c="white", alpha=0.35, linewidths=0)
    axis.set_xlim(-0.5, image.shape[1] - 0.5)
    axis.set_ylim(image.shape[0] - 0.5, -0.5)
    axis.set_axis_off()


def _join(
    figure: Figure, axes: Sequence[Axes], ends: Sequence[Float[np.ndarray, "P 2"]]
) -> None:
    """Lines between the photos, with a dark rim that keeps them visible on any sky."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    if not len(ends[0]):
        return
    order = np.argsort(ends[0][:, 1], kind="stable")
    ends = [places[order] for places in ends]
    across = ends[0][:, 1] - ends[0][0, 1]
    colours = colormaps["turbo"](0.08 + 0.84 * across / max(across[-1], 1))
    joined = np.linspace(0, len(order) - 1, min(len(order), _MOST_LINES)).astype(int)
    strength = float(np.clip(30 / len(joined), 0.5, 1.0))
    from_data = [axis.transData - figure.transFigure for axis in axes]
    sides = zip(from_data, ends, strict=True)
    segments = [t.transform(places[joined, ::-1]) for t, places in sides]
    # Each line lies on its own rim, and on the lines to the left.
    lines = LineCollection(
        list(np.stack(segments, axis=1).repeat(2, axis=0)),
        colors=[shade for k in joined for shade in ((0, 0, 0, 0.4), colours[k])],
        linewidths=np.tile([1.6 * strength, 0.8 * strength], len(joined)),
        transform=figure.transFigure,
    )
    figure.add_artist(lines)
    for axis, places in zip(axes, ends, strict=True):
        dots = {"s": 8, "c": colours, "edgecolors": "black", "lw": 0.4}
        axis.scatter(places[:, 1], places[:, 0], clip_on=False, **dots)
