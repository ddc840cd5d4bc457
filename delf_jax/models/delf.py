"""DELF [Noh2017]: attention over local features, and an autoencoder to reduce them."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from delf_jax.models.compact import CompactNet
from delf_jax.models.efficientnet_lite import EfficientNetLite
from delf_jax.models.layers import ConvNorm, Linear
from delf_jax.models.resnet import LAYOUTS, Images, ResNet, Sizes
from delf_jax.ops import l2_normalize, masked_mean, valid_cells

Backbone = ResNet | EfficientNetLite | CompactNet
Map = Float[Array, "B h w C"]
Scores = Float[Array, "B h w"]


class Attention(nn.Module):
    """Which cells of a map matter: two 1x1 convolutions, softplus at the end."""

    width: int = 512
    layout: str = "v1.5"
    normalization: str = "batch"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Map, train: bool = False) -> Scores:
        settings = LAYOUTS[self.layout] | {"use_bias": self.layout != "slim"}
        conv1 = ConvNorm(
            self.width,
            normalization=self.normalization,
            axis_name=self.axis_name,
            name="conv1",
            **settings,
        )
        conv2 = ConvNorm(1, normalization="none", use_bias=True, name="conv2")
        return nn.softplus(conv2(nn.relu(conv1(x, train)))[..., 0])


def attend(
    targets: Map, attention: Scores, valid: Bool[Array, "B h w"] | None = None
) -> Float[Array, "B C"]:
    """Mean over cells of the normalised targets, weighted by attention."""
    return masked_mean(l2_normalize(targets) * attention[..., None], valid)


class Autoencoder(nn.Module):
    """Linear reduction of local features, and its rectified reconstruction."""

    reduced_dimension: int = 128

    @nn.compact
    def __call__(
        self, x: Map, expand: bool = True
    ) -> tuple[Float[Array, "B h w D"], Map | None]:
        """(reduced, expanded or None): only training needs to expand."""
        conv = partial(ConvNorm, normalization="none", use_bias=True)
        reduced = conv(self.reduced_dimension, name="reduce")(x)
        if not expand:
            return reduced, None
        return reduced, nn.relu(conv(x.shape[-1], name="expand")(reduced))


class LocalBranch(nn.Module):
    """Local features on block3: attention and reduced descriptors.

    No gradient reaches block3 from here: what localises would spoil what recognises
    [DELG] section 3.3.
    """

    attention_width: int
    reduced_dimension: int
    num_classes: int
    layout: str
    normalization: str
    axis_name: str | None

    @nn.compact
    def __call__(
        self, block3: Map, valid: Bool[Array, "B h w"] | None, train: bool
    ) -> dict[str, Array]:
        """descriptors, attention; to train also expanded and attention_logits.

        reduced_dimension 0: the descriptors are block3 itself.
        """
        block3 = jax.lax.stop_gradient(block3)
        # a frozen backbone does not freeze statistics of layers that are new to it
        normalization = "folded" if self.normalization == "folded" else "batch"
        attention = Attention(
            self.attention_width,
            self.layout,
            normalization,
            self.axis_name,
            name="attention",
        )(block3, train)
        learn = train or self.num_classes > 0
        outputs, targets = {"descriptors": block3, "attention": attention}, block3
        if self.reduced_dimension:
            autoencoder = Autoencoder(self.reduced_dimension, name="autoencoder")
            outputs["descriptors"], expanded = autoencoder(block3, expand=learn)
            if expanded is not None:
                outputs["expanded"] = targets = expanded
        if learn:
            outputs["attended"] = attend(targets, attention, valid)
        if self.num_classes:
            dense = Linear(self.num_classes, name="attention_classifier")
            outputs["attention_logits"] = dense(outputs["attended"])
        return outputs


def stage_valid(
    backbone: Backbone, stage: str, x: Map, sizes: Sizes | None
) -> Bool[Array, "B h w"]:
    """True for the cells of a stage that lie on the image."""
    if sizes is None:
        return jnp.ones(x.shape[:3], bool)
    cells = backbone.stage_sizes((sizes[:, 0], sizes[:, 1]))[stage]
    return valid_cells(x.shape[1:3], jnp.stack(cells, 1))


def local_outputs(
    net: nn.Module, block3: Map, sizes: Sizes | None, train: bool
) -> dict[str, Array]:
    """block3, its valid cells, and what a local branch of `net` makes of them."""
    valid = stage_valid(net.backbone, "block3", block3, sizes)
    local = LocalBranch(
        net.attention_width,
        net.reduced_dimension,
        net.num_classes,
        net.backbone.layout,
        net.backbone.normalization,
        net.backbone.axis_name,
        name="local",
    )
    return {"block3": block3, "valid": valid} | local(block3, valid, train)


class DELF(nn.Module):
    """Local features alone, trained through a softmax over the mean of block4."""

    backbone: Backbone
    attention_width: int = 512
    reduced_dimension: int = 0
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
        """block3, descriptors, attention, valid; with classes also their logits."""
        classify = global_branch and self.num_classes > 0
        last = "block4" if classify else "block3"
        stages = self.backbone(images, sizes, train=train, last=last)
        outputs = local_outputs(self, stages["block3"], sizes, train)
        if classify:
            cells = stage_valid(self.backbone, "block4", stages["block4"], sizes)
            classifier = Linear(self.num_classes, name="classifier")
            outputs["logits"] = classifier(masked_mean(stages["block4"], cells))
        return outputs
