"""One global descriptor of an image: a backbone, pooled, whitened, classified."""

from flax import linen as nn
from jaxtyping import Array, Float, Int

from delf_jax.models import pooling as pool
from delf_jax.models.delf import stage_valid
from delf_jax.models.layers import Linear
from delf_jax.models.resnet import ResNet
from delf_jax.ops import l2_normalize

Images = Float[Array, "B H W 3"]
Sizes = Int[Array, "B 2"]


class CosineClassifier(nn.Module):
    """Cosines of descriptors with one learned direction per class, without margin."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        shape = (x.shape[-1], self.num_classes)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        return l2_normalize(x) @ l2_normalize(kernel, axis=0)


class GlobalNet(nn.Module):
    """A model without local features: [GLDv2]'s baseline, or an ImageNet backbone.

    pooling: "gem", "spoc" or "mac". global_dimension 0: the pooled map is not whitened.
    num_classes 0: a model to extract with.
    """

    backbone: ResNet
    pooling: str = "gem"
    gem_power: float = 3.0
    learn_power: bool = False
    global_dimension: int = 2048
    num_classes: int = 0

    @nn.compact
    def __call__(
        self, images: Images, sizes: Sizes | None = None, *, train: bool = False
    ) -> dict[str, Array]:
        """block3, global_descriptor (not normalised); with classes also cosines."""
        stages = self.backbone(images, sizes, train=train)
        outputs = {"block3": stages["block3"]}
        return outputs | global_outputs(self, stages["block4"], sizes, self.pooling)


def global_outputs(
    net: nn.Module, block4: Float[Array, "B h w C"], sizes: Sizes | None, pooling: str
) -> dict[str, Array]:
    """Pooled, whitened, and compared with the classes, by layers of `net`."""
    mask = stage_valid(net.backbone, "block4", block4, sizes)
    if pooling == "gem":
        power = net.gem_power
        if net.learn_power:
            power = net.param("gem_power", nn.initializers.constant(power), ())
        x = pool.gem(block4, power, mask)
    else:
        x = {"mac": pool.mac, "spoc": pool.spoc}[pooling](block4, mask)
    if net.global_dimension:
        x = Linear(net.global_dimension, name="whitening")(x)
    outputs = {"global_descriptor": x}
    if net.num_classes:
        classifier = CosineClassifier(net.num_classes, name="classifier")
        outputs["cosines"] = classifier(x)
    return outputs
