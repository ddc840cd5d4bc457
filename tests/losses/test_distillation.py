import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses.distillation import (
    cosine_distance,
    map_distance,
    similarity_distance,
)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_maps_that_agree_have_no_distance(rng):
    teacher = jnp.asarray(rng.normal(size=(3, 4, 5)).astype(np.float32))
    assert map_distance(teacher, teacher) == 0


def test_the_distance_of_maps_agrees_with_loops_over_cells_and_channels(rng):
    student, teacher = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    expected = np.mean(
        [(student[place] - teacher[place]) ** 2 for place in np.ndindex(3, 4, 5)]
    )
    found = map_distance(*map(jnp.asarray, (student, teacher)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_distance_of_descriptors_knows_no_length(rng):
    one, other = (jnp.asarray(x) for x in rng.normal(size=(2, 6)).astype(np.float32))
    found = cosine_distance(one, other)
    np.testing.assert_allclose(found, 1 - cosine(one, other), rtol=1e-5)
    np.testing.assert_allclose(cosine_distance(3 * one, other), found, rtol=1e-5)
    assert cosine_distance(2 * one, one) == pytest.approx(0, abs=1e-6)
    assert cosine_distance(-one, one) == pytest.approx(2, abs=1e-6)


def test_cosine_distance_of_zero_is_one_with_a_finite_gradient():
    zero, one = jnp.zeros(3), jnp.array([1.0, 0, 0])
    value, gradient = jax.value_and_grad(cosine_distance)(zero, one)
    assert value == 1
    assert np.isfinite(gradient).all()


def test_similarities_agree_with_loops_though_dimensions_differ(rng):
    students = rng.normal(size=(4, 3)).astype(np.float32)
    teachers = rng.normal(size=(4, 7)).astype(np.float32)
    expected = [
        (cosine(students[1], students[i]) - cosine(teachers[1], teachers[i])) ** 2
        for i in range(4)
    ]
    found = similarity_distance(
        *map(jnp.asarray, (students[1], teachers[1], students, teachers))
    )
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4)


def test_a_rotated_and_scaled_student_has_the_teachers_similarities(rng):
    teachers = rng.normal(size=(5, 4)).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    students = (2 * teachers @ rotation).astype(np.float32)
    found = similarity_distance(
        *map(jnp.asarray, (students[0], teachers[0], students, teachers))
    )
    np.testing.assert_allclose(found, 0, atol=1e-10)
