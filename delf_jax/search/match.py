"""Two images matched in one call, and drawn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from delf_jax.extraction import one_call
from delf_jax.extraction.settings import settings_for
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.images import ImageLike, open_image
from delf_jax.report import figures
from delf_jax.search import matching

if TYPE_CHECKING:  # Slow to import, and not needed to match.
    from delf_jax.report.inline import InlineFigure


class Match(NamedTuple):
    """What two images have in common; a notebook shows it as a picture."""

    comparison: matching.Comparison
    sources: tuple[Any, Any]
    """the images; of features, the name of their image"""

    @property
    def features(self) -> tuple[Features, Features]:
        return self.comparison.features

    @property
    def matches(self) -> Int[np.ndarray, "P 2"]:
        """Pairs of local features: numbers in the first and in the second image."""
        return self.comparison.pair.matches

    @property
    def inliers(self) -> Bool[np.ndarray, " P"]:
        """Whether each match agrees with the affine map."""
        return self.comparison.pair.inliers

    @property
    def affine(self) -> Float[np.ndarray, "2 3"] | None:
        """Takes (y, x, 1) of the second image to (y, x) of the first; None: no map."""
        return self.comparison.pair.affine if self.inliers.any() else None

    @property
    def similarity(self) -> float | None:
        """Cosine of the global descriptors; None if there are none."""
        return self.comparison.similarity

    @property
    def lines(self) -> Float[np.ndarray, "I 4"]:
        """(y, x) in the first and (y, x) in the second image of each inlier."""
        return matching.inlier_lines(self.comparison)

    def draw(self, path: str | os.PathLike | None = None) -> InlineFigure:
        """The images side by side with their inliers joined, as matplotlib's Figure.

        Args:
          path: a file to write as well; its suffix is the format (png, pdf, svg, jpg).
        """
        if path is not None:
            figures.figure_format(path)  # before any work
        pixels_a, pixels_b = map(open_image, self.sources)
        local_a, local_b = (f.local for f in self.features if f.local is not None)
        pair = self.comparison.pair
        figure = figures.draw_matches(
            pixels_a, pixels_b, local_a, local_b, pair, title=str(self)
        )
        if path is not None:
            figures.write_figure(figure, path)
        return figure

    def __repr__(self) -> str:
        text = f"{self.comparison.inliers} inliers of {len(self.matches)} matches"
        if self.similarity is not None:
            text += f", similarity {self.similarity:.3f}"
        return text

    def _repr_png_(self) -> bytes | None:
        try:
            return self.draw()._repr_png_()
        except InputError:  # Features alone, whose image is not at hand.
            return None


def match(
    a: ImageLike | Features,
    b: ImageLike | Features,
    model: one_call.ModelLike = None,
    **settings: Any,
) -> Match:
    """Matches of local features of two images, and the affine map that most agree with.

    Each is an image of any kind that `extract` takes, or features that it gave.
    InputError if one cannot be used.

    Args:
      model: a model, its folder, or None for the bundled one.
      settings: as of `extract`: of features, those that they were extracted with.
    """
    model = one_call.open_model(model)
    chosen = settings_for(model, **settings)
    images = one_call.read_once(a), one_call.read_once(b)
    found = one_call.features_of(images, model, chosen)
    first, second = map(one_call.raise_error, found)
    for each in (first, second):
        if each.local is None:
            raise InputError(
                f"{each.image or 'image'}: no local features to match by; take a model "
                "that has them, and max_features above 0"
            )
    comparison = matching.compare_features(first, second, chosen.max_image_size)
    sources = [x.image if isinstance(x, Features) else x for x in images]
    return Match(comparison, (sources[0], sources[1]))
