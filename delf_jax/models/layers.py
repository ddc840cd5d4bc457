"""The layers that all is built of: convolution, then batch normalisation; a pool."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from delf_jax.models.convolution import (
    Padding,
    convolve,
    convolve_1x1,
    convolve_depthwise,
    max_pool_3x3,
    multiply_rows,
)


class ConvNorm(nn.Module):
    """A convolution and its batch normalisation, without activation.

    One scope holds both (kernel, bias, scale, offset; statistics mean and var), so that
    folding the one into the other needs no table of names.

    normalization: "batch" trains it; "frozen" uses the running statistics and gives its
    parameters no gradient; "folded" has none, for the kernel and the bias contain it;
    "none" never had one.
    depthwise: every channel has a kernel of its own; `features` are as many as there.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    padding: Padding | None = None
    dilation: int = 1
    depthwise: bool = False
    normalization: str = "batch"
    use_bias: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool = False
    ) -> Float[Array, "B h w F"]:
        side, dilation = self.kernel_size, self.dilation
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (side, side, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(x.dtype)
        padding = self.padding or ((dilation * (side // 2),) * 2,) * 2
        if self.depthwise:
            x = convolve_depthwise(x, kernel, self.stride, padding)
        elif side == 1:
            x = convolve_1x1(x, kernel, self.stride)
        else:
            x = convolve(x, kernel, self.stride, padding, dilation)
        bias = None
        if self.use_bias or self.normalization == "folded":
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # statistics of the batch take out again what a bias adds to all cells
        cancels = train and self.normalization == "batch"
        if bias is not None and not cancels:
            x = x + bias[None, None, None].astype(x.dtype)
        if self.normalization in ("folded", "none"):
            return x
        return self._normalize(x, train, bias)

    def _normalize(
        self, x: Float[Array, "B H W C"], train: bool, bias: Float[Array, "C"] | None
    ) -> Float[Array, "B H W C"]:
        """bias: the layer's, which x lacks if it is normalised by its own mean."""
        shape, dtype = x.shape[-1:], x.dtype
        # statistics of bfloat16 maps would lose all but three digits
        x = x.astype(jnp.float32 if dtype == jnp.bfloat16 else dtype)
        scale = self.param("scale", self.scale_init, shape)
        offset = self.param("offset", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        if train and self.normalization == "batch":
            used_mean, used_var, count = batch_statistics(x, self.axis_name)
            if not self.is_initializing():
                keep = self.momentum
                # unbiased in the running estimate alone, as TensorFlow and PyTorch do
                unbiased = used_var * (count / max(count - 1, 1))
                of_all = used_mean if bias is None else used_mean + bias
                mean.value = keep * mean.value + (1 - keep) * of_all
                var.value = keep * var.value + (1 - keep) * unbiased
        else:
            used_mean, used_var = mean.value, var.value
        if self.normalization == "frozen":
            scale, offset = jax.lax.stop_gradient((scale, offset))
        factor = scale * jax.lax.rsqrt(used_var + self.epsilon)
        shift = offset - used_mean * factor
        return (x * factor[None, None, None] + shift[None, None, None]).astype(dtype)


class MaxPool(nn.Module):
    """Maxima of 3x3 windows, stride 2; the padding never wins."""

    padding: Padding

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return max_pool_3x3(x, self.padding)


class Linear(nn.Module):
    """x @ kernel + bias, of each row to the same bits in any batch."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B C"]) -> Float[Array, "B F"]:
        init = nn.initializers.glorot_uniform()
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return multiply_rows(x, kernel) + bias[None]


def batch_statistics(
    x: Float[Array, "B H W C"], axis_name: str | None
) -> tuple[Float[Array, "C"], Float[Array, "C"], int]:
    """(mean, biased variance, count) over batch and cells of all devices."""
    mean, square = jnp.mean(x, (0, 1, 2)), jnp.mean(jnp.square(x), (0, 1, 2))
    count = x.shape[0] * x.shape[1] * x.shape[2]
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
        count *= jax.lax.axis_size(axis_name)
    return mean, jnp.maximum(square - jnp.square(mean), 0), count
