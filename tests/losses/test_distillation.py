import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses import distillation


def test_a_perfect_student_loses_nothing(rng):
    teacher = rng.normal(size=(3, 4, 5)).astype(np.float32)
    valid = np.ones((3, 4), bool)
    loss = distillation.distillation_loss(*map(jnp.array, (teacher, teacher, valid)))
    assert loss == pytest.approx(0, abs=1e-6)


def test_invalid_cells_do_not_count_and_none_valid_is_zero(rng):
    teacher = rng.normal(size=(3, 4, 5)).astype(np.float32)
    student = teacher.copy()
    valid = np.ones((3, 4), bool)
    student[1, 2], valid[1, 2] = 100, False
    loss = distillation.distillation_loss(*map(jnp.array, (student, teacher, valid)))
    assert loss == pytest.approx(0, abs=1e-6)
    gradient = jax.grad(distillation.distillation_loss)(
        jnp.array(student), jnp.array(teacher), jnp.zeros((3, 4), bool)
    )
    assert not gradient.any()


def test_agrees_with_a_loop_over_the_cells(rng):
    student, teacher = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    valid = rng.random((3, 4)) < 0.5
    expected = []
    for y, x in zip(*np.nonzero(valid), strict=True):
        s, t = student[y, x], teacher[y, x]
        cosine = s @ t / np.linalg.norm(s) / np.linalg.norm(t)
        error = np.abs(s - t)
        huber = np.where(error <= 1, error**2 / 2, error - 0.5).mean()
        expected.append(1 - cosine + huber)
    loss = distillation.distillation_loss(*map(jnp.array, (student, teacher, valid)))
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_cosine_distance_of_zero_is_one_with_a_finite_gradient():
    zero, one = jnp.zeros(3), jnp.array([1.0, 0, 0])
    value, gradient = jax.value_and_grad(distillation.cosine_distance)(zero, one)
    assert value == 1
    assert np.isfinite(gradient).all()
    assert distillation.cosine_distance(2 * one, one) == pytest.approx(0)
