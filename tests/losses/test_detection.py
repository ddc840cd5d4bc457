"""Losses of anchors, beside loops over them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses.detection import (
    balanced_loss,
    focal_loss,
    mined_loss,
    offset_loss,
)


def naive_entropy(logit, positive):
    chance = 1 / (1 + math.exp(-logit))
    return -math.log(chance if positive else 1 - chance)


def naive_focal(logits, positive, counted):
    total = 0.0
    for logit, has, counts in zip(logits, positive, counted, strict=True):
        chance = 1 / (1 + math.exp(-logit))
        weight = 0.25 * (1 - chance) ** 2 if has else 0.75 * chance**2
        total += counts * weight * naive_entropy(logit, has)
    return total / max(sum(positive), 1)


def naive_mined(logits, positive, counted):
    losses = [naive_entropy(x, p) for x, p in zip(logits, positive, strict=True)]
    count = max(sum(positive), 1)
    each = zip(losses, positive, counted, strict=True)
    others = sorted((x for x, p, c in each if c and not p), reverse=True)
    own = sum(x for x, p in zip(losses, positive, strict=True) if p)
    return (own + sum(others[: 3 * count])) / count


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(
    ("loss", "naive"), [(focal_loss, naive_focal), (mined_loss, naive_mined)]
)
def test_agrees_with_a_loop_over_anchors(rng, loss, naive, share):
    logits = rng.normal(0, 2, 40).astype(np.float32)
    positive = rng.random(40) < share
    counted = positive | (rng.random(40) < 0.8)
    found = loss(jnp.array(logits), jnp.array(positive), jnp.array(counted))
    assert float(found) == pytest.approx(naive(logits, positive, counted), rel=1e-4)


@pytest.mark.parametrize(("own", "drawn"), [(30, (4, 4)), (2, (2, 6)), (0, (0, 8))])
def test_drawn_anchors_are_balanced(own, drawn):
    """Each loss tells what it is of, so that the sum counts both kinds."""
    positive = jnp.arange(60) < own
    counted = positive | (jnp.arange(60) < 50)
    logits = jnp.where(positive, -math.log(math.e - 1), math.log(math.e**2 - 1))
    totals = {}
    for seed in range(3):
        key = jax.random.key(seed)
        run = jax.jit(balanced_loss, static_argnames=("samples", "share"))
        totals[seed] = float(run(logits, positive, counted, key, samples=8, share=0.5))
        assert totals[seed] * 8 == pytest.approx(drawn[0] + 2 * drawn[1], rel=1e-4)


def test_other_anchors_are_drawn_by_another_key(rng):
    logits = jnp.array(rng.normal(size=200), jnp.float32)
    positive, counted = jnp.arange(200) < 50, jnp.ones(200, bool)
    run = jax.jit(balanced_loss, static_argnames=("samples", "share"))
    found = [run(logits, positive, counted, jax.random.key(k), 16) for k in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    everything = run(logits, positive, counted, jax.random.key(0), 400, share=1.0)
    mean = np.mean(
        [
            naive_entropy(float(x), bool(p))
            for x, p in zip(logits, positive, strict=True)
        ]
    )
    assert float(everything) == pytest.approx(mean, rel=1e-4)


def test_offsets_count_where_there_is_a_box_alone(rng):
    offsets = rng.normal(0, 2, (9, 4)).astype(np.float32)
    expected = rng.normal(0, 2, (9, 4)).astype(np.float32)
    positive = np.arange(9) < 4
    difference = np.abs(offsets - expected)[:4]
    smooth = np.where(difference < 1, difference**2 / 2, difference - 0.5)
    expected[5] = np.nan
    found = jax.value_and_grad(offset_loss)(
        jnp.array(offsets), jnp.array(expected), jnp.array(positive)
    )
    assert float(found[0]) == pytest.approx(smooth.sum() / 4, rel=1e-5)
    assert np.isfinite(found[1]).all() and not np.asarray(found[1])[4:].any()


@pytest.mark.parametrize("loss", [focal_loss, mined_loss])
def test_extreme_logits_have_finite_gradients(loss):
    logits = jnp.array([1e4, -1e4, 1e4, -1e4])
    positive = jnp.array([True, True, False, False])
    found = jax.grad(loss)(logits, positive, jnp.ones(4, bool))
    assert np.isfinite(found).all()
