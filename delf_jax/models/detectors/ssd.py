"""SSD [Liu2016], and MobileNetV2 [Sandler2018], the backbone of the released one.

Maps of six strides, each with two convolutions of every cell: one says whether an
anchor shows a landmark, the other where its box is. Images fill their arrays, and are
squeezed to one size as the released detector's are.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from delf_jax.models.convolution import Padding
from delf_jax.models.delf import Backbone
from delf_jax.models.detectors.anchors import grid_anchors, ssd_shapes
from delf_jax.models.efficientnet_lite import InvertedResidual, Stage
from delf_jax.models.layers import ConvNorm
from delf_jax.models.resnet import Images, Map

STAGES = (
    Stage(1, 16, 3, 1, expansion=1),
    Stage(2, 24, 3, 2),
    Stage(3, 32, 3, 2),
    Stage(4, 64, 3, 2),
    Stage(3, 96, 3, 1),
    Stage(3, 160, 3, 2),
    Stage(1, 320, 3, 1),
)
STEM, HEAD = 32, 1280
# (stage, unit) that halves the map of stride 16, which is widened before: SSD reads it.
WIDENED = 6, 1
EPSILON, MOMENTUM = 1e-3, 0.97
# Channels of the maps after the backbone's: each halves the one before.
EXTRA = (512, 256, 256, 128)
# Where an anchor's chance begins: at 1 in 100, so that the many without a box do not
# drown the others in the first steps [Lin2017b].
PRIOR = -4.595


class MobileNetV2(nn.Module):
    """Inverted residuals; fields as in `ConvNorm`, and the stem's channels."""

    width: int = STEM
    normalization: str = "batch"
    axis_name: str | None = None
    compute_dtype: str | None = None  # "bfloat16": of all maps; the stages are float32.

    layout = "lite"
    epsilon = EPSILON
    block3_strides = False
    title = "MobileNetV2"

    @nn.compact
    def __call__(
        self, images: Images, sizes: None = None, *, train: bool = False
    ) -> dict[str, Map]:
        """block3 [B, h, w, 576], of stride 16 and widened; block4 [B, h', w', 1280]."""
        conv = _conv_of(self, self.normalization)
        dtype = images.dtype
        x = images.astype(self.compute_dtype or dtype)
        x = nn.relu6(_halve(conv, x, self._channels(STEM), "stem")(x, train))
        block3 = x
        for number, stage in enumerate(STAGES, 1):
            for unit in range(1, stage.units + 1):
                expansion = stage.expansion
                if (number, unit) == WIDENED:
                    widen = conv(expansion * x.shape[-1], name=f"stage{number}_widen")
                    x = block3 = nn.relu6(widen(x, train))
                    expansion = 1
                stride = stage.stride if unit == 1 else 1
                layer = InvertedResidual(
                    self._channels(stage.features),
                    stage.kernel_size,
                    stride,
                    expansion,
                    pads_at_end=stride == 2 and x.shape[1] % 2 == 0,
                    conv=conv,
                    name=f"stage{number}_unit{unit}",
                )
                x = layer(x, None, train)
        block4 = nn.relu6(conv(self.channels("block4"), name="head")(x, train))
        stages = {"block3": block3, "block4": block4}
        return {name: stage.astype(dtype) for name, stage in stages.items()}

    def _channels(self, features: int) -> int:
        """So many in proportion to the stem's, in eights."""
        return max(8, round(features * self.width / STEM / 8) * 8)

    def channels(self, stage: str) -> int:
        """How many the maps of block3 or block4 have."""
        last = self._channels(STAGES[4].features)
        return {"block3": 6 * last, "block4": self._channels(HEAD)}[stage]

    def stage_sizes(self, size: tuple[Any, Any]) -> dict[str, tuple[Any, Any]]:
        """(h, w) of block3 and block4 for an image size, Python's or traced."""
        block3 = tuple((side + 15) // 16 for side in size)
        return {"block3": block3, "block4": tuple((side + 31) // 32 for side in size)}

    def canvas_offset(self, side: Any) -> Any:
        """First row or column of an image on its canvas."""
        return 0 * side


class SSD(nn.Module):
    """Boxes of landmarks in images of one size, from a backbone's last two maps on."""

    backbone: Backbone | MobileNetV2
    image_size: int = 320
    """pixels of a side, to which photos are squeezed"""
    neck: int = 0
    """channels of all maps, of which the finest reads the next one, too [Lin2017]; 0:
    those of the backbone as they are, and `EXTRA`"""

    @nn.compact
    def __call__(
        self, images: Images, sizes: None = None, *, train: bool = False
    ) -> dict[str, Array]:
        """box_logits [B, A], and offsets [B, A, 4] from anchors [A, 4] in parts of it.

        Args:
          sizes: no canvases here: images fill their arrays.
        """
        stages = self.backbone(images, None, train=train)
        # a frozen backbone does not freeze statistics of layers that are new to it
        folded = self.backbone.normalization == "folded"
        conv = _conv_of(self.backbone, "folded" if folded else "batch")
        maps = [stages["block3"], stages["block4"]]
        if self.neck:
            maps = _pyramid(conv, maps[0], maps[1], self.neck, train)
        for number, features in enumerate(EXTRA, 3):
            maps.append(
                _extra_map(conv, maps[-1], self.neck or features, number, train)
            )
        shapes, logits, offsets, anchors = ssd_shapes(len(maps)), [], [], []
        for number, (x, sized) in enumerate(zip(maps, shapes, strict=True), 1):
            predict = partial(_predict, conv, x, f"map{number}", train)
            logits.append(predict("logits", len(sized)).reshape(len(x), -1))
            offsets.append(predict("offsets", 4 * len(sized)).reshape(len(x), -1, 4))
            height, width = x.shape[1:3]
            anchors.append(jnp.asarray(grid_anchors((height, width), sized)))
        return {
            "box_logits": jnp.concatenate(logits, axis=1) + PRIOR,
            "offsets": jnp.concatenate(offsets, axis=1),
            "anchors": jnp.concatenate(anchors),
        }


def _conv_of(backbone: Backbone | MobileNetV2, normalization: str) -> Any:
    """ConvNorm for layers of a backbone and those behind it."""
    return partial(
        ConvNorm,
        normalization=normalization,
        axis_name=backbone.axis_name,
        momentum=MOMENTUM,
        epsilon=backbone.epsilon,
    )


def _halve(conv: Any, x: Map, features: int, name: str, **settings: Any) -> Any:
    """A convolution of stride 2, padded as by TensorFlow: of even sides at the end."""
    padding: Padding = _padding(x.shape[1]), _padding(x.shape[2])
    return conv(features, 3, 2, padding, name=name, **settings)


def _padding(side: int) -> tuple[int, int]:
    return (0, 1) if side % 2 == 0 else (1, 1)


def _pyramid(
    conv: Any, fine: Map, coarse: Map, features: int, train: bool
) -> list[Map]:
    """Both maps at one width; the coarser one is enlarged and added to the finer."""
    narrow = nn.relu6(conv(features, name="map2_reduce")(coarse, train))
    coarse = _spread(conv, narrow, "map2", train)
    (height, width), times = fine.shape[1:3], -(-fine.shape[1] // coarse.shape[1])
    enlarged = jnp.repeat(jnp.repeat(coarse, times, axis=1), times, axis=2)
    narrow = conv(features, name="map1_reduce")(fine, train)
    narrow = nn.relu6(narrow + enlarged[:, :height, :width])
    return [_spread(conv, narrow, "map1", train), coarse]


def _spread(conv: Any, x: Map, name: str, train: bool) -> Map:
    """3x3 of each channel, then 1x1 over all."""
    depthwise = conv(x.shape[-1], 3, depthwise=True, name=f"{name}_depthwise")
    x = nn.relu6(depthwise(x, train))
    return nn.relu6(conv(x.shape[-1], name=f"{name}_project")(x, train))


def _extra_map(conv: Any, x: Map, features: int, number: int, train: bool) -> Map:
    """Half the cells, by 1x1 to half the channels, 3x3 of each, and 1x1 back."""
    name = f"map{number}"
    x = nn.relu6(conv(features // 2, name=f"{name}_reduce")(x, train))
    narrow = _halve(conv, x, features // 2, f"{name}_depthwise", depthwise=True)
    x = nn.relu6(narrow(x, train))
    return nn.relu6(conv(features, name=f"{name}_project")(x, train))


def _predict(
    conv: Any, x: Map, name: str, train: bool, what: str, channels: int
) -> Float[Array, "B h w C"]:
    """Numbers of each cell: 3x3 of each channel, then 1x1, as SSDLite's."""
    depthwise = conv(x.shape[-1], 3, depthwise=True, name=f"{name}_{what}_depthwise")
    last = ConvNorm(
        channels,
        normalization="none",
        use_bias=True,
        kernel_init=nn.initializers.normal(0.03),  # as the released detectors.
        name=f"{name}_{what}",
    )
    return last(nn.relu6(depthwise(x, train)))
