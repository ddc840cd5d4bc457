"""Losses of a query, its positive and its negatives."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses.tuplets import contrastive_loss, triplet_loss

LOSSES = {"contrastive": contrastive_loss, "triplet": triplet_loss}


def naive(kind, query, positive, negatives, margin):
    near, total = np.sqrt(((query - positive) ** 2).sum()), 0.0
    for negative in negatives:
        far = np.sqrt(((query - negative) ** 2).sum())
        if kind == "contrastive":
            total += 0.5 * max(margin - far, 0) ** 2
        else:
            total += max(near**2 - far**2 + margin, 0)
    return total + (0.5 * near**2 if kind == "contrastive" else 0)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("margin", [0.1, 0.85])
def test_agrees_with_a_loop_over_negatives(rng, kind, margin):
    vectors = rng.normal(size=(6, 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)
    query, positive, negatives = vectors[0], vectors[1], vectors[2:]
    ours = LOSSES[kind](*map(jnp.array, (query, positive, negatives)), margin)
    expected = naive(kind, query, positive, negatives, margin)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("vector", [np.zeros(3), np.array([1, 0, 0])])
def test_equal_vectors_have_a_finite_gradient(kind, vector):
    query = jnp.asarray(vector, jnp.float32)
    arguments = query, query, jnp.stack([query, query])
    function = functools.partial(LOSSES[kind], margin=0.7)
    for gradient in jax.grad(function, (0, 1, 2))(*arguments):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_negatives_beyond_the_margin_teach_nothing(kind):
    query, positive = jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0])
    function = functools.partial(LOSSES[kind], margin=0.7)
    gradient = jax.grad(function, 2)(query, positive, jnp.array([[-1.0, 0.0]]))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("kind", "case", "margin"),
    [
        *[("contrastive", "batch1_neg5", margin) for margin in ("0.7", "0.3")],
        *[
            ("triplet", case, margin)
            for case in ("batch1_neg5", "batch2_neg3", "batch3_neg1")
            for margin in ("0.1", "0.85")
        ],
    ],
)
def test_losses_and_gradients_are_the_originals(golden, kind, case, margin):
    """Its contrastive loss of several queries pairs them wrongly: one only."""
    tolerances = json.loads((golden / "tolerances.json").read_text())["losses.npz"]
    names = "queries", "positives", "negatives"
    with np.load(golden / "losses.npz") as file:
        numbers = {n: x for n, x in file.items() if n.startswith(f"ranking/{case}/")}
    arrays = [jnp.asarray(numbers[f"ranking/{case}/{name}"]) for name in names]

    def total(*arrays):
        one = functools.partial(LOSSES[kind], margin=float(margin))
        return jax.vmap(one)(*arrays).sum()

    loss, gradients = jax.value_and_grad(total, (0, 1, 2))(*arrays)
    ours = {"loss": loss} | {
        f"gradient_{n}": g for n, g in zip(names, gradients, strict=True)
    }
    for name, value in ours.items():
        key = f"ranking/{case}/{kind}_margin{margin}/{name}"
        atol = tolerances[key]["atol"]
        np.testing.assert_allclose(value, numbers[key], atol=atol, rtol=0, err_msg=key)
