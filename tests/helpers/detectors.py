"""Detectors that need no training: one that sees what is bright, and random ones."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delf_jax.extraction import model_folder
from delf_jax.models.detectors.anchors import grid_anchors
from tests.helpers.random_models import random_variables

NARROW = {
    "name": "ssd",
    "backbone": "mobilenet_v2",
    "width": 8,
    "image_size": 64,
}
CELLS = 4


class SeesBright(nn.Module):
    """A box for each cell of 4 x 4 whose mean is above black."""

    image_size: int = 32

    @nn.compact
    def __call__(self, images, sizes=None):
        side = self.image_size // CELLS
        cells = images.reshape(len(images), CELLS, side, CELLS, side, 3)
        bright = cells.mean((2, 4, 5)).reshape(len(images), -1)
        return {
            "box_logits": 4 * bright + 2,
            "offsets": jnp.zeros((*bright.shape, 4)),
            "anchors": jnp.asarray(grid_anchors((CELLS, CELLS), [(0.25, 0.25)])),
        }


def sees_bright(fingerprint="0" * 64):
    """A model of it; white has a score of 0.9975, grey 0.88, black 0.12."""
    config = {"architecture": {"name": "ssd"}, "extraction": {}}
    return model_folder.Model(SeesBright(), {}, config, fingerprint, "sees_bright")


def draw_bright(size, *cells):
    """A black image of (height, width) with white cells (row, column) of 4 x 4."""
    image = np.zeros((*size, 3), np.uint8)
    height, width = (side // CELLS for side in size)
    for row, column in cells:
        image[row * height : (row + 1) * height, column * width :][:, :width] = 255
    return image


def save_random(folder):
    """Writes a very narrow SSD with random weights."""
    model_folder.save_model(folder, NARROW, random_variables(NARROW), {}, {})
    return folder
