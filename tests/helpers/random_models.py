"""Random variables of our networks."""

from typing import Any

import jax
import numpy as np

from delf_jax.extraction.model_folder import build_module


def random_variables(architecture: dict[str, Any]) -> dict[str, Any]:
    """Variables of a network that does not fade, by shape and name alone."""
    module = build_module(architecture)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    # Filled by hand: to compile the network's own initialisation takes seconds.
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: random_weights(rng, path[-1].key, x.shape), shapes
    )


def random_weights(
    rng: np.random.Generator, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    if name == "kernel":
        fan_in = np.prod(shape[:-1])
        return rng.normal(0, np.sqrt(2 / fan_in), shape)
    # Branches are weaker than shortcuts, as in a trained network, and not switched off.
    return np.full(shape, {"scale": 0.5, "var": 1.0}.get(name, 0.0))
