"""Views of drawn landmarks: where a place in one lies in another, exactly."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8

from delf_jax.files import atomic_write
from delf_jax.images import decode_image, encode_jpeg

NEAR = 0.4  # units; what is nearer to the camera is cut off


class Camera(NamedTuple):
    """A pinhole camera; its axes are x right, y down, z forwards."""

    position: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]  # rows are the camera's axes in the world
    focal: float  # pixels
    size: tuple[int, int]  # height, width in pixels


class View(NamedTuple):
    """A photo of a landmark, and for each pixel the plane that it shows."""

    image: UInt8[np.ndarray, "H W 3"]
    camera: Camera
    surface: Int16[np.ndarray, "H W"]  # row of `planes`, -1 for sky and passers-by
    planes: Float[np.ndarray, "S 3"]  # inverse depth = planes @ (x, y, 1)


def save_views(path: str | os.PathLike, views: Sequence[View]) -> None:
    """Writes views as arrays of numpy, their images as JPEGs."""
    arrays: dict[str, Any] = {}
    for number, view in enumerate(views):
        fields = {**view._asdict(), **view.camera._asdict()}
        del fields["camera"]
        fields["image"] = np.frombuffer(encode_jpeg(view.image, quality=90), np.uint8)
        arrays |= {f"{name}{number}": value for name, value in fields.items()}
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def load_views(path: str | os.PathLike) -> list[View]:
    """What `save_views` wrote, the images as JPEG keeps them."""
    with np.load(path, allow_pickle=False) as arrays:
        count = sum(name.startswith("image") for name in arrays)
        return [
            View(
                decode_image(arrays[f"image{i}"].tobytes()),
                Camera(
                    arrays[f"position{i}"],
                    arrays[f"rotation{i}"],
                    float(arrays[f"focal{i}"]),
                    tuple(arrays[f"size{i}"].tolist()),
                ),
                arrays[f"surface{i}"],
                arrays[f"planes{i}"],
            )
            for i in range(count)
        ]


def correspond(
    view: View, other: View, locations: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Bool[np.ndarray, "N"]]:
    """Where points (y, x) of one view lie in another, and whether both show them.

    The centre of the first pixel is (0, 0). Sky and passers-by are never visible.
    """
    found, depth = _reproject(view, other, locations)
    size = np.array(other.camera.size)
    visible = (depth > 0) & ((found > -0.5) & (found < size - 0.5)).all(1)
    inside = np.where(visible[:, None], found, 0.0)
    stored = _inverse_depth(other, inside[:, 0], inside[:, 1])
    return found, visible & (np.abs(stored * depth - 1) < 0.005)


def project(
    view: View, other: View, locations: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Bool[np.ndarray, "N"]]:
    """Where points (y, x) of one view lie in another, hidden or not.

    False where the first view shows sky or a passer-by, or the place is behind the
    second camera.
    """
    found, depth = _reproject(view, other, locations)
    return found, depth > 0


def _reproject(view: View, other: View, locations: Float[np.ndarray, "N 2"]):
    """Places in the other view, and their depth there (0 where unknown)."""
    y, x = locations[:, 0], locations[:, 1]
    inverse = _inverse_depth(view, y, x)
    known = inverse > 0
    rays = _rays(view.camera, y, x) / np.where(known, inverse, 1.0)[:, None]
    points = rays @ view.camera.rotation + view.camera.position
    seen = (points - other.camera.position) @ other.camera.rotation.T
    known &= seen[:, 2] > NEAR
    depth = np.where(known, seen[:, 2], 1.0)
    centre = (np.array(other.camera.size) - 1) / 2
    found = other.camera.focal * seen[:, 1::-1] / depth[:, None] + centre
    return found, np.where(known, depth, 0.0)


def _inverse_depth(
    view: View, y: Float[np.ndarray, "N"], x: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """Inverse depth at points of a view, 0 on sky and passers-by."""
    rows = np.round(y).astype(int).clip(0, view.surface.shape[0] - 1)
    columns = np.round(x).astype(int).clip(0, view.surface.shape[1] - 1)
    surface = view.surface[rows, columns]
    plane = view.planes[surface]
    inverse = plane[:, 0] * x + plane[:, 1] * y + plane[:, 2]
    return np.where(surface >= 0, inverse, 0.0)


def _rays(camera: Camera, y: np.ndarray, x: np.ndarray) -> Float[np.ndarray, "N 3"]:
    """Directions in the camera's frame with z = 1."""
    centre = (np.array(camera.size) - 1) / 2
    directions = [(x - centre[1]) / camera.focal, (y - centre[0]) / camera.focal]
    return np.stack([*directions, np.ones_like(x, dtype=float)], -1)
