"""Two photos compared: features of both, their matches, and what geometry confirms.

Lists of candidates are verified and reranked here, for searches and evaluations alike.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.one_call import features_of, raise_error
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features, LocalFeatures, whole_image
from delf_jax.files import InputError
from delf_jax.images import ImageLike, SizeBounds
from delf_jax.progress import format_count, track
from delf_jax.retrieval import ranking, verification
from delf_jax.retrieval.matching import principal_directions
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search import calibration


class Comparison(NamedTuple):
    """What two photos have in common."""

    features: tuple[Features, Features]
    pair: verification.PairMatch
    similarity: float | None
    """cosine of the global descriptors; None if the model has none"""
    by_chance: int
    """inliers that unrelated photos may share"""

    @property
    def confident(self) -> bool:
        """Whether the photos share more inliers than by chance."""
        return self.inliers > self.by_chance

    @property
    def inliers(self) -> int:
        return int(self.pair.inliers.sum())


class Verified(NamedTuple):
    """What geometry confirms of a candidate."""

    inliers: int
    lines: Float[np.ndarray, "P 4"]
    """inliers as (y, x) in the query and (y, x) here, in parts of height and width"""


def compare_photos(
    a: ImageLike | Features,
    b: ImageLike | Features,
    model: Model,
    settings: ExtractionSettings,
    verification: VerificationSettings = VERIFICATION["default"],
) -> Comparison:
    """What two photos have in common; InputError if one is unusable.

    What is features already is not extracted.
    """
    extracted = all(isinstance(each, Features) for each in (a, b))
    if not extracted and not (settings.max_features and model.has_local):
        raise InputError(
            f"model {model.name} has no local features to match photos by: name "
            "another with --model, or search"
        )
    first, second = map(raise_error, features_of((a, b), model, settings))
    return compare_features(first, second, settings.size_bounds, verification)


def verification_settings(
    name: str = "default", model: Model | None = None
) -> VerificationSettings:
    """Those with this name; InputError if there are none.

    Args:
      model: whose calibration the default ones take, if it has one.
    """
    if name not in VERIFICATION:
        known = ", ".join(VERIFICATION)
        raise InputError(f"verification: expected one of {known}; got {name!r:.80}")
    settings = VERIFICATION[name]
    found = calibration.calibration_of(model) if model is not None else None
    if name != "default" or found is None:
        return settings
    return settings._replace(
        calibration=found, by_chance=found.by_chance, threshold=found.threshold
    )


def compare_features(
    a: Features,
    b: Features,
    bounds: SizeBounds,
    settings: VerificationSettings = VERIFICATION["default"],
) -> Comparison:
    """Matches and geometry of two photos, from features extracted at those sizes.

    Features sit as exactly as the extracted photo was large: a photo of a telephone,
    shrunk for extraction, is verified in pixels of the shrunk one, and a thumbnail in
    those of the enlarged one.
    """
    return next(verify_candidates(a, [b], bounds, settings))


def verify_candidates(
    query: Features,
    candidates: Iterable[Features],
    bounds: SizeBounds,
    settings: VerificationSettings = VERIFICATION["default"],
) -> Iterator[Comparison]:
    """The query compared with each candidate, as by `compare_features`, in order.

    A pair comes out the same whatever it stands among. Features of boxes are left out,
    as in the released code.
    """
    if not settings.at_extraction_size:
        bounds = SizeBounds()
    query = whole_image(query)
    local, zoom = _as_extracted(query, bounds)
    directions = principal_directions(local.descriptors, settings.energy)
    for image in map(whole_image, candidates):
        other, other_zoom = _as_extracted(image, bounds)
        _check_lengths(query, image)
        pair = verification.verify_pair(local, other, settings, directions)
        pair = pair._replace(affine=_at_full_size(pair.affine, zoom, other_zoom))
        similarity = _similarity(query, image)
        features = math.sqrt(len(local.scales) * len(other.scales))
        by_chance = verification.most_by_chance(settings, features)
        yield Comparison((query, image), pair, similarity, by_chance)


def verify(
    queries: Iterable[Features],
    candidates: Sequence[Int[np.ndarray, " _"]],
    read: Callable[[int], Features],
    bounds: SizeBounds,
    settings: VerificationSettings = VERIFICATION["default"],
    *,
    progress: bool = False,
) -> Iterator[dict[int, Verified]]:
    """For each query what geometry confirms of its candidates, by id, in their order.

    Args:
      read: the features of an id.
      bounds: of the photos at extraction.
    """
    total = sum(map(len, candidates))
    with track("verify", total, "candidate", progress=progress) as advance:
        for query, ids in zip(queries, candidates, strict=True):
            verified: dict[int, Verified] = {}
            images = map(read, ids.tolist())
            # Without candidates, a query need not have local features.
            found = verify_candidates(query, images, bounds, settings)
            for id, pair in zip(ids.tolist(), found if len(ids) else (), strict=True):
                sizes = np.concatenate([image.image_size for image in pair.features])
                lines = (inlier_lines(pair) + 0.5) / np.maximum(sizes, 1)
                verified[id] = Verified(pair.inliers, lines)
                advance()
            yield verified


def rerank_verified(
    ids: Int[np.ndarray, " K"],
    similarities: Float[np.ndarray, " K"],
    verified: Mapping[int, Verified],
    settings: VerificationSettings = VERIFICATION["default"],
) -> Int[np.ndarray, " K"]:
    """A ranked list whose first are verified: these by inliers and similarity.

    Equals and the others stay in the order they have.
    """
    count = len(verified)
    inliers = np.array([verified[id].inliers for id in ids[:count].tolist()], np.int32)
    places = np.arange(count, dtype=np.int32)
    order = ranking.rerank(
        places,
        similarities[:count],
        inliers,
        weight=settings.weight,
        calibration=settings.calibration,
    )
    return np.concatenate([ids[:count][order], ids[count:]])


def inlier_lines(comparison: Comparison) -> Float[np.ndarray, "P 4"]:
    """(y, x) in the first and (y, x) in the second photo of each inlier, in pixels."""
    matches = comparison.pair.matches[comparison.pair.inliers]
    a, b = (np.asarray(_local(each).locations) for each in comparison.features)
    return np.concatenate([a[matches[:, 0]], b[matches[:, 1]]], axis=1)


def describe(comparison: Comparison) -> str:
    """The comparison in a line."""
    matches = format_count(len(comparison.pair.matches), "match")
    text = f"{format_count(comparison.inliers, 'inlier')} of {matches}"
    if comparison.similarity is not None:
        text += f", similarity {comparison.similarity:.3f}"
    if not comparison.confident:
        chance = f"unrelated photos share up to {comparison.by_chance} inliers"
        text += f"; no confident match: {chance}"
    return text


def to_json(comparison: Comparison, names: Sequence[str]) -> dict[str, Any]:
    """The comparison, ready for JSON; the map takes (y, x, 1) of the second photo."""
    return {
        "images": list(names),
        "similarity": comparison.similarity,
        "matches": len(comparison.pair.matches),
        "inliers": comparison.inliers,
        "confident": comparison.confident,
        "inliers_by_chance": comparison.by_chance,
        "affine": comparison.pair.affine.tolist() if comparison.inliers else None,
        "inlier_locations": inlier_lines(comparison).round(2).tolist(),
    }


def _similarity(a: Features, b: Features) -> float | None:
    if a.global_descriptor is None or b.global_descriptor is None:
        return None
    return float(np.dot(a.global_descriptor, b.global_descriptor))


def _local(features: Features) -> LocalFeatures:
    if features.local is None:
        raise InputError("verification needs local features; there are none")
    return features.local


def _check_lengths(a: Features, b: Features) -> None:
    """InputError if the descriptors of two images cannot be compared."""
    (count, length), (others, other) = (
        _local(each).descriptors.shape for each in (a, b)
    )
    if count and others and length != other:
        raise InputError(
            f"{b.image or 'image'}: descriptors of {other} dimensions cannot be "
            f"compared with those of {a.image or 'image'}, of {length}: they come from "
            "different models"
        )


def _as_extracted(
    features: Features, bounds: SizeBounds
) -> tuple[LocalFeatures, float]:
    """Local features in the photo as extracted, and how far that was resized."""
    local = _local(features)
    # Of features that files brought, the size of the photo may be unknown: (0, 0).
    zoom = bounds.zoom(features.image_size)
    # Pixel centres are at integers: half a pixel moves.
    locations = (np.asarray(local.locations, np.float64) + 0.5) * zoom - 0.5
    return local._replace(locations=locations), zoom


def _at_full_size(
    affine: Float[np.ndarray, "2 3"], query_zoom: float, index_zoom: float
) -> Float[np.ndarray, "2 3"]:
    """The map between two photos, from the map between the two resized ones."""
    linear = affine[:, :2] * (index_zoom / query_zoom)
    shift = affine[:, :2].sum(axis=1) * (0.5 * index_zoom - 0.5) + affine[:, 2] + 0.5
    return np.column_stack([linear, shift / query_zoom - 0.5])
