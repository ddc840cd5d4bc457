"""Compared with Sinkhorn's algorithm written out, and the properties of a set."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models import set_similarity


@pytest.fixture
def params():
    return set_similarity.initial(jax.random.key(0), 6)


def draw(rng, *counts):
    x = rng.normal(size=(*counts, 6)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def everything(*counts):
    return np.ones(counts, bool)


def compare(params, query, images, query_valid=None, valid=None):
    valid = everything(*images.shape[:2]) if valid is None else valid
    query_valid = everything(len(query)) if query_valid is None else query_valid
    sets = map(jnp.asarray, (query, query_valid, images, valid))
    return np.asarray(set_similarity.compare_sets(params, *sets))


def assign(cosines, dustbin, temperature):
    sides = map(everything, cosines.shape)
    numbers = np.float32(dustbin), np.float32(temperature)
    found = set_similarity.assign(*map(jnp.asarray, (cosines, *sides, *numbers)))
    return np.asarray(found)


def assign_slowly(cosines, dustbin, temperature, iterations):
    """Both sides of Sinkhorn's algorithm at once, in logarithms, one by one."""
    rows, columns = cosines.shape
    padded = np.full((rows + 1, columns + 1), dustbin)
    padded[:-1, :-1] = cosines
    logs = (padded - 1) / temperature
    u, v = np.zeros(rows + 1), np.zeros(columns + 1)
    masses = [1] * rows + [columns + 1], [1] * columns + [rows + 1]
    for _ in range(iterations):
        of_rows = [
            math.log(sum(math.exp(logs[i, j] + v[j]) for j in range(columns + 1)))
            for i in range(rows + 1)
        ]
        of_columns = [
            math.log(sum(math.exp(logs[i, j] + u[i]) for i in range(rows + 1)))
            for j in range(columns + 1)
        ]
        u = (u + np.log(masses[0]) - of_rows) / 2
        v = (v + np.log(masses[1]) - of_columns) / 2
    return np.exp(u[:, None] + logs + v[None, :])[:-1, :-1]


@pytest.mark.parametrize("temperature", [0.03, 0.1, 1.0])
def test_assignment_is_that_of_a_slow_sinkhorn(rng, temperature):
    cosines = (draw(rng, 5) @ draw(rng, 7).T).astype(np.float32)
    found = assign(cosines, 0.4, temperature)
    expected = assign_slowly(cosines, 0.4, temperature, set_similarity.ITERATIONS)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


def test_what_has_a_counterpart_is_assigned_and_the_rest_is_not(rng):
    x = np.eye(6, dtype=np.float32)
    found = assign(x[:4] @ x[2:].T, 0.5, 0.05)
    expected = np.zeros((4, 4))
    expected[2, 0] = expected[3, 1] = 1
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_the_order_of_descriptors_and_of_the_photos_does_not_count(params, rng):
    a, b = draw(rng, 8), draw(rng, 5)
    (one,) = compare(params, a, b[None])
    (shuffled,) = compare(params, rng.permutation(a), rng.permutation(b)[None])
    (swapped,) = compare(params, b, a[None])
    np.testing.assert_allclose([shuffled, swapped], [one, one], rtol=1e-5)


def test_padding_changes_nothing(params, rng):
    a, b = draw(rng, 4), draw(rng, 5)
    (expected,) = compare(params, a, b[None])
    valid = np.arange(9) < 4, (np.arange(9) < 5)[None]
    padded = [np.concatenate([x, draw(rng, 9 - len(x))]) for x in (a, b)]
    (found,) = compare(params, padded[0], padded[1][None], *valid)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_images_compared_together_are_as_one_by_one(params, rng):
    query, images = draw(rng, 4), draw(rng, 3, 5)
    together = compare(params, query, images)
    alone = [compare(params, query, image[None])[0] for image in images]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_a_photo_without_descriptors_adds_nothing_and_gradients_are_finite(params, rng):
    query, images = draw(rng, 4), draw(rng, 2, 5)
    valid = np.stack([everything(5), ~everything(5)])

    sets = [*map(jnp.asarray, (query, everything(4), images, valid))]

    def total(params):
        found = set_similarity.compare_sets(params, *sets)
        return found.sum(), found

    gradient, found = jax.grad(total, has_aux=True)(params)
    assert found[0] > 0 and found[1] == 0
    assert all(np.isfinite(x).all() for x in gradient)


def test_photos_that_share_descriptors_have_more_evidence(params, rng):
    query, images = draw(rng, 6), draw(rng, 2, 6)
    images[1, :4] = query[2:]
    unrelated, related = compare(params, query, images)
    assert related > unrelated
