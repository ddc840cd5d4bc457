"""Faster R-CNN [Ren2015]: boxes are proposed, cut out of a map, and looked at again.

The first stage reads a map of stride 16: twelve anchors of each cell, the best of which
are proposed. The second sees each proposal as 7 x 7 cells of the same map [He2017], and
says whether it is a landmark, and where its box is. Images fill their arrays, squeezed
to one size; the number of proposals is fixed, so that all shapes are.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from delf_jax.models.detectors.anchors import decode_boxes, grid_anchors, suppress
from delf_jax.models.layers import ConvNorm, Linear
from delf_jax.models.resnet import (
    BASIC_DEPTHS,
    LAYOUTS,
    UNITS,
    Basic,
    Bottleneck,
    Images,
    Map,
    ResNet,
)

# In parts of the image; at 640 pixels they are the released detector's 64 to 512. Of
# width and height, in its order: of each ratio all scales.
SCALES, RATIOS = (0.1, 0.2, 0.4, 0.8), (0.5, 1.0, 2.0)
SHAPES = [(scale / r**0.5, scale * r**0.5) for r in RATIOS for scale in SCALES]
# Of what two proposals may cover both, and cells of a crop.
OVERLAP, CELLS = 0.7, 7
# Channels of the first stage, in proportion to the stem's 64.
_HIDDEN = 512
# Logit of a place without a proposal: no chance, and no gradient.
_NOTHING = -1e4


class FasterRCNN(nn.Module):
    """Boxes of landmarks in images of one size.

    The fourth block is not the backbone's: it belongs to the second stage, and keeps
    the cells of a crop.
    """

    backbone: ResNet
    image_size: int = 640
    """pixels of a side, to which photos are squeezed"""
    proposals: int = 100
    crop: str = "align"
    """or "corners": as TensorFlow's crop_and_resize and maxima, for released weights"""

    @nn.compact
    def __call__(
        self, images: Images, sizes: None = None, *, train: bool = False
    ) -> dict[str, Array]:
        """box_logits [B, P] and offsets [B, P, 4] from anchors [B, P, 4]: proposals.

        Those are made of proposal_logits [B, A] and proposal_offsets [B, A, 4] from
        proposal_anchors [A, 4]. All boxes are in parts of the image.

        Args:
          sizes: no canvases here: images fill their arrays.
        """
        features = self.backbone(images, None, train=train, last="block3")["block3"]
        first = self._first_stage(features)
        boxes, valid = jax.vmap(partial(_propose, self.proposals), (0, 0, None))(
            *jax.lax.stop_gradient(tuple(first.values()))
        )
        crops = jax.vmap(partial(crop_boxes, crop=self.crop))(features, boxes)
        seen = self._block4(crops.reshape(-1, *crops.shape[2:]), train).mean((1, 2))
        logits = Linear(1, name="logits")(seen).reshape(valid.shape)
        offsets = Linear(4, name="offsets")(seen).reshape(boxes.shape)
        return {
            "box_logits": jnp.where(valid, logits, _NOTHING),
            "offsets": offsets,
            "anchors": boxes,
            **first,
        }

    def _first_stage(self, features: Map) -> dict[str, Array]:
        """What proposals are made of."""
        conv = partial(
            ConvNorm,
            normalization="none",
            use_bias=True,
            kernel_init=nn.initializers.normal(0.01),
        )
        hidden = conv(_HIDDEN * self.backbone.width // 64, 3, name="proposal_hidden")
        x, count = nn.relu6(hidden(features)), len(SHAPES)
        logits = conv(count, name="proposal_logits")(x)
        offsets = conv(4 * count, name="proposal_offsets")(x)
        height, width = features.shape[1:3]
        return {
            "proposal_logits": logits.reshape(len(x), -1),
            "proposal_offsets": offsets.reshape(len(x), -1, 4),
            "proposal_anchors": jnp.asarray(grid_anchors((height, width), SHAPES)),
        }

    def _block4(self, x: Map, train: bool) -> Map:
        """Crops after the last units of a ResNet, of stride 1."""
        backbone, dtype = self.backbone, x.dtype
        conv = partial(
            ConvNorm,
            normalization=backbone.normalization,
            axis_name=backbone.axis_name,
            **LAYOUTS[backbone.layout],
        )
        unit: Any = Basic if backbone.depth in BASIC_DEPTHS else Bottleneck
        x = x.astype(backbone.compute_dtype or dtype)
        for number in range(1, UNITS[backbone.depth][3] + 1):
            name = f"block4_unit{number}"
            layer = unit(8 * backbone.width, 1, backbone.layout, conv, name=name)
            x = layer(x, None, None, train)
        return x.astype(dtype)


def crop_boxes(
    features: Float[Array, "H W C"], boxes: Float[Array, "P 4"], crop: str = "align"
) -> Float[Array, "P h w C"]:
    """The 7 x 7 cells of a map that each box covers, of 2 x 2 points each.

    "align": points within the cells, and their means [He2017]. "corners": the outermost
    points are the corners of the box, which are centres of the map's outermost cells
    where the box is the image; and maxima.
    """
    rows, columns = (
        _weights(boxes[:, axis], boxes[:, axis + 2], features.shape[axis], crop)
        for axis in (0, 1)
    )
    if crop == "align":  # The mean of points is that of their weights.
        rows, columns = (
            x.reshape(len(x), CELLS, 2, -1).mean(2) for x in (rows, columns)
        )
    narrow = jnp.einsum("pih,hwc->piwc", rows, features)
    points = jnp.einsum("pjw,piwc->pijc", columns, narrow)
    if crop == "align":
        return points
    return points.reshape(-1, CELLS, 2, CELLS, 2, points.shape[-1]).max((2, 4))


def _weights(
    low: Float[Array, " P"], high: Float[Array, " P"], side: int, crop: str
) -> Float[Array, "P 14 side"]:
    """What each point between the ends of boxes has of each cell of an axis."""
    count = 2 * CELLS
    steps = jnp.arange(count, dtype=low.dtype)
    if crop == "align":
        parts, scale, start = (steps + 0.5) / count, side, 0.5
    else:
        parts, scale, start = steps / (count - 1), side - 1, 0.0
    ends = scale * low[:, None], scale * (high - low)[:, None]
    places = jnp.clip(ends[0] + ends[1] * parts[None] - start, 0, side - 1)
    cells = jnp.arange(side, dtype=low.dtype)
    return jnp.maximum(1 - abs(places[:, :, None] - cells[None, None]), 0)


def _propose(
    count: int, logits: Float[Array, " A"], offsets: Float[Array, "A 4"], anchors: Array
) -> tuple[Float[Array, "count 4"], Array]:
    """The best boxes of an image, and which places hold one; the others are empty."""
    boxes = jnp.clip(decode_boxes(offsets, anchors), 0, 1)
    rows, valid = suppress(boxes, logits, count, OVERLAP)
    return jnp.where(valid[:, None], boxes[rows], 0), valid
