import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models.receptive_field import (
    RELEASED_BLOCK3,
    block3_cells,
    receptive_field,
)
from delf_jax.models.resnet import ResNet, stage_sizes


@pytest.mark.parametrize("side", [640, 641])
def test_keras_resnet50_has_the_measured_fields(side):
    """[delf_spec 5.1]: sizes and strides, and centres by pixel impulses."""
    expected = {
        "block0": (7, 2),
        "block0mp": (11, 4),
        "block1": (35, 4),
        "block2": (99, 8),
        "block3": (291, 16),
        "block4": (483, 32),
    }
    for stage, field in expected.items():
        assert receptive_field(50, "keras", stage, side)[:2] == field
    offset = 3 if side % 2 == 0 else 2
    for stage in ("block2", "block3", "block4"):
        assert receptive_field(50, "keras", stage, side).offset == offset
    strided = receptive_field(50, "keras", "block3", side, block3_strides=True)
    assert strided == (291, 32, offset)


def test_slim_resnet50_has_the_fields_of_the_tensorflow_1_models():
    """[delf_spec 5.1]: size and stride; centres by padding half a field, or 2 off."""
    for side, offset in ((641, 0), (642, 0), (643, 2), (644, 2)):
        found = receptive_field(50, "slim", "block3", side, block3_strides=True)
        assert found == (291, 32, offset)
        found = receptive_field(50, "slim", "block4", side, block3_strides=True)
        assert found == (483, 32, offset)
    assert receptive_field(50, "slim", "block3", 641)[:2] == (291, 16)
    assert receptive_field(50, "slim", "block4", 641, block4_dilation=2)[:2] == (
        483,
        16,
    )


def test_released_constants_are_the_documented_ones():
    assert RELEASED_BLOCK3 == (291, 16, 0)


@pytest.mark.parametrize(
    ("depth", "layout", "stage", "fields", "size"),
    [
        (18, "v1.5", "block3", {}, (223, 224)),
        (26, "v1.5", "block3", {}, (223, 224)),
        (26, "keras", "block3", {}, (223, 224)),
        (26, "v1", "block3", {}, (223, 224)),
        (26, "v1.5", "block2", {}, (223, 224)),
        (26, "keras", "block2", {}, (223, 224)),
        (26, "slim", "block2", {}, (223, 224)),
        (26, "slim", "block3", {}, (223, 226)),
        (26, "slim", "block3", {"block3_strides": True}, (225, 224)),
        (26, "slim", "block4", {"block4_dilation": 2}, (385, 388)),
    ],
)
def test_field_is_the_support_of_the_gradient(depth, layout, stage, fields, size):
    module = ResNet(depth, 2, layout, "folded", **fields)
    images = jax.random.uniform(jax.random.key(1), (6, *size, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    # positive everywhere, so that no relu hides an input
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.1), shapes)
    strides = fields.get("block3_strides", False)
    cell = [side // 2 for side in stage_sizes(layout, size, strides)[stage]]

    def value(images):
        x = module.apply(variables, images, last=stage)[stage]
        return jnp.sum(x[:, cell[0], cell[1]])

    # the pool passes one pixel of nine: which one differs between the images
    seen = np.asarray(jax.jit(jax.grad(value))(images)).any((0, 3))
    for axis, side in enumerate(size):
        field = receptive_field(depth, layout, stage, side, **fields)
        centre = field.offset + field.stride * cell[axis]
        first, last = np.flatnonzero(seen.any(1 - axis))[[0, -1]]
        assert first >= 0 and last < side
        assert (first, last) == (centre - field.size // 2, centre + field.size // 2)


@pytest.mark.parametrize("layout", ["keras", "v1.5", "slim"])
@pytest.mark.parametrize("released", [False, True])
def test_cells_lie_where_their_fields_do_in_numpy_and_under_jit(layout, released):
    backbone = ResNet(26, 2, layout, block3_strides=layout == "slim")
    cells = np.argwhere(np.ones((3, 4))).astype(np.float64)
    level, image = np.array([97.0, 130.0]), np.array([139.0, 184.0])
    scale = 0.7071 if released else None
    expected = block3_cells(
        backbone, cells, level, image, sampled_at=0.5, released_scale=scale
    )
    vertical = receptive_field(26, layout, "block3", 97, layout == "slim")
    if not released:
        ratio = 139 / 97
        centres = (cells[:, 0] * vertical.stride + vertical.offset + 0.5) * ratio - 0.5
        np.testing.assert_array_equal(expected[0][:, 0], centres)
        assert expected[2] == np.sqrt(ratio * (184 / 130))
    else:
        np.testing.assert_array_equal(
            expected[0], cells * vertical.stride / np.float64(0.7071)
        )
        assert expected[1:] == (145 / 0.7071, 1 / 0.7071)

    @jax.jit
    def compiled(*arrays):
        return block3_cells(backbone, *arrays, sampled_at=0.5, released_scale=scale)

    found = compiled(*(jnp.asarray(x, jnp.float32) for x in (cells, level, image)))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-6)
