"""Modules, optimisers and loss settings of a config, and wrong ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from delf_jax.config import read_config
from delf_jax.extraction.model_folder import build_module
from delf_jax.files import InputError
from delf_jax.training import build, inputs
from delf_jax.training.build import make_optimizer, make_static
from delf_jax.training.config import read_training_config
from delf_jax.training.step import create_state
from tests.helpers.tiny_training import TINY


def read(name="gldv2_arcface_r101", **changes):
    config = read_config(TINY.parent / f"{name}.py")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss.margin_kind": "sphere"},
            "loss.margin_kind is 'sphere': use arcface or",
        ),
        ({"loss.classifier": "split"}, "loss.classifier is 'split': use dense or"),
        ({"loss.classifier_dtype": "int8"}, "use float32 or bfloat16"),
        ({"loss.centers": 0}, "loss.centers must be 1 or more"),
        ({"loss.smoothing": 1.0}, r"loss.smoothing in \[0, 1\)"),
        (
            {"loss.classification": 1.0},
            "must be 0 for model.name global: it is for delf",
        ),
        ({"train_only": "head"}, "train_only is 'head'"),
    ],
)
def test_a_word_that_makes_no_sense_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        make_static(read(**changes), 3, "batch")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "gldv2_arcface_r101",
            {"views.kind": "tuple"},
            "loss.arcface needs views.kind",
        ),
        (
            "sfm120k_r101",
            {"views.kind": "crop"},
            "contrastive needs views.kind 'tuple'",
        ),
        ("sfm120k_r101", {"model.normalization": "batch"}, 'must be "frozen"'),
        ("sfm120k_r101", {"views.size": 100}, "a multiple of 32"),
        ("how_r50", {"model.layout": "keras"}, "not 'keras'"),
    ],
)
def test_tuples_are_refused_where_they_cannot_be(name, changes, message):
    with pytest.raises(InputError, match=message):
        inputs.view_settings(read(name, **changes))


def test_margins_follow_the_images_of_each_class():
    config = read(**{"loss.margin": 0.1, "loss.rare_margin": 0.5})
    static, _ = make_static(config, 3, "batch", [1, 10, 10_000])
    assert isinstance(static.loss.margin, np.ndarray)
    np.testing.assert_allclose(static.loss.margin[[0, 2]], [0.5, 0.1], rtol=1e-6)
    assert static.loss.classes == 3


def test_strides_of_block3_and_gems_power_are_fields_of_every_training():
    """In shapes alone."""
    fields = {"block3_strides": True, "learn_power": True, "gem_power": 4.0}
    overrides = [f"--config.model.{name}={value}" for name, value in fields.items()]
    config = read_training_config(TINY, overrides)
    static, _ = make_static(config, 3, None)
    start = functools.partial(create_state, static, view_size=64)
    state = jax.eval_shape(start, jax.random.key(0))
    assert state.params["model"]["gem_power"].shape == ()
    assert static.module.gem_power == 4.0
    variables = {"params": state.params["model"], "batch_stats": state.batch_stats}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    outputs = jax.eval_shape(static.module.apply, variables, image)
    assert outputs["attention"].shape == (1, 2, 2)
    plain, _ = make_static(read_training_config(TINY), 3, None)
    whole = jax.eval_shape(
        functools.partial(create_state, plain, view_size=64), jax.random.key(0)
    )
    assert "gem_power" not in whole.params["model"]


def test_only_a_resnet_has_strides_after_block3():
    fields = {"name": "delg", "backbone": "compact", "global_dimension": 8}
    build_module(
        {**fields, "block3_strides": False}
    )  # of a config that kept the field.
    with pytest.raises(InputError, match="block3_strides"):
        build_module({**fields, "block3_strides": True})


PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
NO_GRADIENT = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}


def settings(**changes) -> ConfigDict:
    fields = {
        "name": "sgd",
        "learning_rate": 1.0,
        "schedule": "cosine",
        "warmup_steps": 0,
        "final_factor": 1.0,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "clip_norm": 0.0,
    }
    return ConfigDict(fields | changes)


def step(optimizer, gradients):
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    return optax.apply_updates(PARAMS, updates)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_kernels_decay_and_vectors_do_not(name):
    optimizer, _ = make_optimizer(settings(name=name, weight_decay=0.1), 10, 256)
    new = step(optimizer, NO_GRADIENT)
    np.testing.assert_allclose(new["kernel"], 0.9, rtol=1e-6)
    np.testing.assert_array_equal(new["bias"], 1.0)


def test_muon_turns_matrices_and_takes_adams_steps_elsewhere():
    """All that a matrix changes it changes about as much, by 0.2 on average (RMS)."""
    rng = np.random.default_rng(0)
    shapes = {
        "convolution": (3, 3, 4, 20),
        "depthwise": (3, 3, 1, 8),
        "classifier": (6, 9),
        "bias": (7,),
    }
    gradients = {
        n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()
    }
    params = jax.tree.map(jnp.zeros_like, gradients)
    optimizer, _ = make_optimizer(settings(name="muon"), 10, 256)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    matrix = np.asarray(updates.pop("convolution")).reshape(36, 20)
    parts = np.linalg.svd(matrix, compute_uv=False)
    assert parts.max() < 2 * parts.min()
    np.testing.assert_allclose(np.sqrt((matrix**2).mean()), 0.2, rtol=0.2)
    assert (matrix * gradients["convolution"].reshape(36, 20)).sum() < 0
    for name, update in updates.items():
        np.testing.assert_allclose(update, -np.sign(gradients[name]), rtol=1e-4)


def test_the_gradient_is_clipped_by_its_norm_over_all_parameters():
    optimizer, _ = make_optimizer(settings(clip_norm=1.0), 10, 256)
    new = step(optimizer, {"kernel": jnp.full((2, 2), 10.0), "bias": jnp.zeros(2)})
    np.testing.assert_allclose(new["kernel"], 1 - 0.5, rtol=1e-6)


def test_the_learning_rate_rises_then_falls_along_a_cosine():
    changes = {"learning_rate": 2.0, "warmup_steps": 10, "final_factor": 0.1}
    _, schedule = make_optimizer(settings(**changes), 110, 256)
    rates = [float(schedule(at)) for at in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0, 1, 2, 1.1, 0.2], rtol=1e-5)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(InputError, match="'adam2'"):
        make_optimizer(settings(name="adam2"), 10, 256)
    with pytest.raises(InputError, match="'step': use 'cosine', 'linear' or"):
        make_optimizer(settings(schedule="step"), 10, 256)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("linear", [0, 1, 2, 1.1, 0.2]), ("constant", [0, 1, 2, 2, 2])],
)
def test_the_learning_rate_falls_along_a_line_or_stays(name, expected):
    changes = {"learning_rate": 2.0, "warmup_steps": 10, "final_factor": 0.1}
    _, schedule = make_optimizer(settings(**changes, schedule=name), 110, 256)
    rates = [float(schedule(at)) for at in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_a_learning_rate_is_stated_for_256_images(name):
    _, schedule = make_optimizer(settings(schedule=name), 10, 64)
    np.testing.assert_allclose(schedule(0), 0.25, rtol=1e-6)


def test_the_original_schedule_is_linear_to_zero_without_warm_up():
    changes = {"learning_rate": 0.01, "final_factor": 0.0, "schedule": "linear"}
    _, schedule = make_optimizer(settings(**changes), 100, 128)
    for step in (0, 1, 50, 99):
        expected = 0.005 * (1 - step / 100)
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


@pytest.mark.parametrize("length", [0.0, 0.5, 20.0])
def test_clipping_is_that_of_optax(length):
    gradients = {"a": jnp.array([3.0, 4.0]) * length, "b": jnp.zeros((2, 2))}
    ours, theirs = (
        build._clip(2.0, optax.tree.norm),
        optax.clip_by_global_norm(2.0),
    )
    found, expected = (
        rule.update(gradients, rule.init(gradients))[0] for rule in (ours, theirs)
    )
    for name in gradients:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
