"""What the tests of exports share: small models, a photo, and the comparison."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from delf_jax import images
from delf_jax.extraction import model_folder
from delf_jax.extraction.model_folder import build_module
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.models.architecture import fold_batch_norm
from delf_jax.synthetic import landmarks

SETTINGS = ExtractionSettings(
    image_scales=(0.5, 0.7071, 1.0),
    global_scales=(1, 2),
    max_image_size=None,
    max_features=60,
)
# In float32: positions in pixels, the rest relative to its largest value.
PIXELS, RELATIVE = 1e-3, 2e-5


@functools.cache
def small_model(
    layout: str, block3_strides: bool = False, name: str = "delg"
) -> model_folder.Model:
    """A very small network with random weights, its BatchNorm folded."""
    architecture = {
        "name": name,
        "depth": {"v1.5": 18, "slim": 50}.get(layout, 26),
        "width": 8,
        "layout": layout,
        "block3_strides": block3_strides,
        "attention_width": 8,
        "reduced_dimension": 8,
    }
    if name == "delg":
        architecture["global_dimension"] = 16
    module = build_module(architecture)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = flatten_dict(jax.eval_shape(module.init, jax.random.key(0), image))
    rng = np.random.default_rng(2)
    filled = {
        path: rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape)
        if path[-1] == "kernel"
        else np.full(x.shape, {"scale": 0.5, "var": 1.0}.get(path[-1], 0.1))
        for path, x in shapes.items()
    }
    module, variables = fold_batch_norm(module, unflatten_dict(filled))
    variables = jax.tree.map(jnp.asarray, variables)
    config = {"architecture": architecture, "extraction": SETTINGS._asdict()}
    return model_folder.Model(module, variables, config, "0" * 64, f"small {layout}")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image of blocks and noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 200, (-(-height // 8), -(-width // 8), 3))
    blocks = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return (blocks + rng.integers(0, 50, blocks.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def photo(request: pytest.FixtureRequest) -> np.ndarray:
    """A real photograph, or a drawn one where there is none; 131 x 179 pixels."""
    try:
        folder: pathlib.Path = request.getfixturevalue("photos")
        path = min((folder / "images" / "berlin_cathedral").iterdir())
        return images.resize_image(images.read_image(path), (131, 179))
    except pytest.skip.Exception:
        landmark = landmarks.draw_landmark(7)
        return landmarks.draw_view(landmark, 0, (131, 179)).image


def assert_matches(found: dict[str, np.ndarray], live: Features) -> None:
    """Equal features in one order, but for those whose attention nearly ties."""
    if live.global_descriptor is not None:
        _assert_close(found["global_descriptor"], live.global_descriptor)
    if live.local is None:
        return
    _assert_close(found["attention"], live.local.attention)
    ours = np.c_[live.local.locations, live.local.scales]
    theirs = np.c_[found["locations"], found["scales"]]
    order = np.abs(ours[:, None] - theirs[None]).sum(axis=2).argmin(axis=1)
    assert sorted(order) == list(range(len(ours)))
    moved = order != np.arange(len(ours))
    ties = np.abs(live.local.attention - live.local.attention[order])
    assert (ties[moved] <= RELATIVE * live.local.attention.max()).all()
    np.testing.assert_allclose(theirs[order], ours, rtol=0, atol=PIXELS)
    _assert_close(found["descriptors"][order], live.local.descriptors)


def _assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    atol = RELATIVE * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def trimmed(found: dict) -> dict[str, np.ndarray]:
    """numpy arrays without the places that hold no feature."""
    found = {name: np.asarray(value) for name, value in found.items()}
    if "count" not in found:
        return found
    count = found.pop("count")
    for name, value in found.items():
        if not name.startswith("global"):
            assert not value[count:].any(), name
            found[name] = value[:count]
    return found
