"""Local features of an image, aggregated by the visual words of a codebook.

Features of boxes are aggregated region by region where that is asked for: R-VLAD,
R-ASMK and R-ASMK* [D2R]; else they are left out.
"""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from delf_jax.features import Features, features_per_region, whole_image
from delf_jax.files import InputError
from delf_jax.index.codebook import Codebook, check_codebook, load_codebook
from delf_jax.retrieval import aggregation
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.store.feature_store import FeatureStore


class Vocabulary(NamedTuple):
    """The visual words, and how descriptors are aggregated by them."""

    codebook: Codebook
    on_device: jax.Array
    """the same centroids, where descriptors are compared with them"""
    assignments: int
    """words that a descriptor is assigned to"""
    regional: bool = False
    """the whole image and its boxes, each by itself; else the whole image alone"""
    vlad: bool = False
    """VLAD, or R-VLAD; else ASMK and its kinds"""


def load_words(path: str | os.PathLike, assignments: int = 1) -> Vocabulary:
    """The visual words of a codebook; InputError if it is broken or has too few."""
    codebook = load_codebook(path)
    if not 1 <= assignments <= len(codebook.centroids):
        raise InputError(
            f"--assignments={assignments}: the codebook {path} has "
            f"{len(codebook.centroids)} words"
        )
    return Vocabulary(codebook, jnp.asarray(codebook.centroids), assignments)


def check_words(words: Vocabulary, images: FeatureStore) -> None:
    """InputError unless the words were fitted to descriptors like those of a store."""
    if words.regional and not images.manifest.get("with_boxes"):
        raise InputError(
            f"{images.path}: regional aggregation needs features of regions, and these "
            "are of whole images: extract with --boxes"
        )
    for features in images:
        dimension = _descriptors(features, images.path).shape[1]
        check_codebook(words.codebook, images.manifest, dimension)
        break


def aggregate(
    features: Features, words: Vocabulary, kind: str, where: str | os.PathLike
) -> Aggregated:
    """ASMK of an image, or for asmk_star ASMK*; `where` is for the errors alone.

    VLAD, normalised, if the words are for that.
    """
    assigned, regions = _assign(features, words, where)
    if words.vlad:
        return aggregation.sparse_vlad(*assigned, features_per_region=regions)
    aggregated = aggregation.aggregate_asmk(*assigned, features_per_region=regions)
    return aggregation.binarize(aggregated) if kind == "asmk_star" else aggregated


def aggregate_vlad(
    features: Features, words: Vocabulary, normalize: bool, where: str | os.PathLike
) -> Float32[np.ndarray, " KD"]:
    """VLAD of an image."""
    assigned, regions = _assign(features, words, where)
    return aggregation.aggregate_vlad(
        *assigned, features_per_region=regions, normalize=normalize
    )


def _assign(
    features: Features, words: Vocabulary, where: str | os.PathLike
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], list[int] | None]:
    """((descriptors, visual words, codebook), sizes of the regions, if asked for).

    An image of a regional store that has no boxes is one region.
    """
    features = features if words.regional else whole_image(features)
    descriptors = _descriptors(features, where)
    centroids = words.codebook.centroids
    if descriptors.shape[1] != centroids.shape[1]:
        raise InputError(
            f"{where}: descriptors of {descriptors.shape[1]} dimensions do not fit a "
            f"codebook of {centroids.shape[1]}: extract them again"
        )
    if not np.isfinite(descriptors).all():
        raise InputError(f"{where}: descriptors are not finite: extract them again")
    nearest = aggregation.assign_words(descriptors, words.on_device, words.assignments)
    regions = features_per_region(features) if words.regional else None
    return (descriptors, nearest, centroids), regions


def _descriptors(
    features: Features, where: str | os.PathLike
) -> Float32[np.ndarray, "N D"]:
    if features.local is None:
        raise InputError(f"{where}: has no local descriptors to aggregate")
    return np.asarray(features.local.descriptors)
