import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from delf_jax.conversion.layers import to_our_axes
from delf_jax.conversion.names import lite_name
from delf_jax.models.architecture import build, expected_shapes, fold_batch_norm
from tests.helpers import naive_lite

ARCHITECTURE = {
    "name": "global",
    "backbone": "efficientnet_lite2",
    "global_dimension": 0,
}


@pytest.fixture(scope="module")
def weights():
    return naive_lite.random_weights(np.random.default_rng(0))


@pytest.fixture(scope="module")
def folded(weights):
    """(module, variables) of the network with these weights."""
    named = {lite_name(name): (name, x) for name, x in weights.items()}
    flat = {
        ours: to_our_axes(ours, x, pytorch=True)
        for ours, (_, x) in named.items()
        if "classifier" not in ours
    }
    module = build(ARCHITECTURE)
    assert {name: x.shape for name, x in flat.items()} == expected_shapes(module)
    return fold_batch_norm(module, unflatten_dict(flat, sep="/"))


def stages(folded, images, sizes=None):
    module, variables = folded
    backbone = {"params": variables["params"]["backbone"]}
    return jax.jit(module.backbone.apply)(backbone, images, sizes)


@pytest.mark.parametrize("size", [(64, 96), (61, 75), (90, 62)])
def test_maps_are_those_of_a_naive_network(folded, weights, rng, size):
    image = rng.normal(size=(*size, 3)).astype(np.float32)
    found = stages(folded, image[None])
    expected = naive_lite.forward(weights, image)
    sizes = folded[0].backbone.stage_sizes(size)
    for name, stage in expected.items():
        assert stage.shape == (*sizes[name], folded[0].backbone.channels(name))
        scale = np.abs(stage).max()
        np.testing.assert_allclose(found[name][0], stage, atol=2e-5 * scale)


def test_a_canvas_gives_what_the_image_alone_gives(folded, rng):
    size = (61, 74)
    image = rng.normal(size=(*size, 3)).astype(np.float32)
    canvas = np.zeros((2, 96, 96, 3), np.float32)
    canvas[:, : size[0], : size[1]] = image
    found = stages(folded, canvas, np.int32([size, size]))
    alone = stages(folded, image[None])
    for name, (height, width) in folded[0].backbone.stage_sizes(size).items():
        inside = found[name][:, :height, :width]
        np.testing.assert_array_equal(inside[0], inside[1])
        np.testing.assert_allclose(inside[0], alone[name][0], atol=1e-5)


def test_only_a_global_model_has_this_backbone():
    with pytest.raises(ValueError, match="delg has no efficientnet_lite2; use global"):
        build({**ARCHITECTURE, "name": "delg"})
    with pytest.raises(ValueError, match="architecture.backbone is 'vgg'"):
        build({**ARCHITECTURE, "backbone": "vgg"})
    with pytest.raises(ValueError, match="depth"):
        build({**ARCHITECTURE, "depth": 50})
