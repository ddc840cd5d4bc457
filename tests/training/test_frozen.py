"""What a stage of a training does not train stays bit for bit."""

import functools

import jax
import numpy as np
import pytest

from delf_jax.config import read_config
from delf_jax.files import InputError
from delf_jax.training.build import make_static
from delf_jax.training.parallel import AXIS, over_pmap
from delf_jax.training.step import check, create_state, train_step
from tests.helpers.tiny_training import TINY, by_name, make_batch


def make_config(train_only):
    """A tiny DELF with every trap: decay, averages, statistics, clipping."""
    config = read_config(TINY.parent / "delf_r50_gldv1_attention.py")
    config.batch_size, config.steps, config.train_only = 4, 5, train_only
    config.model.depth, config.model.width, config.model.attention_width = 18, 4, 8
    config.loss.classification, config.loss.attention = 1.0, 1.0
    config.optimizer.name, config.optimizer.weight_decay = "adamw", 0.1
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1.0, 0
    config.ema_decay = 0.9
    return config


def run(config, axis_name=None, devices=None):
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
        state, metrics = step(state, batch, jax.random.key(1))
    return before, jax.device_get(state), jax.device_get(metrics).compute()


def variables_of(state):
    named = {"params": state.params["model"], "batch_stats": state.batch_stats}
    return by_name(named) | {f"ema/{n}": x for n, x in by_name(state.ema).items()}


@pytest.mark.parametrize(
    "train_only",
    [
        "attention",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("descriptors", "backbone")),
    ],
)
def test_only_what_a_stage_names_changes(train_only):
    before, after, metrics = run(make_config(train_only))
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


@pytest.mark.slow
def test_frozen_is_bit_for_bit_on_two_devices():
    before, after, _ = run(make_config("attention"), AXIS, jax.devices())
    old, new = variables_of(before), variables_of(after)
    for name in old:
        if "local/" not in name:
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)


@pytest.mark.slow
def test_everything_learns_unless_told_otherwise():
    before, after, _ = run(make_config(""))
    old, new = (by_name(state.params["model"]) for state in (before, after))
    still = {n for n in old if np.array_equal(old[n], new[n])}
    # A bias before BatchNorm has a gradient of rounding errors alone.
    assert still <= {"local/attention/conv1/bias"}


def test_unknown_parts_are_refused():
    with pytest.raises(InputError, match="train_only is 'head': use one of"):
        check("head")
