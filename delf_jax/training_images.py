"""Pictures of a training: what the network was shown, and where it looks."""

import functools
from collections.abc import Mapping
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, UInt8

from delf_jax import sharded_classifier
from delf_jax.train_step import Batch, Static

SHOWN = 8  # examples; more are too small to look at.


def look(static: Static, averages: Any, batch: Batch) -> dict[str, np.ndarray]:
    """A sheet of the batch's views and, with a local branch, one of its attention."""
    views = batch["image"][:SHOWN]
    pictures = {"batch": sheet(views)}
    if hasattr(static.module, "reduced_dimension"):
        first = views[:, 0]
        pixels = static.pixel_mean, static.pixel_std
        variables = jax.tree.map(np.asarray, averages)
        module = sharded_classifier.undivided(static.module)
        maps = np.asarray(_attention(module, pixels, variables, first))
        both = [
            first,
            np.stack([overlay(*pair) for pair in zip(first, maps, strict=True)]),
        ]
        pictures["attention"] = sheet(np.stack(both, 1))
    return pictures


@functools.partial(jax.jit, static_argnums=(0, 1))
def _attention(
    module: nn.Module, pixels: tuple, variables: Mapping, images: jax.Array
) -> jax.Array:
    mean, std = (jnp.array(colour, jnp.float32)[None, None, None] for colour in pixels)
    images = (images.astype(jnp.float32) - mean) / std
    return module.apply(variables, images)["attention"]


def sheet(views: UInt8[np.ndarray, "B V S S 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Examples side by side, the views of each below one another."""
    rows = [np.concatenate(list(row), 1) for row in views.swapaxes(0, 1)]
    return np.concatenate(rows, 0)


def overlay(
    image: UInt8[np.ndarray, "S S 3"], attention: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "S S 3"]:
    """The image, dark where attention is low; brightest at the map's maximum."""
    share = attention / max(float(attention.max()), 1e-12)
    share = cv2.resize(share, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    heat = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(image, 0.35, heat[..., ::-1], 0.65, 0)
