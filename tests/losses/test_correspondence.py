import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses import correspondence

SETTINGS = dict(temperature=0.1, positive_radius=1.0, ignore_radius=2.5)


def naive(descriptors, coordinates, others, other_coordinates, example):
    descriptors, others = (
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (descriptors, others)
    )
    losses, paired, correct = [], [], []
    for d, c in zip(descriptors, coordinates, strict=True):
        distances = np.linalg.norm(other_coordinates - c, axis=1)
        positive = distances.argmin()
        paired.append(distances[positive] <= SETTINGS["positive_radius"])
        cosines = {}
        for b, m in np.ndindex(*others.shape[:2]):
            ignored = b == example and distances[m] < SETTINGS["ignore_radius"]
            if (b, m) == (example, positive) or not ignored:
                cosines[b, m] = others[b, m] @ d
        best = max(cosines, key=cosines.get)
        correct.append(best == (example, positive))
        exponents = np.exp(np.array(list(cosines.values())) / SETTINGS["temperature"])
        own = np.exp(cosines[example, positive] / SETTINGS["temperature"])
        losses.append(-np.log(own / exponents.sum()))
    losses, paired = np.array(losses), np.array(paired)
    return losses[paired].mean() if paired.any() else 0.0, paired, np.array(correct)


@pytest.mark.parametrize("example", [0, 1, 2])
def test_agrees_with_a_loop_over_all_pairs(rng, example):
    descriptors = rng.normal(size=(6, 4)).astype(np.float32)
    others = rng.normal(size=(3, 5, 4)).astype(np.float32)
    coordinates = rng.uniform(0, 4, (6, 2)).astype(np.float32)
    other_coordinates = rng.uniform(0, 4, (5, 2)).astype(np.float32)
    arguments = descriptors, coordinates, others, other_coordinates
    loss, paired, correct = correspondence.correspondence_loss(
        *map(jnp.array, arguments), example, **SETTINGS
    )
    expected, expected_paired, expected_correct = naive(*arguments, example)
    assert 0 < expected_paired.sum() < 6
    assert loss == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(paired, expected_paired)
    np.testing.assert_array_equal(correct, expected_correct)


def test_no_overlap_is_no_loss_and_no_gradient(rng):
    descriptors = jnp.array(rng.normal(size=(4, 3)).astype(np.float32))
    others = jnp.array(rng.normal(size=(2, 5, 3)).astype(np.float32))

    def loss(descriptors):
        return correspondence.correspondence_loss(
            descriptors, jnp.zeros((4, 2)), others, jnp.full((5, 2), 9.0), 1, **SETTINGS
        )[0]

    value, gradient = jax.value_and_grad(loss)(descriptors)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("attention", [0.0, 1e-8, 1.0, 50.0])
def test_matchability_is_binary_cross_entropy_of_the_sigmoid(attention):
    right, wrong = jnp.array([True]), jnp.array([False])
    score = jnp.array([attention])
    probability = np.clip(1 - np.exp(-attention), 1e-6, 1)
    for correct, expected in ((right, -np.log(probability)), (wrong, attention)):
        value, gradient = jax.value_and_grad(correspondence.matchability_loss)(
            score, correct, jnp.array([True])
        )
        assert value == pytest.approx(expected, abs=1e-5)
        assert np.isfinite(gradient).all()
