"""The objective: which losses count, over what, and where no gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.losses import detection
from delf_jax.models.detectors.anchors import grid_anchors
from delf_jax.training import objective
from delf_jax.training.objective import LossSettings, Taught

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
        "stages": {
            "stage2": normal(views, 2 * H, W, 3),
            "block4": normal(views, 1, 2, C),
        },
    }


@pytest.fixture
def batch():
    grid = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij"), -1)
    coordinates = np.tile(16.0 * grid, (B, 2, 1, 1, 1)).astype(np.float32)
    return {
        "label": jnp.array([1, 2], jnp.int32),
        "coordinates": jnp.asarray(coordinates),
    }


@pytest.fixture
def taught(outputs):
    """A teacher of stages as large as the student's."""
    rng = np.random.default_rng(2)

    def like(x):
        return jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    return Taught(
        {name: like(x) for name, x in outputs["stages"].items()},
        like(outputs["global_descriptor"]),
    )


def evaluate(outputs, batch, taught=None, **weights):
    return objective.evaluate(outputs, taught, batch, LossSettings(**weights), None)


def test_the_total_is_the_weighted_sum_of_the_active_losses(outputs, batch, taught):
    weights = {
        "arcface": 0.5,
        "attention": 2.0,
        "reconstruction": 3.0,
        "map_distillation": 4.0,
        "global_distillation": 5.0,
        "similarity_distillation": 8.0,
        "correspondence": 6.0,
        "matchability": 7.0,
    }
    total, metrics = evaluate(outputs, batch, taught, **weights)
    expected = sum(weight * metrics[name] for name, weight in weights.items())
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert all(metrics[name] > 0 for name in weights)


def test_a_loss_of_weight_0_needs_nothing_of_the_batch(outputs, batch):
    only = {"label": batch["label"]}
    total, metrics = evaluate(outputs, only, arcface=1.0)
    np.testing.assert_allclose(total, metrics["arcface"], rtol=1e-6)
    assert not any("distillation" in name for name in metrics)


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


def test_a_student_that_agrees_with_its_teacher_has_no_loss(outputs, batch, taught):
    agreeing = outputs | {
        "stages": taught.maps,
        "global_descriptor": 3 * taught.descriptors,
    }
    weights = {name: 1.0 for name in objective.TEACHING}
    total, metrics = evaluate(agreeing, batch, taught, **weights)
    np.testing.assert_allclose(total, 0, atol=1e-5)
    assert set(weights) < set(metrics)


def test_every_stage_counts_alike_whatever_its_size(outputs, batch, taught):
    own, theirs = jax.tree.map(np.asarray, (outputs["stages"], taught.maps))
    expected = [np.mean((own[n] - theirs[n]) ** 2) for n in ("stage2", "block4")]
    _, metrics = evaluate(outputs, batch, taught, map_distillation=1.0)
    found = metrics["map_distillation"]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_stages_that_are_not_taught_are_not_compared(outputs, batch, taught):
    only = taught._replace(maps={"block4": taught.maps["block4"]})

    def loss(stages):
        differing = outputs | {"stages": stages}
        return evaluate(differing, batch, only, map_distillation=1.0)[0]

    gradient = jax.grad(loss)(outputs["stages"])
    assert not gradient["stage2"].any() and gradient["block4"].any()


def test_similarities_are_to_all_views_of_the_batch(outputs, batch, taught):
    """The mean over all pairs; on two devices, over those of both."""
    found, wanted = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (outputs["global_descriptor"], taught.descriptors)
    )
    expected = np.mean((found @ found.T - wanted @ wanted.T) ** 2)
    weights = LossSettings(similarity_distillation=1.0)
    _, metrics = objective.evaluate(outputs, taught, batch, weights, None)
    name = "similarity_distillation"
    np.testing.assert_allclose(metrics[name], expected, rtol=1e-5)

    def of_device(student, teacher):
        half = taught._replace(descriptors=teacher)
        given = outputs | {"global_descriptor": student}
        return objective.evaluate(given, half, batch, weights, "devices")[1][name]

    halves = (
        x.reshape(2, B, T) for x in (outputs["global_descriptor"], taught.descriptors)
    )
    shared = jax.vmap(of_device, axis_name="devices")(*halves)
    np.testing.assert_allclose(shared.mean(), expected, rtol=1e-5)


def boxes_of_anchors():
    """(outputs, batch) of two images: one box that an anchor has exactly, and none."""
    rng = np.random.default_rng(3)
    anchors = grid_anchors((2, 2), [(0.5, 0.5)])
    boxes, valid = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), bool)
    boxes[0, 0], valid[0, 0] = anchors[1], True
    outputs = {
        "anchors": jnp.asarray(anchors),
        "box_logits": jnp.asarray(rng.normal(size=(2, 4)), jnp.float32),
        "offsets": jnp.asarray(rng.normal(size=(2, 4, 4)), jnp.float32),
    }
    labels = jnp.array([-1, -1], jnp.int32)
    return outputs, {"label": labels, "boxes": boxes, "valid": valid}


@pytest.mark.parametrize("kind", ["focal", "mined"])
def test_anchors_learn_chances_and_places(kind):
    outputs, batch = boxes_of_anchors()
    loss = LossSettings(detection=2.0, anchors=kind)
    total, metrics = objective.evaluate(outputs, None, batch, loss, None)
    function = {"focal": detection.focal_loss, "mined": detection.mined_loss}[kind]
    right, counted = jnp.arange(4) == 1, jnp.ones(4, bool)
    logits, offsets = outputs["box_logits"], outputs["offsets"]
    chances = [
        function(logits[0], right, counted),
        function(logits[1], ~counted, counted),
    ]
    # the anchor is the box: all four offsets are 0
    size = np.abs(np.asarray(offsets[0, 1]))
    place = np.where(size < 1, size**2 / 2, size - 0.5).sum()
    assert float(metrics["box_chance"]) == pytest.approx(np.mean(chances), rel=1e-5)
    assert float(metrics["box_place"]) == pytest.approx(place / 2, rel=1e-5)
    assert float(total) == pytest.approx(2 * (np.mean(chances) + place / 2), rel=1e-5)
    assert float(metrics["detection"]) == pytest.approx(float(total) / 2, rel=1e-5)


def test_two_stages_learn_each_its_anchors():
    """Proposals count as anchors of the second stage; an empty place counts nowhere."""
    outputs, batch = boxes_of_anchors()
    second = jnp.zeros((2, 4, 4)).at[:, 1].set(outputs["anchors"][1])
    two = {f"proposal_{name.removeprefix('box_')}": x for name, x in outputs.items()}
    two |= {name: outputs[name] for name in ("box_logits", "offsets")}
    two["anchors"] = second
    loss = LossSettings(detection=1.0, anchors="balanced")
    total, metrics = objective.evaluate(two, None, batch, loss, None, jax.random.key(0))
    names = {"proposal_chance", "proposal_place", "box_chance", "box_place"}
    assert names < metrics.keys()
    assert float(total) == pytest.approx(sum(float(metrics[n]) for n in names))
    # few anchors: all of them are drawn, in the second stage one of each image
    signs = np.array([[-1, 1, -1, -1], [-1] * 4])
    entropy = np.logaddexp(0, -signs * np.asarray(outputs["box_logits"]))
    assert float(metrics["proposal_chance"]) == pytest.approx(entropy.mean(), rel=1e-5)
    seen = entropy[:, 1].mean()
    assert float(metrics["box_chance"]) == pytest.approx(seen, rel=1e-5)
    assert float(metrics["box_place"]) == pytest.approx(
        float(metrics["proposal_place"])
    )
