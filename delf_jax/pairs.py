"""Two photos compared: features of both, their matches, and what geometry confirms."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax import extraction
from delf_jax.files import InputError
from delf_jax.ops import Features, LocalFeatures
from delf_jax.retrieval import verification
from delf_jax.settings import ExtractionSettings
from delf_jax.weights import Model

# Of the ratio test, which replaces a largest distance: with delg_tiny, photos of
# landmarks kept out of its training rank better, and unrelated ones share 7 inliers.
RATIO = 0.95


class Comparison(NamedTuple):
    """What two photos have in common."""

    features: tuple[Features, Features]
    pair: verification.PairMatch
    similarity: float | None
    """cosine of the global descriptors; None if the model has none"""

    @property
    def inliers(self) -> int:
        return int(self.pair.inliers.sum())


def compare_photos(
    a: str | os.PathLike | np.ndarray,
    b: str | os.PathLike | np.ndarray,
    model: Model,
    settings: ExtractionSettings,
) -> Comparison:
    """Features, matches and geometry of two photos; InputError if one is unusable."""
    if not settings.max_features or not extraction.has_local(model):
        raise InputError(
            f"model {model.name} has no local features to match photos by: name "
            "another with --model, or search"
        )
    features = []
    for found in extraction.extract_features(model, (a, b), settings):
        if isinstance(found, InputError):
            raise found
        features.append(found)
    return compare_features(*features, settings.max_image_size)


def compare_features(
    a: Features, b: Features, max_image_size: int | None, seed: int = 0
) -> Comparison:
    """Matches and geometry of two photos, from features extracted at that size.

    Features sit as exactly as the extracted photo was large: a photo of a telephone,
    shrunk for extraction, is verified in pixels of the shrunk one.
    """
    zooms = [_shrinking(features, max_image_size) for features in (a, b)]
    local = [_resized(f.local, zoom) for f, zoom in zip((a, b), zooms, strict=True)]
    pair = verification.verify_pair(*local, ratio=RATIO, max_distance=None, seed=seed)
    pair = pair._replace(affine=_at_full_size(pair.affine, *zooms))
    similarity = None
    if a.global_descriptor is not None and b.global_descriptor is not None:
        similarity = float(np.dot(a.global_descriptor, b.global_descriptor))
    return Comparison((a, b), pair, similarity)


def inlier_lines(comparison: Comparison) -> Float[np.ndarray, "P 4"]:
    """(y, x) in the first and (y, x) in the second photo of each inlier, in pixels."""
    matches = comparison.pair.matches[comparison.pair.inliers]
    a, b = (np.asarray(features.local.locations) for features in comparison.features)
    return np.concatenate([a[matches[:, 0]], b[matches[:, 1]]], axis=1)


def describe(comparison: Comparison, names: Sequence[str]) -> dict[str, Any]:
    """The comparison, ready for JSON; the map takes (y, x, 1) of the second photo."""
    return {
        "images": list(names),
        "similarity": comparison.similarity,
        "matches": len(comparison.pair.matches),
        "inliers": comparison.inliers,
        "affine": comparison.pair.affine.tolist() if comparison.inliers else None,
        "inlier_locations": inlier_lines(comparison).round(2).tolist(),
    }


def _shrinking(features: Features, max_image_size: int | None) -> float:
    """Size at extraction over original size; 1 where a photo was enlarged."""
    return min(1.0, (max_image_size or np.inf) / max(features.image_size))


def _resized(local: LocalFeatures, zoom: float) -> LocalFeatures:
    # Pixel centres are at integers: half a pixel moves.
    locations = (np.asarray(local.locations, np.float64) + 0.5) * zoom - 0.5
    return local._replace(locations=locations)


def _at_full_size(
    affine: Float[np.ndarray, "2 3"], query_zoom: float, index_zoom: float
) -> Float[np.ndarray, "2 3"]:
    """The map between two photos, from the map between the two shrunk ones."""
    linear = affine[:, :2] * (index_zoom / query_zoom)
    shift = affine[:, :2].sum(axis=1) * (0.5 * index_zoom - 0.5) + affine[:, 2] + 0.5
    return np.column_stack([linear, shift / query_zoom - 0.5])
