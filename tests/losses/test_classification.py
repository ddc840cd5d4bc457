import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses.classification import (
    arcface_logits,
    cosface_logits,
    dynamic_margins,
    sharded_cross_entropy,
    sharded_hits,
    softmax_cross_entropy,
)
from delf_jax.models.global_net import nearest_centers
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


def test_cosface_lowers_the_labels_cosine_by_the_margin(rng):
    cosines = rng.uniform(-1, 1, (6, 4)).astype(np.float32)
    labels = np.arange(6) % 4
    expected = cosines.copy()
    expected[np.arange(6), labels] -= 0.35
    found = cosface_logits(jnp.asarray(cosines), jnp.asarray(labels), 0.35, 64.0)
    np.testing.assert_allclose(found, 64 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("margin_of", [arcface_logits, cosface_logits])
def test_a_margin_for_each_example_is_that_of_examples_alone(rng, margin_of):
    cosines = jnp.asarray(rng.uniform(-1, 1, (3, 4)).astype(np.float32))
    labels = jnp.array([3, 0, 2], jnp.int32)
    margins = jnp.array([0.05, 0.2, 0.5], jnp.float32)
    together = margin_of(cosines, labels, margins, 30.0)
    for i, margin in enumerate([0.05, 0.2, 0.5]):
        alone = margin_of(cosines[i : i + 1], labels[i : i + 1], margin, 30.0)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("margin_of", [arcface_logits, cosface_logits])
def test_a_label_that_is_no_column_has_no_margin(margin_of):
    cosines = jnp.full((2, 3), 0.5)
    logits = margin_of(cosines, jnp.array([-1, 3], jnp.int32), 0.4, 2.0)
    np.testing.assert_array_equal(logits, np.ones((2, 3)))


def test_rare_classes_get_wider_margins():
    counts = np.array([1, 16, 256, 10_000, 0])
    margins = dynamic_margins(counts, 0.05, 0.5)
    powers = np.array([1, 0.5, 0.25, 0.1, 1])
    expected = 0.05 + 0.45 * (powers - 0.1) / 0.9
    np.testing.assert_allclose(margins, expected, rtol=1e-5)
    np.testing.assert_allclose(dynamic_margins(np.array([3, 3]), 0.1, 0.5), 0.1)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_cross_entropy_agrees_with_its_definition(rng, smoothing):
    logits = rng.normal(size=(5, 7)).astype(np.float32) * 5
    labels = rng.integers(7, size=5).astype(np.int32)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(7)[labels] + smoothing / 7
    ours = softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(ours, -(target * log).sum(1), rtol=1e-5)


# A classifier in pieces. Devices are rows of vmap: what pmap does, on one device.


def in_pieces(descriptors, kernel, labels, classes, pieces, smoothing, centers):
    """(loss of each example, hits) as the devices compute them together."""
    padded = -(-classes // pieces) * pieces
    kernel = jnp.pad(kernel, ((0, 0), (0, (padded - classes) * centers)))
    kernels = jnp.moveaxis(kernel.reshape(len(kernel), pieces, -1), 1, 0)

    def device(kernel):
        cosines = descriptors @ l2_normalize(kernel, axis=0)
        cosines = nearest_centers(cosines, centers)
        first = cosines.shape[1] * jax.lax.axis_index("device")
        logits = arcface_logits(cosines, labels - first, 0.2, 30.0)
        rest = labels, classes, "device"
        losses = sharded_cross_entropy(logits, *rest, smoothing)
        return losses, sharded_hits(cosines, *rest)

    losses, hits = jax.vmap(device, axis_name="device")(kernels)
    for device_losses in losses:
        np.testing.assert_array_equal(device_losses, losses[0])
    return losses[0], hits[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("pieces", "centers"), [(1, 1), (2, 1), (3, 2), (8, 3)])
def test_a_classifier_in_pieces_has_the_losses_of_a_whole_one(
    rng, pieces, centers, smoothing
):
    classes = 10  # that divide by 2 alone; of 8 devices, three have padding only
    normal = rng.normal(size=(6, 5)).astype(np.float32)
    descriptors = l2_normalize(jnp.asarray(normal))
    kernel = jnp.asarray(rng.normal(size=(5, classes * centers)).astype(np.float32))
    labels = jnp.array([0, 9, 4, 4, 7, 5], jnp.int32)
    cosines = nearest_centers(descriptors @ l2_normalize(kernel, axis=0), centers)
    whole = softmax_cross_entropy(
        arcface_logits(cosines, labels, 0.2, 30.0), labels, smoothing
    )
    losses, hits = in_pieces(
        descriptors, kernel, labels, classes, pieces, smoothing, centers
    )
    np.testing.assert_allclose(losses, whole, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(hits, cosines.argmax(1) == labels)
