"""One global descriptor of an image: a backbone, pooled, whitened, classified."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from delf_jax.models.delf import Backbone, Images, Sizes, stage_valid
from delf_jax.models.layers import Linear
from delf_jax.models.pooling import UNCHANGED, GeMChanges, changed_gem, mac, spoc
from delf_jax.ops import l2_normalize


class CosineClassifier(nn.Module):
    """Cosines of descriptors with the nearest learned direction of each class.

    axis_name: of devices that hold the classes in pieces: the kernel is this device's,
    of ceil(num_classes / devices) classes, and the cosines are those of the examples of
    all devices with these. compute_dtype "bfloat16": of the product, not of its sums.
    """

    num_classes: int
    centers: int = 1
    axis_name: str | None = None
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "_B _C"]:
        classes = self.num_classes
        if self.axis_name is not None:
            x = jax.lax.all_gather(x, self.axis_name, tiled=True)
            classes = -(-classes // jax.lax.axis_size(self.axis_name))
        shape = (x.shape[-1], classes * self.centers)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        rows, columns = l2_normalize(x), l2_normalize(kernel, axis=0)
        wide = jnp.float64 if rows.dtype == jnp.float64 else jnp.float32
        if self.compute_dtype != "float32":
            dtype = jnp.dtype(self.compute_dtype)
            rows, columns = rows.astype(dtype), columns.astype(dtype)
        cosines = jnp.matmul(rows, columns, preferred_element_type=wide)
        return nearest_centers(cosines, self.centers)


def nearest_centers(cosines: Float[Array, "B K"], centers: int) -> Float[Array, "B C"]:
    """The cosine with the nearest of the `centers` of each class [Deng2020].

    Centres of a class are neighbouring columns. Only the nearest gets a gradient: noise
    gathers around the others.
    """
    if centers == 1:
        return cosines
    return cosines.reshape(cosines.shape[0], -1, centers).max(-1)


class GlobalNet(nn.Module):
    """A model without local features: [GLDv2]'s baseline, or an ImageNet backbone.

    pooling: "gem", "spoc" or "mac". global_dimension 0: the pooled map is not whitened.
    num_classes 0: a model to extract with. The last three: see `CosineClassifier`.
    """

    backbone: Backbone
    pooling: str = "gem"
    gem_power: float = 3.0
    learn_power: bool = False
    global_dimension: int = 2048
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
        changes: GeMChanges = UNCHANGED,
    ) -> dict[str, Array]:
        """block3, global_descriptor (not normalised); with classes also cosines."""
        stages = self.backbone(images, sizes, train=train)
        outputs = {"block3": stages["block3"]}
        return outputs | global_outputs(
            self, stages["block4"], sizes, self.pooling, changes
        )


def global_outputs(
    net: nn.Module,
    block4: Float[Array, "B h w C"],
    sizes: Sizes | None,
    pooling: str,
    changes: GeMChanges,
) -> dict[str, Array]:
    """Pooled, whitened, and compared with the classes, by layers of `net`."""
    mask = stage_valid(net.backbone, "block4", block4, sizes)
    if pooling == "gem":
        power = net.gem_power
        if net.learn_power:
            power = net.param("gem_power", nn.initializers.constant(power), ())
        x = changed_gem(block4, power, mask, changes)
    else:
        x = {"mac": mac, "spoc": spoc}[pooling](block4, mask)
    if net.global_dimension:
        x = Linear(net.global_dimension, name="whitening")(x)
    outputs = {"global_descriptor": x}
    if net.num_classes:
        classifier = CosineClassifier(
            net.num_classes,
            net.centers,
            net.classifier_axis,
            net.classifier_dtype,
            name="classifier",
        )
        outputs["cosines"] = classifier(x)
    return outputs
