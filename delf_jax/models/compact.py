"""A backbone for processors, taught stage by stage: 3.5 million parameters.

Its stages have the widths and cells of EfficientNet-Lite2's, so that each can learn the
teacher's map as it is; the early ones convolve plainly, which a CPU does faster
[Tan2021], the others each channel by itself. The last map has no upper bound: in units
of its deviation the teacher's reaches far beyond 6. Local features lie at stride 8,
where the stages of stride 8 and 16 meet as in a feature pyramid [Lin2017].
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from delf_jax.models.efficientnet_lite import AT_END, Stage, run_stage
from delf_jax.models.layers import ConvNorm
from delf_jax.models.resnet import LAYOUTS, Images, Map, Sizes
from delf_jax.ops import valid_cells, zero_outside

# By number, as the teacher counts them; it has a first one at stride 2.
STAGES = {
    2: Stage(2, 24, 3, 2, expansion=2, fused=2),
    3: Stage(3, 48, 5, 2, expansion=4, fused=1),
    4: Stage(4, 88, 3, 2, expansion=4),
    5: Stage(4, 120, 5, 1, expansion=4),
    6: Stage(5, 208, 5, 2, expansion=4),
    7: Stage(1, 352, 3, 1, expansion=4),
}
STEM, LOCAL, HEAD = 32, 96, 1280
LAST_OF_LOCAL = 5  # the stage behind which nothing is local.


class CompactNet(nn.Module):
    """Stages as a ResNet names them: block3 of stride 8, block4 of stride 32."""

    normalization: str = "batch"
    axis_name: str | None = None
    compute_dtype: str | None = None  # "bfloat16": of all maps; the stages are float32.

    layout = "v1.5"
    epsilon = LAYOUTS["v1.5"]["epsilon"]
    block3_strides = False
    title = "compact"

    @nn.compact
    def __call__(
        self,
        images: Images,
        sizes: Sizes | None = None,
        *,
        train: bool = False,
        last: str = "block4",
        forced: dict[str, tuple[Any, Map]] | None = None,
    ) -> dict[str, Map]:
        """block3 [B, h, w, 96] and, unless it is the last, block4 [B, h', w', 1280].

        To train also the map of each stage, as "stage2" to "stage7".

        Args:
          images: normalised by ImageNet's mean and deviation.
          sizes: (h, w) of each image on its canvas; without, the images fill the array.
          forced: by stage, in which images [B, 1, 1, 1] which map stands in for the
            stage's own, so that the next learns from what it will see once those before
            it have learned.
        """
        if train and sizes is not None and self.normalization == "batch":
            raise ValueError("sizes: batch statistics would count the empty canvas")
        conv: Any = partial(
            ConvNorm,
            normalization=self.normalization,
            axis_name=self.axis_name,
            **LAYOUTS[self.layout],
        )
        dtype = images.dtype
        x = images.astype(self.compute_dtype or dtype)
        x = nn.relu6(conv(STEM, 3, stride=2, padding=AT_END, name="stem")(x, train))
        cells = None if sizes is None else sizes // 2
        maps: dict[str, Map] = {}
        for number, stage in STAGES.items():
            x, cells = run_stage(conv, stage, number, x, cells, train)
            maps[f"stage{number}"] = x
            if forced is not None:
                chosen, given = forced[f"stage{number}"]
                x = jnp.where(chosen, given.astype(x.dtype), x)
            if number == LAST_OF_LOCAL:
                maps["block3"] = _local_map(conv, maps, sizes, train)
                if last == "block3":
                    break
        else:
            maps["block4"] = nn.relu(conv(HEAD, name="head")(x, train))
        kept = maps if train else {n: x for n, x in maps.items() if "block" in n}
        return {name: x.astype(dtype) for name, x in kept.items()}

    def channels(self, stage: str) -> int:
        """How many the maps of block3 or block4 have."""
        return {"block3": LOCAL, "block4": HEAD}[stage]

    def stage_sizes(self, size: tuple[Any, Any]) -> dict[str, tuple[Any, Any]]:
        """(h, w) of block3 and block4 for an image size, Python's or traced."""
        block3 = tuple((side // 4 + 1) // 2 for side in size)
        return {"block3": block3, "block4": tuple((side + 3) // 4 for side in block3)}

    def canvas_offset(self, side: Any) -> Any:
        """First row or column of an image on its canvas."""
        return 0 * side


def _local_map(
    conv: Any, maps: dict[str, Map], sizes: Sizes | None, train: bool
) -> Map:
    """Stage 3 and, twice enlarged, stage 5; then one convolution over both."""
    fine = conv(LOCAL, name="local_fine")(maps["stage3"], train)
    coarse = conv(LOCAL, name="local_coarse")(maps["stage5"], train)
    height, width = fine.shape[1:3]
    coarse = jnp.repeat(jnp.repeat(coarse, 2, axis=1), 2, axis=2)
    x = nn.relu6(fine + coarse[:, :height, :width])
    if sizes is not None:
        x = zero_outside(x, valid_cells((height, width), (sizes // 4 + 1) // 2))
    return nn.relu6(conv(LOCAL, 3, name="local")(x, train))
