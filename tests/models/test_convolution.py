from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from delf_jax.models import convolution
from delf_jax.models.convolution import (
    convolve,
    convolve_1x1,
    convolve_depthwise,
    max_pool_3x3,
    multiply_rows,
)

BORDER = ((1, 1), (1, 1))


def naive_convolution(x, kernel, stride, padding):
    x = np.pad(x, ((0, 0), *padding, (0, 0))).astype(np.float64)
    side = kernel.shape[0]
    height = (x.shape[1] - side) // stride + 1
    width = (x.shape[2] - side) // stride + 1
    y = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            window = x[:, top : top + side, left : left + side]
            y[:, row, column] = np.einsum("bklc,klcf->bf", window, kernel)
    return y


@pytest.mark.parametrize(
    ("shape", "side", "features", "stride"),
    [((2, 9, 6, 5), 3, 4, 2), ((1, 2, 1, 4), 3, 4, 1), ((1, 21, 18, 3), 7, 8, 2)],
)
def test_convolution_agrees_with_loops(rng, shape, side, features, stride):
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(side, side, shape[-1], features)).astype(np.float32)
    padding = ((side // 2, side // 2), (side // 2 - 1, side // 2))
    np.testing.assert_allclose(
        convolve(jnp.asarray(x), jnp.asarray(kernel), stride, padding),
        naive_convolution(x, kernel, stride, padding),
        atol=1e-4,
    )


def test_1x1_and_its_gradients_agree_with_einsum(rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 6, 4)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(1, 1, 4, 3)).astype(np.float32))

    def plain(x, kernel):
        return jnp.einsum("bhwc,cf->bhwf", x[:, ::2, ::2], kernel[0, 0])

    y, pull = jax.vjp(lambda x, k: convolve_1x1(x, k, 2), x, kernel)
    expected, expected_pull = jax.vjp(plain, x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(pull(y), expected_pull(y), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "features"), [(64, 24), (128, 512), (64, 1)])
def test_rows_multiply_to_the_same_bits_in_any_company(rng, channels, features):
    x = jnp.asarray(rng.normal(size=(300, channels)).astype(np.float32))
    w = jnp.asarray(rng.normal(size=(channels, features)).astype(np.float32))
    together = np.asarray(multiply_rows(x, w))
    for rows in (1, 30, 65):
        np.testing.assert_array_equal(multiply_rows(x[:rows], w), together[:rows])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_small_maps_convolve_to_the_same_bits_in_larger_ones(rng, side, stride):
    x = rng.normal(size=(1, side, side, 32)).astype(np.float32)
    larger = np.zeros((2, 24, 24, 32), np.float32)
    larger[:1, :side, :side] = x
    kernel = jnp.asarray(rng.normal(size=(3, 3, 32, 32)).astype(np.float32))
    alone = convolve(jnp.asarray(x), kernel, stride, BORDER)
    among = convolve(jnp.asarray(larger), kernel, stride, BORDER)
    cells = alone.shape[1]
    np.testing.assert_array_equal(alone[0], among[0, :cells, :cells])


def grouped_convolution(x, kernel, stride, padding):
    """XLA's own, of as many groups as channels."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize(
    ("side", "stride", "border", "size"),
    [
        (3, 1, (1, 1), (6, 5)),
        (3, 2, (1, 1), (6, 5)),
        (3, 2, (0, 1), (5, 6)),
        (3, 2, (0, 1), (6, 4)),
        (5, 1, (2, 2), (3, 4)),
        (5, 2, (2, 2), (6, 5)),
        (5, 2, (2, 2), (2, 1)),
    ],
)
def test_depthwise_convolutions_and_their_gradients_are_those_of_groups(
    rng, side, stride, border, size
):
    x = jnp.asarray(rng.normal(size=(2, *size, 3)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(side, side, 1, 3)).astype(np.float32))
    padding = (border, border)

    def with_gradients(convolution):
        def run(x, kernel, weights):
            y, pull = jax.vjp(lambda *a: convolution(*a, stride, padding), x, kernel)
            return y, pull(weights[:, : y.shape[1], : y.shape[2]])

        return jax.jit(run)(x, kernel, weights)

    weights = jnp.asarray(rng.normal(size=x.shape).astype(np.float32))
    y, (of_x, of_kernel) = with_gradients(convolve_depthwise)
    expected, (expected_x, expected_kernel) = with_gradients(grouped_convolution)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(of_x, expected_x, atol=1e-5)
    np.testing.assert_allclose(of_kernel, expected_kernel, atol=1e-4)


@pytest.mark.parametrize("side", [2, 5, 8])
def test_dilated_convolutions_are_those_of_the_kernel_with_holes(rng, side):
    x = jnp.asarray(rng.normal(size=(2, side, side, 8)).astype(np.float32))
    kernel = rng.normal(size=(3, 3, 8, 32)).astype(np.float32)
    holes = np.zeros((5, 5, 8, 32), np.float32)
    holes[::2, ::2] = kernel
    found = convolve(x, jnp.asarray(kernel), 1, ((2, 2), (2, 2)), dilation=2)
    expected = convolve(x, jnp.asarray(holes), 1, ((2, 2), (2, 2)))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "side", "features", "stride", "border", "dilation"),
    [
        ((2, 9, 7, 4), 3, 40, 1, (1, 1), 1),
        ((2, 40, 33, 8), 3, 8, 2, (1, 1), 1),
        ((1, 31, 30, 3), 7, 64, 2, (3, 3), 1),
        ((2, 21, 20, 6), 3, 40, 1, (2, 2), 2),
        ((2, 16, 16, 4), 3, 32, 2, (0, 1), 1),
        ((1, 9, 300, 4), 5, 4, 2, (2, 2), 1),
        ((3, 5, 5, 3), 3, 5, 1, (1, 1), 1),
    ],
)
def test_gradients_of_a_convolution_are_those_that_jax_derives(
    rng, shape, side, features, stride, border, dilation
):
    x = jnp.asarray(rng.normal(size=shape).astype(np.float32))
    kernel = rng.normal(size=(side, side, shape[-1], features)).astype(np.float32)
    settings = {"stride": stride, "padding": (border,) * 2, "dilation": dilation}

    def expected(x, kernel):
        return convolution._xla_convolution(x, kernel, **settings)

    y, pull = jax.vjp(partial(convolve, **settings), x, jnp.asarray(kernel))
    expected_y, expected_pull = jax.vjp(expected, x, jnp.asarray(kernel))
    np.testing.assert_allclose(y, expected_y, atol=1e-4)
    gradient = jnp.asarray(rng.normal(size=y.shape).astype(np.float32))
    for ours, theirs in zip(pull(gradient), expected_pull(gradient), strict=True):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)


def test_sums_of_many_cells_are_not_kept_in_bfloat16():
    # 300 cells at a time: with eight digits, the sums on the way would be rounded.
    x, kernel = jnp.ones((1, 64, 60, 4), jnp.bfloat16), jnp.ones((3, 3, 4, 32))
    of_kernel = jax.grad(lambda k: convolve(x, k, 1, BORDER).sum().astype(k.dtype))
    found = of_kernel(kernel.astype(jnp.bfloat16))
    np.testing.assert_array_equal(found[1, 1], 64.0 * 60)


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 1)])
def test_max_pool_agrees_with_reduce_window(rng, padding):
    x = jnp.asarray(rng.normal(size=(2, 10, 7, 3)).astype(np.float32)) - 5
    expected = lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        ((0, 0), padding, padding, (0, 0)),
    )
    np.testing.assert_array_equal(max_pool_3x3(x, (padding, padding)), expected)


def test_max_pool_without_padding_of_a_tiny_map_is_empty():
    assert max_pool_3x3(jnp.ones((1, 2, 5, 3)), ((0, 0), (0, 0))).shape == (1, 0, 2, 3)


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_each_channel_is_learned_the_same_way_on_every_platform(rng, side, stride):
    x = jnp.asarray(rng.normal(size=(2, 9, 8, 4)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(side, side, 1, 4)).astype(np.float32))
    padding = ((side // 2, side // 2), (0, side - 1))

    def here(x, kernel):
        return convolve_depthwise(x, kernel, stride, padding)

    def elsewhere(x, kernel):
        return convolution._grouped(x, kernel, stride, padding)

    y, pull = jax.vjp(here, x, kernel)
    expected, expected_pull = jax.vjp(elsewhere, x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(pull(y), expected_pull(y), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 3)])
def test_accelerators_learn_channels_by_convolutions(platform, convolutions):
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4))

    def energy(x, kernel):
        return (convolve_depthwise(x, kernel, 1, BORDER) ** 2).sum()

    learned = jax.jit(jax.grad(energy, (0, 1))).trace(x, kernel)
    text = learned.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions
