"""Convolutions and pooling, each in the form that runs fastest on a CPU.

What learns each channel by itself has a form for accelerators besides.

XLA's CPU kernels sum in another order when an array is tiny, so tiny ones are padded up
to a size from where the order is fixed: an image then gives the same bits alone, in any
batch and on any canvas.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]

# measured with jaxlib 0.10 and 0.12: from here on, the order of the sums is fixed
_ROWS, _COLUMNS, _SIDE, _FEATURES = 64, 16, 4, 32
# Cells of a map whose patches are gathered at once.
_CELLS = 256


def convolve_1x1(
    x: Float[Array, "B H W C"], kernel: Float[Array, "1 1 C F"], stride: int = 1
) -> Float[Array, "B h w F"]:
    """A 1x1 convolution as one matrix product: a third faster than as a convolution."""
    return multiply_rows(x[:, ::stride, ::stride], kernel[0, 0])


def multiply_rows(
    x: Float[Array, "*rows C"], w: Float[Array, "C F"]
) -> Float[Array, "*rows F"]:
    """x @ w; a row's result does not depend on how many others there are."""
    rows = x.reshape(-1, x.shape[-1])
    missing = _missing(_ROWS, rows.shape[0])
    columns = max(_COLUMNS - w.shape[1], 0)
    padded = jnp.pad(w, ((0, 0), (0, columns))) if columns else w
    y = _product(jnp.pad(rows, ((0, missing), (0, 0))) if missing else rows, padded)
    return y[: rows.shape[0], : w.shape[1]].reshape(*x.shape[:-1], w.shape[1])


@jax.custom_vjp
def _product(x: Float[Array, "N C"], w: Float[Array, "C F"]) -> Float[Array, "N F"]:
    return x @ w


def _product_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ w, (x, w)


def _product_backward(
    saved: tuple[Array, Array], gradient: Float[Array, "N F"]
) -> tuple[Array, Array]:
    """The usual gradients, but of a gradient that exists in memory.

    XLA transposes it for the kernel's gradient; fused with what computes it, that copy
    writes column by column and took most of a training step on CPU.
    """
    x, w = saved
    gradient, x = lax.optimization_barrier((gradient, x))
    return gradient @ w.T, x.T @ gradient


_product.defvjp(_product_forward, _product_backward)


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "K K C F"],
    stride: int,
    padding: Padding,
    dilation: int = 1,
) -> Float[Array, "B h w F"]:
    """The plain convolution with explicit padding; dilated, its taps lie apart."""
    extent = (kernel.shape[0] - 1) * dilation + 1
    height, width = (
        (side + sum(border) - extent) // stride + 1
        for side, border in zip(x.shape[1:3], padding, strict=True)
    )
    sides = [_missing(_SIDE, side) for side in x.shape[1:3]]
    cells, count = height * width, x.shape[0]
    images = _missing(_ROWS, cells) and _missing(-(-_ROWS // max(cells, 1)), count)
    # XLA's CPU convolution of 3 channels to 32 is four times slower than of 4 to 32
    channels = int(x.shape[-1] == 3 and kernel.shape[-1] <= 32)
    x = jnp.pad(x, ((0, images), (0, sides[0]), (0, sides[1]), (0, channels)))
    few = kernel.shape[-1]
    widths = ((0, 0), (0, 0), (0, channels), (0, max(_FEATURES - few, 0)))
    kernel = jnp.pad(kernel, widths)
    y = _convolution(x, kernel, stride, padding, dilation)
    return y[:count, :height, :width, :few]


def _xla_convolution(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "K K C F"],
    stride: int,
    padding: Padding,
    dilation: int,
) -> Float[Array, "B h w F"]:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


# The gradient of the kernel that XLA derives takes a CPU up to six times as long.
_convolution = jax.custom_vjp(_xla_convolution, nondiff_argnums=(2, 3, 4))


def _convolution_forward(
    x: Array, kernel: Array, stride: int, padding: Padding, dilation: int
) -> tuple[Array, tuple[Array, Array]]:
    return _xla_convolution(x, kernel, stride, padding, dilation), (x, kernel)


def _convolution_backward(
    stride: int,
    padding: Padding,
    dilation: int,
    saved: tuple[Array, Array],
    gradient: Float[Array, "B h w F"],
) -> tuple[Array, Array]:
    x, kernel = saved
    settings: Any = {"stride": stride, "padding": padding, "dilation": dilation}
    convolution: Any = partial(_xla_convolution, **settings)
    (of_x,) = jax.vjp(lambda x: convolution(x, kernel), x)[1](gradient)
    of_kernel = lax.platform_dependent(
        x,
        kernel,
        gradient,
        cpu=partial(_gathered_gradient, **settings),
        default=partial(_derived_gradient, **settings),
    )
    return of_x, of_kernel


def _derived_gradient(
    x: Array, kernel: Array, gradient: Array, **settings: Any
) -> Float[Array, "K K C F"]:
    """The kernel's, as XLA derives it."""
    convolution: Any = partial(_xla_convolution, **settings)
    return jax.vjp(lambda kernel: convolution(x, kernel), kernel)[1](gradient)[0]


def _gathered_gradient(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "K K C F"],
    gradient: Float[Array, "B h w F"],
    stride: int,
    padding: Padding,
    dilation: int,
) -> Float[Array, "K K C F"]:
    """The same: what all taps see of a few rows at a time, multiplied by the gradient.

    So much stays in the cache of a core.
    """
    side, channels = kernel.shape[0], x.shape[-1]
    count, height, width, features = gradient.shape
    blocks = -(-height * width // _CELLS)
    rows = -(-height // blocks)
    blocks = -(-height // rows)
    missing = blocks * rows - height
    gradient = jnp.pad(gradient, ((0, 0), (0, missing), (0, 0), (0, 0)))
    (above, below), sides = padding
    x = jnp.pad(x, ((0, 0), (above, below + missing * stride), sides, (0, 0)))
    x, gradient = lax.optimization_barrier((x, gradient))
    seen_rows = (rows - 1) * stride + (side - 1) * dilation + 1
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32

    def add(block: Array, total: Array) -> Array:
        image, row = block // blocks, block % blocks * rows
        start, sizes = (image, row * stride, 0, 0), (1, seen_rows, *x.shape[2:])
        seen = lax.dynamic_slice(x, start, sizes)[0]
        start, sizes = (image, row, 0, 0), (1, rows, width, features)
        cells = lax.dynamic_slice(gradient, start, sizes).reshape(-1, features)
        taps = []
        for tap in range(side * side):
            first, second = (place * dilation for place in divmod(tap, side))
            of_rows = _tap(seen, first, rows, stride, axis=0)
            taps.append(_tap(of_rows, second, width, stride, axis=1))
        patches = jnp.concatenate(taps, -1).reshape(rows * width, -1)
        patches = lax.optimization_barrier(patches)
        return total + jnp.matmul(patches.T, cells, preferred_element_type=wide)

    zeros = jnp.zeros((side * side * channels, features), wide)
    total = lax.fori_loop(0, count * blocks, add, zeros)
    return total.reshape(kernel.shape).astype(kernel.dtype)


_convolution.defvjp(_convolution_forward, _convolution_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_depthwise(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "K K 1 C"],
    stride: int,
    padding: Padding,
) -> Float[Array, "B h w C"]:
    """Each channel convolved by itself: a sum of shifted copies, tap by tap.

    10 to 30 times as fast on a CPU as XLA's convolution of as many groups as channels,
    which a training takes on other platforms. Without a gradient the sum is taken on
    all, so that exports have no branches.
    """
    return _shifted_sum(x, kernel, stride, padding)


def _shifted_sum(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "K K 1 C"],
    stride: int,
    padding: Padding,
) -> Float[Array, "B h w C"]:
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    x = lax.optimization_barrier(x)  # padded once, not again for each tap
    side = kernel.shape[0]
    height, width = ((length - side) // stride + 1 for length in x.shape[1:3])
    total: Any = 0
    for row in range(side):
        rows = _tap(x, row, height, stride, axis=1)
        for column in range(side):
            weights = kernel[row, column, 0][None, None, None]
            total = total + _tap(rows, column, width, stride, axis=2) * weights
    return total


def _depthwise_forward(
    x: Array, kernel: Array, stride: int, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    settings: Any = {"stride": stride, "padding": padding}
    y = lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_shifted_sum, **settings),
        default=partial(_grouped, **settings),
    )
    return y, (x, kernel)


def _grouped(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "K K 1 C"],
    stride: int,
    padding: Padding,
) -> Float[Array, "B h w C"]:
    """The same as XLA's convolution, for accelerators."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        feature_group_count=x.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _depthwise_backward(
    stride: int,
    padding: Padding,
    saved: tuple[Array, Array],
    gradient: Float[Array, "B h w C"],
) -> tuple[Array, Array]:
    settings: Any = {"stride": stride, "padding": padding}
    return lax.platform_dependent(
        *saved,
        gradient,
        cpu=partial(_shifted_gradients, **settings),
        default=partial(_grouped_gradients, **settings),
    )


def _grouped_gradients(
    x: Array, kernel: Array, gradient: Array, stride: int, padding: Padding
) -> tuple[Array, Array]:
    """Both as XLA derives them."""
    convolution = partial(_grouped, stride=stride, padding=padding)
    of_x, of_kernel = jax.vjp(convolution, x, kernel)[1](gradient)
    return of_x, of_kernel


def _shifted_gradients(
    x: Array, kernel: Array, gradient: Array, stride: int, padding: Padding
) -> tuple[Array, Array]:
    """Both as sums of shifted copies: on a CPU six times as fast as XLA's own."""
    side = kernel.shape[0]
    gradient = lax.optimization_barrier(gradient)
    widths = [(0, 0, 0)]
    for axis, (before, _) in zip((1, 2), padding, strict=True):
        covered = (gradient.shape[axis] - 1) * stride + 1
        after = x.shape[axis] + before - covered
        widths.append((side - 1 - before, after, stride - 1))
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), [*widths, (0, 0, 0)])
    of_x = _shifted_sum(spread, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    return of_x, _depthwise_kernel_gradient(padded, gradient, side, stride)


def _depthwise_kernel_gradient(
    x: Float[Array, "B H W C"],
    gradient: Float[Array, "B h w C"],
    side: int,
    stride: int,
) -> Float[Array, "K K 1 C"]:
    """Image by image and row by row: one sum over all cells is ten times as slow."""
    _, height, width, channels = gradient.shape

    def add(sums: list[Array], image: tuple[Array, Array]) -> tuple[list[Array], None]:
        padded, rows = image
        products = []
        for tap in range(side * side):
            seen = _tap(padded, tap // side, height, stride, axis=0)
            seen = _tap(seen, tap % side, width, stride, axis=1)
            products.append(sum(seen[i] * rows[i] for i in range(height)))
        return [one + other for one, other in zip(sums, products, strict=True)], None

    nothing = [jnp.zeros((width, channels), x.dtype)] * (side * side)
    sums, _ = lax.scan(add, nothing, (x, gradient))
    return jnp.stack(sums).sum(1).reshape(side, side, 1, channels)


def _tap(x: Array, first: int, count: Any, stride: int, axis: int) -> Array:
    """Every stride-th of an axis from `first` on."""
    end = first + stride * (count - 1) + 1
    return lax.slice_in_dim(x, first, end, stride=stride, axis=axis)


convolve_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _missing(least: int, count: Any) -> int:
    """How many lack to `least`; 0 if the count is symbolic, as in an exported model.

    An export is to give the same numbers, not the same bits.
    """
    return max(least - count, 0) if isinstance(count, int) else 0


def max_pool_3x3(
    x: Float[Array, "B H W C"], padding: Padding
) -> Float[Array, "B h w C"]:
    """Maxima of 3x3 windows, stride 2; the padding never wins.

    Three strided slices along each axis: four times faster than `reduce_window`.
    """
    for axis, border in zip((1, 2), padding, strict=True):
        widths = [(0, 0, 0)] * 4
        widths[axis] = (*border, 0)
        x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), widths)
        cells = max((x.shape[axis] - 3) // 2 + 1, 0)
        first, second, third = (
            lax.slice_in_dim(x, tap, max(tap + 2 * cells - 1, tap), stride=2, axis=axis)
            for tap in range(3)
        )
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x
