"""A frozen network that teaches: what its maps and descriptors are measured in.

The training runs it on the views themselves. A student learns its maps, centred and in
units of their deviations, which is where a student's layers start, and its descriptor
projected on the directions in which images differ, half-whitened: what all share weighs
less, and noise is not blown up.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from delf_jax import files, ops
from delf_jax.extraction.model_folder import Model, load_model
from delf_jax.extraction.settings import settings_for
from delf_jax.models.pooling import gem
from delf_jax.progress import track

POWER = 3.0  # of the GeM that makes the teacher's descriptor.
SIZE = 256, 192  # width and height of the images that a fit sees; or upright.


class Teacher(NamedTuple):
    """A network that gives maps; its variables and targets travel as arrays."""

    backbone: nn.Module
    pixels: tuple[tuple[float, float, float], tuple[float, float, float]]
    """mean and standard deviation of R, G and B"""
    stages: tuple[str, ...]
    """the maps that are taught"""
    fingerprint: str
    """of its weights"""


class Targets(NamedTuple):
    """What maps and descriptors are measured in."""

    means: dict[str, Float[np.ndarray, "C"]]
    """by stage; 0 where the map is rectified, and the student's will be"""
    deviations: dict[str, Float[np.ndarray, "C"]]
    """by stage; of a rectified map one number for all channels"""
    centre: Float[np.ndarray, "C"]
    """of descriptors"""
    projection: Float[np.ndarray, "C G"]
    """of descriptors"""


def load_teacher(
    directory: str, stages: Sequence[str]
) -> tuple[Teacher, dict[str, Any]]:
    """The teacher in a model folder, and its variables.

    InputError if its network does not have the stages.
    """
    model: Model = load_model(directory)
    settings = settings_for(model)
    variables = {"params": model.variables["params"]["backbone"]}
    teacher = Teacher(
        model.module.backbone,
        (settings.pixel_mean, settings.pixel_std),
        tuple(stages),
        model.fingerprint,
    )
    view = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    known = jax.eval_shape(lambda v, x: maps_of(teacher, v, x), variables, view)
    for stage in ("block4", *stages):
        if stage not in known:
            raise files.InputError(
                f"teacher.stages: {directory} has no {stage}; it has {', '.join(known)}"
            )
    return teacher, variables


def maps_of(
    teacher: Teacher, variables: dict, images: UInt8[Array, "B H W 3"]
) -> dict[str, Float[Array, "B _h _w _C"]]:
    """The maps of all stages."""
    normalized = ops.normalize_pixels(images, *teacher.pixels, None)
    maps: Any = teacher.backbone.apply(variables, normalized, train=True)
    return maps


def standardize(
    x: Float[Array, "B h w C"], targets: Targets, stage: str
) -> Float[Array, "B h w C"]:
    """The map of a stage in units of its deviation, as a student's layers start."""
    mean, deviation = (
        of[stage][None, None, None] for of in (targets.means, targets.deviations)
    )
    return (x - mean) / deviation


def describe(block4: Float[Array, "B h w C"]) -> Float[Array, "B C"]:
    """The normalised GeM descriptors of maps."""
    return ops.l2_normalize(gem(block4, POWER, None))


def fit_targets(
    teacher: Teacher,
    variables: dict,
    images: Sequence[Callable[[], UInt8[np.ndarray, "H W 3"]]],
    path: pathlib.Path,
    *,
    dimension: int,
) -> Targets:
    """The targets of a teacher as images have them, kept in a file of `.npz`.

    Args:
      images: functions that read them; about 10 times `dimension` suffice.
      dimension: G, of projected descriptors.
    """
    if path.exists():
        return read_targets(path)
    measure = jax.jit(lambda v, x: _measure(teacher, v, x))
    sums: list[dict] = []
    descriptors = []
    with track("teacher", len(images)) as advance:
        for read in images:
            descriptor, moments = measure(variables, _resized(read())[None])
            descriptors.append(np.asarray(descriptor[0], np.float64))
            sums.append(jax.device_get(moments))
            advance()
    mean: dict = jax.tree.map(lambda *x: np.mean(x, axis=0, dtype=np.float64), *sums)
    arrays = {}
    for stage, (first, second, _) in mean.items():
        rectified = min(each[stage][2] for each in sums) >= 0
        variance = np.maximum(second - first**2, 1e-6)
        if rectified:  # as the descriptor weighs its channels
            first, variance = 0 * first, np.full_like(variance, variance.mean())
        arrays[f"mean/{stage}"] = first
        arrays[f"deviation/{stage}"] = np.sqrt(variance)
    arrays["centre"] = np.mean(descriptors, axis=0)
    arrays["projection"] = _half_whitening(np.array(descriptors), dimension)
    with files.atomic_write(path) as file:
        np.savez(file, **{n: x.astype(np.float32) for n, x in arrays.items()})
    return read_targets(path)


def read_targets(path: pathlib.Path) -> Targets:
    """Targets that `fit_targets` kept; InputError if the file is damaged."""
    try:
        with files.reading(path), path.open("rb") as stored:
            with np.load(stored, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file}
        of = {
            kind: {n.split("/")[1]: x for n, x in arrays.items() if n.startswith(kind)}
            for kind in ("mean/", "deviation/")
        }
        centre, projection = arrays["centre"], arrays["projection"]
    except (*files.BROKEN_ZIP, KeyError) as error:
        raise files.InputError(
            f"{path}: not the targets of a teacher ({error!s:.100}); remove it, and "
            "the next training computes them again"
        ) from None
    return Targets(of["mean/"], of["deviation/"], centre, projection)


def _measure(
    teacher: Teacher, variables: dict, images: UInt8[Array, "1 H W 3"]
) -> tuple[Float[Array, "1 C"], dict[str, tuple[Array, Array, Array]]]:
    """(descriptor; mean and mean square by channel, and least value of each map)."""
    maps = maps_of(teacher, variables, images)
    moments = {
        stage: (x.mean((0, 1, 2)), (x**2).mean((0, 1, 2)), x.min())
        for stage, x in maps.items()
        if stage in teacher.stages
    }
    return describe(maps["block4"]), moments


def _half_whitening(
    descriptors: Float[np.ndarray, "N C"], dimension: int
) -> Float[np.ndarray, "C G"]:
    """Principal directions, each divided by the root of its deviation."""
    centred = descriptors - descriptors.mean(0)
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    if len(spread) < dimension:
        raise files.InputError(
            f"teacher.dimension {dimension}: only {len(spread)} images to fit it on"
        )
    gains = np.sqrt(spread[0] / np.maximum(spread[:dimension], 1e-3 * spread[0]))
    return directions[:dimension].T * gains


def _resized(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image, upright or lying, in one of two sizes: two programs to compile."""
    size_xy = SIZE if image.shape[0] <= image.shape[1] else SIZE[::-1]
    return cv2.resize(image, size_xy, interpolation=cv2.INTER_AREA)
