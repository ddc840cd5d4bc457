"""DELG [Cao2020]: one global descriptor and local features from one backbone."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array

from delf_jax.models.delf import Backbone, Images, Sizes, local_outputs
from delf_jax.models.global_net import global_outputs
from delf_jax.models.pooling import UNCHANGED, GeMChanges


class DELG(nn.Module):
    """num_classes 0 leaves the classifiers out: a model to extract with.

    The last three fields are of `CosineClassifier`.
    """

    backbone: Backbone
    attention_width: int = 512
    reduced_dimension: int = 128
    global_dimension: int = 2048
    gem_power: float = 3.0
    learn_power: bool = False
    num_classes: int = 0
    centers: int = 1
    classifier_axis: str | None = None
    classifier_dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        images: Images,
        sizes: Sizes | None = None,
        *,
        train: bool = False,
        global_branch: bool = True,
        changes: GeMChanges = UNCHANGED,
        **of_backbone: Any,
    ) -> dict[str, Array]:
        """What the net sees in images (and canvases with sizes: see `ResNet`).

        | key | shape | |
        |---|---|---|
        | block3 | [B, h, w, C] | |
        | descriptors | [B, h, w, D] | reduced, not normalised |
        | attention | [B, h, w] | |
        | valid | [B, h, w] bool | cells that lie on the image |
        | global_descriptor | [B, G] | whitened GeM of block4, not normalised |
        | expanded | [B, h, w, C] | reconstruction of block3; to train |
        | attended | [B, C] | attention-weighted mean of expanded; to train |
        | attention_logits | [B, num_classes] | with classes |
        | cosines | [B, num_classes] | with classes |
        | stages | by name | maps of the backbone; to train |
        """
        last = "block4" if global_branch else "block3"
        stages = self.backbone(images, sizes, train=train, last=last, **of_backbone)
        outputs: Any = local_outputs(self, stages["block3"], sizes, train)
        if train:
            outputs["stages"] = stages
        if global_branch:
            outputs |= global_outputs(self, stages["block4"], sizes, "gem", changes)
        return outputs
