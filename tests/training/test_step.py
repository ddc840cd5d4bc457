"""The training step: on one and two devices, in one and several pieces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.config import read_config
from delf_jax.training.parallel import PARALLEL
from delf_jax.training.step import _averaged, _forward, create_state, train_step
from tests.helpers.tiny_training import (
    TINY,
    by_name,
    make_batch,
    make_config,
    plain_static,
)


@pytest.fixture
def config():
    config = make_config("", "")
    config.loss.distillation = 1.0
    config.loss.descriptors_train_backbone = True
    config.teacher.dimension = 8
    return config


def start_of(static, size=64):
    start = functools.partial(create_state, static, view_size=size)
    return jax.jit(start)(jax.random.key(0))


def run_alone(static, start, batch):
    step = jax.jit(functools.partial(train_step, static=static))
    return step(start, batch, jax.random.key(0))


def run_over(how, devices, config, start, batch):
    """The step as the loop runs it, over some devices."""
    parallelize, axis_name = PARALLEL[how]
    parallel = parallelize(plain_static(config, axis_name), devices)
    placed = parallel.place_state(jax.tree.map(jnp.copy, start))
    return parallel.step(placed, parallel.place_batch(batch), jax.random.key(0))


def assert_same_step(start, one, other, tolerance=5e-3):
    """Largest difference of each tensor, as a share of how far the step moved it."""
    before, first = by_name(start.params), by_name(one.params)
    for name, value in by_name(other.params).items():
        scale = np.abs(first[name] - before[name]).max() + 1e-6
        difference = np.abs(value - first[name]).max() / scale
        assert difference < tolerance, (name, difference)


def assert_same_metrics(one, other, rtol=2e-4):
    expected = jax.device_get(one).compute()
    for name, value in jax.device_get(other).compute().items():
        np.testing.assert_allclose(value, expected[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("how", ["pmap", "jit"])
def test_a_step_on_two_devices_equals_one_on_one(config, how):
    """Losses that compare examples see those of the other device, too."""
    batch, static = make_batch(), plain_static(config)
    start = start_of(static)
    two, metrics_of_two = run_over(how, jax.devices(), config, start, batch)
    one, metrics_of_one = run_alone(static, start, batch)
    assert_same_metrics(metrics_of_one, metrics_of_two)
    assert_same_step(start, one, two)


@pytest.fixture
def frozen():
    """A model without local branch and with frozen BatchNorm."""
    config = read_config(TINY.parent / "gldv2_arcface_r101.py")
    config.batch_size, config.model.depth, config.model.width = 4, 18, 8
    config.model.global_dimension = 16
    config.model.normalization, config.precision = "frozen", "float32"
    config.loss.classifier, config.loss.classifier_dtype = "dense", "float32"
    return config


@pytest.mark.parametrize("how", [None, "pmap", "jit"])
def test_a_batch_in_pieces_gives_the_gradient_of_the_whole(frozen, how):
    batch = make_batch()
    batch = {name: np.concatenate([batch[name]] * 2) for name in ("image", "label")}
    batch["image"][4:] = 255 - batch["image"][4:]
    static = plain_static(frozen)
    start = start_of(static)
    whole, metrics = run_alone(static, start, batch)
    pieces = static.accumulate * 4
    if how is None:
        parts = run_alone(static._replace(accumulate=pieces), start, batch)
    else:
        frozen.accumulate = pieces
        parts = run_over(how, jax.devices(), frozen, start, batch)
    assert_same_metrics(metrics, parts[1])
    assert_same_step(start, whole, parts[0], tolerance=1e-3)


def test_statistics_of_pieces_are_averaged(config):
    """BatchNorm sees a piece at a time; the running mean of conv1 is linear in it."""
    static, batch = plain_static(config), make_batch()
    start = start_of(static)
    name = "backbone/conv1/mean"
    means = [
        by_name(run_alone(static._replace(accumulate=n), start, batch)[0].batch_stats)[
            name
        ]
        for n in (1, 2)
    ]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_roughly_the_same_and_keeps_float32_weights(config):
    batch = make_batch()
    exact = plain_static(config)
    config.precision = "bfloat16"
    rough = plain_static(config)
    start = start_of(exact)
    _, expected = run_alone(exact, start, batch)
    state, metrics = run_alone(rough, start, batch)
    found, expected = (jax.device_get(x).compute() for x in (metrics, expected))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=3e-2)
    assert found["loss"] != expected["loss"]
    kinds = {x.dtype for x in jax.tree.leaves((state.params, state.batch_stats))}
    assert kinds == {np.dtype(np.float32)}


def test_training_normalises_pixels_as_extraction_does(config):
    images, outcomes = make_batch()["image"], []
    config.extraction.pixel_mean = (120.0, 110.0, 100.0)
    config.extraction.pixel_std = (60.0, 57.0, 56.0)
    static = plain_static(config)
    key = jax.random.key(0)
    state = start_of(static)
    mean, std = (np.float32([[x]]) for x in (static.pixel_mean, static.pixel_std))
    plain = static._replace(pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3)
    for how, seen in ((static, images), (plain, (images - mean) / std)):
        forward = jax.jit(functools.partial(_forward, how))
        outputs, *_ = forward(state.params, state.batch_stats, {"image": seen}, key)
        outcomes.append(outputs["attention"])
    np.testing.assert_allclose(*outcomes, rtol=1e-4)


def test_early_averages_forget_the_start_and_late_ones_keep():
    old, new = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    early = _averaged(old, new, jnp.array(0), 0.99)
    late = _averaged(old, new, jnp.array(10**6), 0.99)
    np.testing.assert_allclose(early["a"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(late["a"], 0.01, rtol=1e-3)
