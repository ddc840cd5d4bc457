"""HOW [Tolias2020]: local descriptors that are trained through their weighted sum."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from delf_jax.models.delf import Backbone, Images, Sizes, stage_valid
from delf_jax.models.layers import ConvNorm
from delf_jax.models.pooling import mean_around
from delf_jax.ops import l2_normalize, zero_outside


class HOW(nn.Module):
    """Local features that need no attention branch: a cell's norm is its attention.

    num_classes is a field that all models have: HOW compares images.
    """

    backbone: Backbone
    reduced_dimension: int = 128
    num_classes: int = 0

    @nn.compact
    def __call__(
        self,
        images: Images,
        sizes: Sizes | None = None,
        *,
        train: bool = False,
        global_branch: bool = True,
    ) -> dict[str, Array]:
        """What the net sees in images (and canvases with sizes: see `ResNet`).

        block3; descriptors, whitened and reduced (`reduce` is set before the training
        and kept: `train_only` "backbone"); attention, the length of a cell of block3;
        valid; and global_descriptor, the sum of descriptors weighted by attention.
        """
        block3 = self.backbone(images, sizes, train=train, last="block3")["block3"]
        valid = stage_valid(self.backbone, "block3", block3, sizes)
        # No slope at zero is infinite: a relu leaves cells that are all zero.
        attention = jnp.sqrt(jnp.maximum(jnp.sum(block3**2, -1), 1e-10))
        reduce = ConvNorm(
            self.reduced_dimension, normalization="none", use_bias=True, name="reduce"
        )
        outputs = {"block3": block3, "attention": attention, "valid": valid}
        outputs["descriptors"] = descriptors = reduce(mean_around(block3, 3, valid))
        if global_branch:
            weighted = zero_outside(descriptors * attention[..., None], valid)
            outputs["global_descriptor"] = l2_normalize(weighted.sum((1, 2)))
        return outputs
