"""The training step: on one and two devices, in pieces, and of a part of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.config import read_config
from delf_jax.files import InputError
from delf_jax.training import objective
from delf_jax.training.build import make_static
from delf_jax.training.parallel import AXIS, PARALLEL, axis_of, over_pmap
from delf_jax.training.step import (
    NO_CONSTANTS,
    _averaged,
    _forward,
    blend,
    check_train_only,
    create_state,
    keep_frozen,
    train_step,
)
from tests.helpers.tiny_training import (
    TINY,
    by_name,
    make_batch,
    make_config,
    plain_static,
    with_teacher,
)


@pytest.fixture
def config():
    config = make_config("", "")
    config.loss.descriptors_train_backbone = True
    return config


@pytest.fixture
def teach():
    """Makes a step learn from a teacher, too."""
    weights = dict.fromkeys(objective.TEACHING, 1.0)
    return functools.partial(with_teacher, **weights)


def start_of(static, size=64):
    start = functools.partial(create_state, static, view_size=size)
    return jax.jit(start)(jax.random.key(0))


def run_alone(static, start, batch, constants=NO_CONSTANTS):
    step = jax.jit(functools.partial(train_step, static=static))
    return step(start, batch, jax.random.key(0), constants)


def run_over(how, devices, config, start, batch, teach=None):
    """The step as the loop runs it, over some devices."""
    parallelize, axis_name = PARALLEL[how], axis_of(how, "dense")
    static, constants = plain_static(config, axis_name), NO_CONSTANTS
    if teach is not None:
        static, constants = teach(static)
    parallel = parallelize(static, devices)
    placed = parallel.place_state(jax.tree.map(jnp.copy, start))
    return parallel.step(
        placed,
        parallel.place_batch(batch),
        jax.random.key(0),
        parallel.place_constants(constants),
    )


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
def test_a_step_on_two_devices_equals_one_on_one(config, how, teach):
    """Losses that compare examples see those of the other device, too."""
    batch, (static, constants) = make_batch(), teach(plain_static(config))
    start = start_of(static)
    two, metrics_of_two = run_over(how, jax.devices(), config, start, batch, teach)
    one, metrics_of_one = run_alone(static, start, batch, constants)
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
        forward = jax.jit(functools.partial(_forward, how, maps=None))
        outputs, _ = forward(state.params["model"], state, {"image": seen}, key)
        outcomes.append(outputs["attention"])
    np.testing.assert_allclose(*outcomes, rtol=1e-4)


def test_early_averages_forget_the_start_and_late_ones_keep():
    old, new = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    early = _averaged(old, new, jnp.array(0), 0.99)
    late = _averaged(old, new, jnp.array(10**6), 0.99)
    np.testing.assert_allclose(early["a"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(late["a"], 0.01, rtol=1e-3)


def make_stage_config(train_only):
    """A tiny DELF with every trap: decay, averages, statistics, clipping."""
    config = read_config(TINY.parent / "delf_r50_gldv1_attention.py")
    config.batch_size, config.steps, config.train_only = 4, 5, train_only
    config.model.depth, config.model.width, config.model.attention_width = 18, 4, 8
    config.loss.classification, config.loss.attention = 1.0, 1.0
    config.optimizer.name, config.optimizer.weight_decay = "adamw", 0.1
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1.0, 0
    config.ema_decay = 0.9
    return config


def run_two_steps(config, axis_name=None, devices=None):
    """(state before, state after two steps, metrics of the second)."""
    static, _ = make_static(config, 3, axis_name)
    start = jax.jit(functools.partial(create_state, static, view_size=64))
    before = jax.device_get(start(jax.random.key(0)))
    batch = {n: make_batch()[n] for n in ("image", "label")}
    state = before
    if devices is None:
        step = jax.jit(functools.partial(train_step, static=static))
    else:
        parallel = over_pmap(static, devices)
        state, step = parallel.place_state(state), parallel.step
        batch = parallel.place_batch(batch)
    for _ in range(2):
        state, metrics = step(state, batch, jax.random.key(1), NO_CONSTANTS)
    return before, jax.device_get(state), jax.device_get(metrics).compute()


def variables_of(state):
    named = {"params": state.params["model"], "batch_stats": state.batch_stats}
    return by_name(named) | {f"ema/{n}": x for n, x in by_name(state.ema).items()}


@pytest.mark.parametrize(
    "train_only",
    [
        "attention",
        pytest.param("descriptors", marks=pytest.mark.slow),
        pytest.param("backbone", marks=pytest.mark.slow),
    ],
)
def test_only_what_a_stage_names_changes(train_only):
    before, after, metrics = run_two_steps(make_stage_config(train_only))
    assert np.isfinite(metrics["loss"])
    old, new = variables_of(before), variables_of(after)
    changed = {n for n in old if not np.array_equal(old[n], new[n])}
    trained = {
        "descriptors": {"backbone", "classifier"},
        "attention": {"attention", "attention_classifier"},
        "backbone": {"backbone"},
    }[train_only]
    parts = {
        name.replace("local/", "")
        .split("params/")[-1]
        .split("stats/")[-1]
        .split("/")[0]
        for name in changed
    }
    assert parts == trained


def test_of_the_global_branch_alone_nothing_else_changes(config):
    """Whatever a step does: the names decide."""
    static = plain_static(config)
    start = functools.partial(create_state, static, view_size=64)
    shapes = jax.eval_shape(start, jax.random.key(0))
    before = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    after = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    after = keep_frozen(after, before, "global")
    found = {n for n, x in variables_of(after).items() if x.any()}
    names = ("whitening/kernel", "whitening/bias", "classifier/kernel")
    assert found == {
        *(f"params/{name}" for name in names),
        *(f"ema/params/{name}" for name in names),
    }


def test_of_a_detector_on_a_backbone_that_stays_all_else_learns():
    config = read_config(TINY.parent / "detect_tiny.py")
    static, _ = make_static(config, 0, None)
    start = functools.partial(create_state, static, view_size=64)
    shapes = jax.eval_shape(start, jax.random.key(0))
    before = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    after = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    found = variables_of(keep_frozen(after, before, "detector"))
    assert {n for n, x in found.items() if not x.any()} == {
        n for n in found if "/backbone/" in n
    }
    assert static.module.backbone.normalization == "frozen"


def test_a_blend_lies_between_and_leaves_what_is_equal_bit_for_bit(rng):
    same, start, learned = rng.normal(size=(3, 7)).astype(np.float32)
    averages = {"params": {"a": same, "b": learned, "new": learned}}
    weights = {"params/a": same, "params/b": start, "params/new": start[:3]}
    found = blend(averages, weights, 0.3)["params"]
    np.testing.assert_array_equal(found["a"], same)
    np.testing.assert_allclose(found["b"], 0.7 * learned + 0.3 * start, rtol=1e-5)
    np.testing.assert_array_equal(found["new"], learned)
    assert blend(averages, weights, 0.0) is averages
    assert blend(averages, None, 0.3) is averages


@pytest.mark.slow
def test_frozen_is_bit_for_bit_on_two_devices():
    before, after, _ = run_two_steps(
        make_stage_config("attention"), AXIS, jax.devices()
    )
    old, new = variables_of(before), variables_of(after)
    for name in old:
        if "local/" not in name:
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)


@pytest.mark.slow
def test_everything_learns_by_default():
    before, after, _ = run_two_steps(make_stage_config(""))
    old, new = (by_name(state.params["model"]) for state in (before, after))
    still = {n for n in old if np.array_equal(old[n], new[n])}
    # A bias before BatchNorm has a gradient of rounding errors alone.
    assert still <= {"local/attention/conv1/bias"}


def test_unknown_parts_are_refused():
    with pytest.raises(InputError, match="train_only is 'head': use one of"):
        check_train_only("head")
