import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models.resnet import ResNet, canvas_offset, canvas_side, stage_sizes

LAYOUTS = ("keras", "v1", "v1.5", "slim")


@functools.cache
def net(layout, **fields):
    """A small folded net and its random variables."""
    module = ResNet(26, 8, layout, "folded", **fields)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)

    def draw(x):
        fan = max(np.prod(x.shape[:-1]), 1)
        return rng.normal(0, np.sqrt(1 / fan), x.shape).astype(np.float32)

    return module, jax.tree.map(draw, shapes), jax.jit(module.apply)


def on_canvas(layout, images, side, batch):
    """Images on a batch of canvases, and their sizes."""
    canvas = np.zeros((batch, side, side, 3), np.float32)
    sizes = np.zeros((batch, 2), np.int32)
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        top, left = canvas_offset(layout, height), canvas_offset(layout, width)
        canvas[number, top : top + height, left : left + width] = image
        sizes[number] = height, width
    return canvas, sizes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block3_strides", [False, True])
def test_stage_sizes_are_those_of_the_net(layout, block3_strides):
    module = ResNet(26, 4, layout, block3_strides=block3_strides)
    for size in ((64, 65), (97, 33), (10, 131)):
        image = jnp.zeros((1, *size, 3))
        shapes = jax.eval_shape(module.init_with_output, jax.random.key(0), image)[0]
        found = {name: x.shape[1:3] for name, x in shapes.items()}
        assert found == stage_sizes(layout, size, block3_strides)


def test_strided_block3_leaves_block4_alone():
    image = jnp.zeros((1, 64, 64, 3))
    module = ResNet(18, 4, "keras", block3_strides=True)
    shapes = jax.eval_shape(module.init_with_output, jax.random.key(0), image)[0]
    assert shapes["block3"].shape[1:3] == (2, 2) == shapes["block4"].shape[1:3]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [1, 63, 64, 65, 1023, 1024])
def test_canvas_is_the_smallest_that_holds_an_image(layout, side):
    found = canvas_side(layout, side, 64)
    assert found % 64 == 0
    assert found - 64 < side + canvas_offset(layout, side) <= found


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        ("keras", {}),
        ("v1", {}),
        ("v1.5", {}),
        ("slim", {}),
        ("slim", {"block3_strides": True}),
        ("slim", {"block4_dilation": 2}),
    ],
)
def test_canvas_gives_the_bits_of_the_unpadded_image(layout, fields, rng):
    module, variables, apply = net(layout, **fields)
    images = [
        rng.normal(size=(*size, 3)).astype(np.float32)
        for size in ((51, 62), (90, 33), (96, 80))  # sides of every remainder by 4
    ]
    canvas, sizes = on_canvas(layout, images, 96, batch=4)
    canvas[3] = 9  # an empty place in the batch may hold anything
    padded = apply(variables, canvas, sizes)
    alone, alone_sizes = on_canvas(layout, images[:1], 128, batch=1)
    other = apply(variables, alone, alone_sizes)
    for number, image in enumerate(images):
        plain = apply(variables, image[None])
        for stage, x in plain.items():
            height, width = x.shape[1:3]
            np.testing.assert_array_equal(
                padded[stage][number, :height, :width], x[0], err_msg=stage
            )
            if number == 0:
                np.testing.assert_array_equal(other[stage][0, :height, :width], x[0])


def test_masks_are_needed(rng):
    """Without sizes, what is on the rest of the canvas does leak in."""
    module, variables, apply = net("v1.5")
    canvas, sizes = on_canvas("v1.5", [rng.normal(size=(51, 62, 3))], 64, batch=1)
    masked = apply(variables, canvas, sizes)["block3"][0, :4, :4]
    unmasked = apply(variables, canvas)["block3"][0, :4, :4]
    assert np.abs(masked - unmasked).max() > 1e-3


def test_training_of_batch_statistics_refuses_canvases():
    _, variables, _ = net("v1.5")
    module = ResNet(26, 8, "v1.5", "batch")
    with pytest.raises(ValueError, match="sizes"):
        module.apply(
            variables, jnp.zeros((1, 64, 64, 3)), jnp.ones((1, 2), int), train=True
        )


def test_a_dilated_block4_sees_what_a_strided_net_sees_there(rng):
    """Atrous convolution [Chen2017]: the same weights, the map four times as dense."""
    _, variables, strided = net("slim", block3_strides=True)
    dilated = net("slim", block4_dilation=2)[2]
    image = rng.normal(size=(1, 96, 65, 3)).astype(np.float32)
    coarse, fine = strided(variables, image), dilated(variables, image)
    np.testing.assert_allclose(fine["block3"][:, ::2, ::2], coarse["block3"], atol=1e-5)
    np.testing.assert_allclose(fine["block4"][:, ::2, ::2], coarse["block4"], atol=1e-5)


def test_slim_has_weights_in_the_first_shortcut_of_a_block_alone():
    _, variables, _ = net("slim")
    found = {name for name, unit in variables["params"].items() if "shortcut" in unit}
    assert found == {f"block{block}_unit1" for block in (1, 2, 3, 4)}
