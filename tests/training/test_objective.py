"""The objective: which losses count, over what, and where no gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.training import objective
from delf_jax.training.objective import LossSettings

B, H, W, C, D, T, CLASSES = 2, 3, 4, 6, 5, 7, 3


@pytest.fixture
def outputs():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    views = 2 * B
    return {
        "block3": normal(views, H, W, C),
        "expanded": normal(views, H, W, C),
        "descriptors": normal(views, H, W, D),
        "attention": jnp.abs(normal(views, H, W)),
        "attention_logits": normal(views, CLASSES),
        "cosines": jnp.tanh(normal(views, CLASSES)),
        "global_descriptor": normal(views, T),
    }


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij"), -1)
    coordinates = np.tile(16.0 * grid, (B, 2, 1, 1, 1)).astype(np.float32)
    return {
        "label": jnp.array([1, 2], jnp.int32),
        "coordinates": jnp.asarray(coordinates),
        "teacher": jnp.asarray(rng.normal(size=(B, 2, H, W, T)), jnp.float16),
        "teacher_valid": jnp.ones((B, 2, H, W), bool),
        "teacher_global": jnp.asarray(rng.normal(size=(B, 2, T)), jnp.float32),
    }


def evaluate(outputs, batch, taught=None, **weights):
    return objective.evaluate(outputs, taught, batch, LossSettings(**weights), None)


def test_the_total_is_the_weighted_sum_of_the_active_losses(outputs, batch):
    weights = {
        "arcface": 0.5,
        "attention": 2.0,
        "reconstruction": 3.0,
        "distillation": 4.0,
        "global_distillation": 5.0,
        "correspondence": 6.0,
        "matchability": 7.0,
    }
    taught = jnp.ones((2 * B, H, W, T))
    total, metrics = evaluate(outputs, batch, taught, **weights)
    expected = sum(weight * metrics[name] for name, weight in weights.items())
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert all(metrics[name] > 0 for name in weights)


def test_a_loss_of_weight_0_needs_nothing_of_the_batch(outputs, batch):
    only = {"label": batch["label"]}
    total, metrics = evaluate(outputs, only, arcface=1.0)
    np.testing.assert_allclose(total, metrics["arcface"], rtol=1e-6)
    assert "distillation" not in metrics


def test_an_unlabelled_example_adds_nothing_to_classification(outputs, batch):
    unlabelled = batch | {"label": jnp.array([1, -1], jnp.int32)}

    def loss(cosines):
        return evaluate(outputs | {"cosines": cosines}, unlabelled, arcface=1.0)[0]

    gradient = np.asarray(jax.grad(loss)(outputs["cosines"]))
    assert np.abs(gradient[:2]).min() > 0
    np.testing.assert_array_equal(gradient[2:], 0)


def test_both_views_of_an_example_carry_its_label(outputs, batch):
    own = jax.nn.one_hot(jnp.array([1, 1, 2, 2]), CLASSES)
    _, metrics = evaluate(outputs | {"cosines": 0.9 * own}, batch, arcface=1.0)
    assert metrics["arcface_accuracy"] == 1


def test_equal_views_match_fully_and_shuffled_ones_do_not(outputs, batch):
    first = outputs["descriptors"][::2]
    twins = jnp.repeat(first, 2, axis=0)
    _, metrics = evaluate(outputs | {"descriptors": twins}, batch, correspondence=1.0)
    assert metrics["match_accuracy"] == 1
    swapped = jnp.stack([first, first[::-1]], 1).reshape(twins.shape)
    _, crossed = evaluate(outputs | {"descriptors": swapped}, batch, correspondence=1.0)
    assert crossed["match_accuracy"] < 0.5
    assert crossed["correspondence"] > metrics["correspondence"]


def test_cells_that_the_teacher_does_not_cover_teach_nothing(outputs, batch):
    valid = batch["teacher_valid"].at[:, :, 0].set(False)

    def loss(taught):
        masked = batch | {"teacher_valid": valid}
        return evaluate(outputs, masked, taught, distillation=1.0)[0]

    gradient = np.asarray(jax.grad(loss)(jnp.ones((2 * B, H, W, T))))
    np.testing.assert_array_equal(gradient[:, 0], 0)
    assert np.abs(gradient[:, 1:]).max() > 0


def test_a_student_that_agrees_with_its_teacher_has_no_loss(outputs, batch):
    taught = batch["teacher"].reshape(2 * B, H, W, T).astype(jnp.float32)
    agreeing = outputs | {
        "global_descriptor": 3 * batch["teacher_global"].reshape(-1, T)
    }
    weights = {"distillation": 1.0, "global_distillation": 1.0}
    total, _ = evaluate(agreeing, batch, taught, **weights)
    np.testing.assert_allclose(total, 0, atol=1e-5)
