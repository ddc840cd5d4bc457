import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models.architecture import fold_batch_norm
from delf_jax.models.delg import DELG
from delf_jax.models.global_net import CosineClassifier, GlobalNet, nearest_centers
from delf_jax.models.resnet import ResNet

BACKBONE = ResNet(18, 4, "v1.5", "folded")
IMAGES = jax.random.normal(jax.random.key(1), (2, 64, 48, 3))


def run(model, images=IMAGES, sizes=None):
    """(outputs, variables) of the model with random weights."""
    init = jax.jit(model.init_with_output)
    outputs, variables = init(jax.random.key(0), images)
    if sizes is not None:
        outputs = jax.jit(model.apply)(variables, images, sizes)
    return outputs, variables


@pytest.mark.parametrize("pooling", ["mac", "spoc", "gem"])
def test_without_whitening_the_descriptor_is_the_pooled_map(pooling):
    model = GlobalNet(BACKBONE, pooling, gem_power=4.0, global_dimension=0)
    outputs, variables = run(model)
    assert set(outputs) == {"block3", "global_descriptor"}
    assert set(variables["params"]) == {"backbone"}
    stages = jax.jit(BACKBONE.apply)(
        {"params": variables["params"]["backbone"]}, IMAGES
    )
    x = np.asarray(stages["block4"], np.float64)
    expected = {
        "mac": x.max((1, 2)),
        "spoc": x.mean((1, 2)),
        "gem": (np.maximum(x, 1e-6) ** 4).mean((1, 2)) ** 0.25,
    }[pooling]
    np.testing.assert_allclose(outputs["global_descriptor"], expected, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mac", "spoc", "gem"])
def test_the_rest_of_a_canvas_is_not_pooled(pooling):
    model = GlobalNet(BACKBONE, pooling, global_dimension=6)
    _, variables = run(model)
    canvas = np.full((2, 64, 64, 3), 9, np.float32)
    canvas[:, :40, :33] = IMAGES[:, :40, :33]
    canvas[:, 40:], canvas[:, :, 33:] = 0, 0
    apply, sizes = jax.jit(model.apply), np.array([[40, 33]] * 2, np.int32)
    found = apply(variables, canvas, sizes)["global_descriptor"]
    plain = apply(variables, IMAGES[:, :40, :33])["global_descriptor"]
    np.testing.assert_array_equal(found, plain)


def test_power_is_a_parameter_only_where_it_is_learned():
    def names(**fields):
        model = GlobalNet(BACKBONE, global_dimension=6, **fields)
        shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
        return set(shapes["params"])

    assert names() == {"backbone", "whitening"}
    assert names(learn_power=True) == {"backbone", "whitening", "gem_power"}
    assert names(learn_power=True, pooling="mac") == {"backbone", "whitening"}
    assert names(num_classes=3) == {"backbone", "whitening", "classifier"}


def test_delg_describes_an_image_with_the_same_branch():
    delg = DELG(BACKBONE, 8, 6, global_dimension=10, num_classes=3)
    outputs, variables = run(delg)
    params = {name: x for name, x in variables["params"].items() if name != "local"}
    alone = GlobalNet(BACKBONE, global_dimension=10, num_classes=3)
    same = jax.jit(alone.apply)({"params": params}, IMAGES)
    for name in ("global_descriptor", "cosines"):
        np.testing.assert_allclose(outputs[name], same[name], rtol=1e-5)


def test_cosines_are_those_of_rows_and_directions(rng):
    x = jnp.asarray(rng.normal(size=(2, 5)).astype(np.float32))
    kernel = rng.normal(size=(5, 4)).astype(np.float32)
    found = CosineClassifier(4).apply({"params": {"kernel": kernel}}, x)
    rows = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = rows @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_nearest_of_several_centers_of_a_class_counts(rng):
    cosines = rng.normal(size=(3, 12)).astype(np.float32)
    found = nearest_centers(jnp.asarray(cosines), 4)
    np.testing.assert_array_equal(found, cosines.reshape(3, 3, 4).max(-1))
    slope = jax.grad(lambda x: nearest_centers(x, 4).sum())(jnp.asarray(cosines))
    assert (np.asarray(slope).reshape(3, 3, 4).sum(-1) == 1).all()
    np.testing.assert_array_equal(np.asarray(slope) > 0, cosines == found.repeat(4, 1))


def test_a_product_in_bfloat16_is_near_that_in_float32_and_has_gradients(rng):
    x = jnp.asarray(rng.normal(size=(4, 16)).astype(np.float32))
    exact, rough = (CosineClassifier(6, 2, None, d) for d in ("float32", "bfloat16"))
    variables = exact.init(jax.random.key(0), x)

    def total(module, variables):
        return (module.apply(variables, x) ** 2).sum()

    values = [module.apply(variables, x) for module in (exact, rough)]
    assert values[1].dtype == np.float32
    np.testing.assert_allclose(*values, atol=0.02)
    slopes = [
        jax.grad(functools.partial(total, module))(variables)["params"]["kernel"]
        for module in (exact, rough)
    ]
    np.testing.assert_allclose(*slopes, atol=0.02)


def test_a_learned_power_survives_folding():
    model = GlobalNet(ResNet(18, 4), learn_power=True, global_dimension=0)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    variables = jax.tree.map(lambda x: np.full(x.shape, 2.5, np.float32), variables)
    _, folded = fold_batch_norm(model, variables)
    assert folded["params"]["gem_power"] == 2.5
