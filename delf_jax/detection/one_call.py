"""Boxes in one call: images of any kind."""

import os
from collections.abc import Iterable
from typing import Any, Literal, overload

from delf_jax.detection.detect import (
    Detections,
    Detector,
    detect_images,
    open_detector,
    select,
)
from delf_jax.extraction.one_call import Errors, as_list, check_errors, is_image
from delf_jax.files import InputError
from delf_jax.images import ImageLike

# Least score of a box, unless another is asked for.
THRESHOLD = 0.3


@overload
def detect(  # type: ignore[overload-overlap]  # A path is also a string.
    images: ImageLike,
    model: Detector | str | os.PathLike | None = None,
    *,
    threshold: float = THRESHOLD,
    errors: Literal["raise"] = "raise",
) -> Detections: ...


@overload
def detect(
    images: Iterable[ImageLike],
    model: Detector | str | os.PathLike | None = None,
    *,
    threshold: float = THRESHOLD,
    errors: Literal["raise"] = "raise",
) -> list[Detections]: ...


@overload
def detect(
    images: ImageLike | Iterable[ImageLike],
    model: Detector | str | os.PathLike | None = None,
    *,
    threshold: float = THRESHOLD,
    errors: Errors,
) -> Any: ...


def detect(
    images: ImageLike | Iterable[ImageLike],
    model: Detector | str | os.PathLike | None = None,
    *,
    threshold: float = THRESHOLD,
    errors: Errors = "raise",
) -> Any:
    """Boxes of landmarks in one image; in several (a list, any iterable) a list.

    Args:
      images: as `delf_jax.extract` takes them.
      model: a detector, or its folder; also one that the original has released. None
        is the bundled one.
      threshold: least score of a box, in [0, 1].
      errors: as of `delf_jax.extract`.
    """
    check_errors(errors)
    check_threshold(threshold)
    results: list[Detections | InputError] = []
    for found in detect_images(open_detector(model), as_list(images)):
        if isinstance(found, InputError):
            if errors == "raise":
                raise found
            results.append(found)
        else:
            results.append(select(found, threshold))
    return results[0] if is_image(images) else results


def check_threshold(threshold: float) -> None:
    """InputError for a threshold that is no score."""
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}: scores are in [0, 1]")
