"""Pairs of a store's photos that show one place, found as a search finds them.

What a training learns local features from beside homographies: the change between two
photographers. A photo's candidates are those of the most similar global descriptors.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from delf_jax.files import InputError
from delf_jax.formats.confirmed_pairs import ConfirmedPair, write_pairs
from delf_jax.progress import track
from delf_jax.retrieval import ranking
from delf_jax.search.matching import Comparison, inlier_lines, verify_candidates
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore

# Inliers of a pair, at least: an affine map of fewer is not exact enough to learn from.
LEAST_INLIERS = 20


def confirm_pairs(
    store: str | os.PathLike,
    out: str | os.PathLike,
    *,
    candidates: int,
    progress: bool = True,
) -> list[ConfirmedPair]:
    """The pairs, each once, written to `out`; InputError without local features.

    Args:
      candidates: photos that each is compared with.
    """
    if candidates < 1:
        raise InputError(f"--candidates={candidates}: use a positive number")
    images = feature_store.open_store(store)
    pairs = list(_confirm(images, _similar(images, candidates), progress))
    write_pairs(out, pairs)
    return pairs


def _similar(images: FeatureStore, candidates: int) -> list[Int[np.ndarray, " _"]]:
    """Of each image the most similar ones, those before it that have it left out."""
    descriptors = images.global_descriptors
    similar: list[Int[np.ndarray, " _"]] = []
    for row, descriptor in enumerate(descriptors):
        scores = descriptors @ descriptor
        scores[row] = -np.inf
        best = ranking.top_k(scores, min(candidates, len(images) - 1))
        known = [other < row and row in similar[other] for other in best.tolist()]
        similar.append(best[~np.array(known, bool)])
    return similar


def _confirm(
    images: FeatureStore, similar: Sequence[Int[np.ndarray, " _"]], progress: bool
) -> Iterator[ConfirmedPair]:
    total = sum(map(len, similar))
    with track("confirm", total, "pair", progress=progress) as advance:
        for row, others in enumerate(similar):
            image, read = images[row], map(images.__getitem__, others.tolist())
            if image.local is None:
                raise InputError(f"{images.path}: has no local features to verify by")
            compared = verify_candidates(image, read, images.size_bounds)
            for other, found in zip(others.tolist(), compared, strict=True):
                if found.inliers >= max(LEAST_INLIERS, found.by_chance + 1):
                    yield _pair(images.ids[row], images.ids[other], found)
                advance()


def _pair(image: str, counterpart: str, found: Comparison) -> ConfirmedPair:
    """The affine map of the inliers, by least squares, and where they lie."""
    sizes = np.concatenate([each.image_size for each in found.features])
    lines: Float[np.ndarray, "P 4"] = (inlier_lines(found) + 0.5) / sizes
    ones = np.ones((len(lines), 1))
    affine = np.linalg.lstsq(np.hstack([lines[:, :2], ones]), lines[:, 2:], rcond=None)
    low, high = lines[:, :2].min(axis=0), lines[:, :2].max(axis=0)
    region = np.clip([*low, *high], 0, 1)
    numbers = [*affine[0].T.ravel(), *region]
    return ConfirmedPair(
        image, counterpart, found.inliers, *(round(float(x), 6) for x in numbers)
    )
