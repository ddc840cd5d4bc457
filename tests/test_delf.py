import jax
import jax.numpy as jnp
import numpy as np

from delf_jax.models.delf import DELF, attend
from delf_jax.models.resnet import ResNet


def test_attended_is_the_weighted_mean_of_normalised_targets(rng):
    targets = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    attention = rng.uniform(size=(2, 3, 4)).astype(np.float32)
    rows = targets / np.linalg.norm(targets, axis=-1, keepdims=True)
    expected = (rows * attention[..., None]).mean((1, 2))
    ours = attend(jnp.asarray(targets), jnp.asarray(attention))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_without_reduction_the_descriptors_are_block3():
    model = DELF(ResNet(18, 4), attention_width=8)
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    assert set(outputs) == {"block3", "valid", "descriptors", "attention"}
    assert outputs["descriptors"].shape == outputs["block3"].shape == (1, 4, 4, 16)
    assert "block4_unit1" not in variables["params"]["backbone"]


def test_classes_add_what_training_needs():
    model = DELF(ResNet(18, 4), attention_width=8, reduced_dimension=6, num_classes=3)
    outputs = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 64, 64, 3))
    )[0]
    shapes = {name: x.shape for name, x in outputs.items()}
    assert shapes["logits"] == shapes["attention_logits"] == (2, 3)
    assert shapes["descriptors"] == (2, 4, 4, 6)
    assert shapes["expanded"] == (2, 4, 4, 16)
    assert shapes["attended"] == (2, 16)
