"""Two images matched in one call, and drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from delf_jax.extraction import one_call
from delf_jax.extraction.settings import settings_for
from delf_jax.features import Features, LocalFeatures
from delf_jax.files import InputError
from delf_jax.images import ImageLike, open_image
from delf_jax.report import figures
from delf_jax.search import matching
from delf_jax.store import delf_files

if TYPE_CHECKING:  # Slow to import, and not needed to match.
    from delf_jax.report.inline import InlineFigure


# Longer side of a picture that stands for a photo, in pixels.
_BLANK = 1024


class Match(NamedTuple):
    """What two images have in common; a notebook shows it as a picture."""

    comparison: matching.Comparison
    sources: tuple[Any, Any]
    """the images; of features, the name of their image; of a file of features None"""

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
    def confident(self) -> bool:
        """Whether there are more inliers than unrelated images share by chance."""
        return self.comparison.confident

    @property
    def lines(self) -> Float[np.ndarray, "I 4"]:
        """(y, x) in the first and (y, x) in the second image of each inlier."""
        return matching.inlier_lines(self.comparison)

    def draw(self, path: str | os.PathLike | None = None) -> InlineFigure:
        """The images side by side with their inliers joined, as matplotlib's Figure.

        In the place of an image of which a file of features was given, its features.

        Args:
          path: a file to write as well; its suffix is the format (png, pdf, svg, jpg).
        """
        if path is not None:
            figures.figure_format(path)  # before any work
        pictures = [None if x is None else open_image(x) for x in self.sources]
        figure = draw_comparison(self.comparison, pictures)
        if path is not None:
            figures.write_figure(figure, path)
        return figure

    def __repr__(self) -> str:
        return matching.describe(self.comparison)

    def _repr_jpeg_(self) -> bytes | None:
        try:
            return self.draw()._repr_jpeg_()
        except InputError:  # Features alone, whose image is not at hand.
            return None


def match(
    a: ImageLike | Features,
    b: ImageLike | Features,
    model: one_call.ModelLike = None,
    *,
    verification: str = "default",
    **settings: Any,
) -> Match:
    """Matches of local features of two images, and the affine map that most agree with.

    Each is an image of any kind that `extract` takes, features that it gave, or a file
    of features (.delf, .delg_local). InputError if one cannot be used.

    Args:
      model: a model, its folder, or None for the bundled one.
      verification: "default", or with the numbers of "delg" or "d2r".
      settings: as of `extract`: of features, those that they were extracted with.
    """
    model = one_call.open_model(model)
    how = matching.verification_settings(verification, model)
    chosen = settings_for(model, **settings)
    images = open_source(a), open_source(b)
    found = one_call.features_of(images, model, chosen)
    first, second = map(one_call.raise_error, found)
    for each in (first, second):
        if each.local is None:
            raise InputError(
                f"{each.image or 'image'}: no local features to match by; take a model "
                "that has them, and max_features above 0"
            )
    comparison = matching.compare_features(first, second, chosen.size_bounds, how)
    return Match(comparison, (_source(a, images[0]), _source(b, images[1])))


def open_source(image: ImageLike | Features) -> Any:
    """The image, to be looked at twice; of a file of features these."""
    if delf_files.is_feature_file(image):
        return delf_files.read_feature_file(image)
    return one_call.read_once(image)


def draw_comparison(
    comparison: matching.Comparison,
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"] | None],
) -> InlineFigure:
    """The two pictures with their inliers joined; None: there is none of this one."""
    drawn = []
    for picture, features in zip(pictures, comparison.features, strict=True):
        local = features.local
        assert local is not None  # Or they could not be compared.
        drawn.append(_on_blank(local) if picture is None else (picture, local))
    (picture_a, local_a), (picture_b, local_b) = drawn
    title = matching.describe(comparison)
    pair = comparison.pair
    return figures.draw_matches(picture_a, picture_b, local_a, local_b, pair, title)


def _source(given: Any, image: Any) -> Any:
    """What shows an image: itself, the name of one with features, or nothing."""
    if delf_files.is_feature_file(given):
        return None
    return image.image if isinstance(image, Features) else image


def _on_blank(local: LocalFeatures) -> tuple[np.ndarray, LocalFeatures]:
    """A grey picture with a place for each feature, and these in its pixels."""
    locations = np.asarray(local.locations, np.float64)
    corner = locations.max(axis=0, initial=0) + 16  # to where their cells reach.
    zoom = min(1.0, _BLANK / corner.max())
    height, width = np.ceil(np.maximum(corner * zoom, 16)).astype(int)
    blank = np.full((height, width, 3), 70, np.uint8)
    return blank, local._replace(locations=(locations * zoom).astype(np.float32))
