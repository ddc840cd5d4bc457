import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses.classification import arcface_logits, softmax_cross_entropy
from delf_jax.ops import l2_normalize


@pytest.fixture(scope="module")
def numbers(golden):
    with np.load(golden / "losses.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tolerances(golden):
    return json.loads((golden / "tolerances.json").read_text())["losses.npz"]


@pytest.mark.golden
@pytest.mark.parametrize("margin", ["0", "0.1", "0.5"])
def test_arcface_and_its_gradients_are_the_originals(numbers, tolerances, margin):
    labels = jnp.asarray(numbers["arcface/labels"].astype(np.int32))
    case = f"arcface/margin{margin}_trainingTrue"

    def logits(prelogits, weights):
        cosines = l2_normalize(prelogits) @ l2_normalize(weights, axis=0)
        return arcface_logits(cosines, labels, float(margin), 45.25)

    def mean(*arrays):
        return jnp.mean(softmax_cross_entropy(logits(*arrays), labels))

    arrays = [jnp.asarray(numbers[f"arcface/{x}"]) for x in ("prelogits", "weights")]
    loss, gradients = jax.value_and_grad(mean, (0, 1))(*arrays)
    ours = {
        "logits": logits(*arrays),
        "mean_cross_entropy": loss,
        "gradient_prelogits": gradients[0],
        "gradient_weights": gradients[1],
    }
    for name, value in ours.items():
        key = f"{case}/{name}"
        atol = tolerances[key]["atol"]
        np.testing.assert_allclose(value, numbers[key], atol=atol, rtol=0, err_msg=name)


@pytest.mark.golden
@pytest.mark.parametrize("margin", ["0.1", "0.5"])
@pytest.mark.parametrize("own", [0, 1])
def test_single_cosines_move_as_in_the_original(numbers, tolerances, margin, own):
    cosines = jnp.asarray(numbers["margin_grid/cosine"])
    labels = jnp.array([1 - own], jnp.int32)

    def logit(cosine):
        pair = jnp.stack([cosine, jnp.float32(0.3)])[None]
        return arcface_logits(pair, labels, float(margin), 1.0)[0, 0]

    key = f"margin_grid/margin{margin}_label{own}"
    ours, slopes = jax.vmap(jax.value_and_grad(logit))(cosines)
    atol = tolerances[key]["atol"]
    np.testing.assert_allclose(ours, numbers[key], atol=atol, rtol=0)
    expected = numbers[f"{key}_derivative"]
    # float32 cosines near +-1 leave few digits of the sine
    np.testing.assert_allclose(slopes, expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("cosine", [-1.0, 1.0, 1.0000001, -1.0000001])
@pytest.mark.parametrize("label", [0, 1])
def test_ends_of_the_cosine_are_finite(cosine, label):
    def loss(cosines):
        labels = jnp.array([label], jnp.int32)
        return softmax_cross_entropy(arcface_logits(cosines, labels, 0.1, 45.0), labels)

    value, pull = jax.vjp(loss, jnp.array([[cosine, 0.5]], jnp.float32))
    assert np.isfinite(value).all() and np.isfinite(pull(value)[0]).all()


def test_margin_makes_the_label_harder_and_nothing_else(rng):
    cosines = jnp.asarray(rng.uniform(-0.9, 0.9, (6, 4)).astype(np.float32))
    labels = jnp.arange(6, dtype=jnp.int32) % 4
    plain = np.asarray(arcface_logits(cosines, labels, 0.0, 2.0))
    harder = np.asarray(arcface_logits(cosines, labels, 0.3, 2.0))
    own = np.eye(4, dtype=bool)[np.asarray(labels)]
    np.testing.assert_allclose(plain, 2 * cosines, rtol=1e-6)
    np.testing.assert_array_equal(harder[~own], plain[~own])
    assert (harder[own] < plain[own]).all()


def test_cross_entropy_agrees_with_softmax(rng):
    logits = rng.normal(size=(5, 7)).astype(np.float32) * 50
    labels = rng.integers(7, size=5).astype(np.int32)
    shifted = logits - logits.max(1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    ours = softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(ours, -log[np.arange(5), labels], rtol=1e-5, atol=1e-5)
