"""What an image gives: local features, global descriptor, and those of its regions."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int


class LocalFeatures(NamedTuple):
    """Local features of one image, the strongest attention first."""

    locations: Float[Array, "N 2"] | Float[np.ndarray, "N 2"]
    """(y, x) of the feature centres, in pixels of the original image"""
    scales: Float[Array, "N"] | Float[np.ndarray, "N"]
    """1 / image scale: larger means a larger region of the image"""
    descriptors: Float[Array, "N D"] | Float[np.ndarray, "N D"]
    attention: Float[Array, "N"] | Float[np.ndarray, "N"]


class Regions(NamedTuple):
    """Parts of an image that local features were taken from, one after the other."""

    boxes: Float[np.ndarray, "R 4"]
    """(y_min, x_min, y_max, x_max) in pixels; the first is the whole image"""
    counts: Int[np.ndarray, "R"]
    """local features of each"""


class Features(NamedTuple):
    """What one image gives; None for a branch that was left out."""

    local: LocalFeatures | None
    global_descriptor: Float[Array, "G"] | Float[np.ndarray, "G"] | None
    image_size: tuple[int, int]
    """(height, width) of the original image"""
    regions: Regions | None = None
    """whose local features follow each other; None: all are of the whole image"""
    image: str = ""
    """its name: a path, or an id in a store"""

    def __repr__(self) -> str:
        parts = []
        if self.local is not None:
            count, dimension = self.local.descriptors.shape
            parts.append(f"{count} local features of {dimension} dimensions")
        if self.global_descriptor is not None:
            parts.append(f"global descriptor of {len(self.global_descriptor)}")
        return f"{self.image or 'image'}: {', '.join(parts) or 'no features'}"


def is_finite(features: Features) -> bool:
    """Whether all numbers are: neither infinite nor not-a-number."""
    local, descriptor, _, regions, _ = features
    arrays = (*(local or ()), descriptor, *(regions or ()))
    return all(np.isfinite(array).all() for array in arrays if array is not None)


def whole_image(features: Features) -> Features:
    """The features without those of boxes."""
    return features if features.regions is None else regions_of(features)[0]


def regions_of(features: Features) -> list[Features]:
    """The features of each region by itself: of the whole image, then of each box."""
    if features.regions is None or features.local is None:
        return [features]
    ends = np.cumsum(features.regions.counts)
    parts = zip(*(np.split(array, ends)[:-1] for array in features.local), strict=True)
    return [features._replace(local=LocalFeatures(*x), regions=None) for x in parts]


def crops_of(features: Features) -> list[Features]:
    """As `regions_of`, with locations in pixels of the crops; these alone are local."""
    crops = regions_of(features)
    for number, part in enumerate(crops[1:], 1):
        assert part.local is not None and features.regions is not None
        corner = features.regions.boxes[None, number, :2]
        moved = part.local._replace(locations=part.local.locations - corner)
        crops[number] = part._replace(local=moved, global_descriptor=None)
    return crops


def features_per_region(features: Features) -> list[int]:
    """How many local features each region has, for `retrieval.aggregation`.

    Without boxes there is one region, the whole image.
    """
    if features.regions is not None:
        return features.regions.counts.tolist()
    assert features.local is not None
    return [len(features.local.scales)]
