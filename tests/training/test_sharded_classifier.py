"""Classes in pieces on two devices train as those of one classifier."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from delf_jax.config import read_config
from delf_jax.files import InputError
from delf_jax.models.resnet import ResNet
from delf_jax.training import sharded_classifier, train
from delf_jax.training.build import make_static
from delf_jax.training.objective import LossSettings
from delf_jax.training.parallel import AXIS, PARALLEL, shardings
from delf_jax.training.step import NO_CONSTANTS, create_state
from tests.helpers.tiny_training import (
    by_name,
    draw_images,
    final_state,
    lines_of,
    make_batch,
)

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "gldv2_arcface_r101.py"
CLASSES = 3  # do not divide among two devices.


def make_config(**loss):
    """A tiny net, whose gradients are clipped and whose weights decay."""
    config = read_config(CONFIG)
    config.batch_size, config.steps, config.precision = 4, 5, "float32"
    config.model.depth, config.model.width, config.model.global_dimension = 18, 4, 8
    config.views.size = 64
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 0.5, 0
    config.optimizer.clip_norm = 0.5
    settings = {"classifier": "dense", "classifier_dtype": "float32", "scale": 10.0}
    config.loss.update(settings | loss)
    return config


class Plain(ResNet):
    """One small convolution, soon compiled."""

    @nn.compact
    def __call__(self, images, sizes=None, *, train=False, last="block4"):
        x = nn.relu(nn.Conv(4, (1, 1))(images))
        return {"block3": x, "block4": x}


def two_steps(config, how="pmap", backbone=None):
    """(whole state, metrics) after two steps on two devices."""
    counts = [1, 5, 40]
    static, _ = make_static(config, CLASSES, AXIS, counts)
    if backbone is not None:
        static = static._replace(module=static.module.clone(backbone=backbone))
    start = jax.jit(functools.partial(create_state, static, view_size=64))
    parallel = PARALLEL[how](static, jax.devices())
    state = parallel.place_state(start(jax.random.key(0)))
    batch = {name: make_batch()[name] for name in ("image", "label")}
    for _ in range(2):
        state, metrics = parallel.step(
            state, parallel.place_batch(batch), jax.random.key(0), NO_CONSTANTS
        )
    whole = sharded_classifier.whole(state, static.loss)
    return by_name(whole), jax.device_get(metrics).compute()


def test_under_jit_pieces_equal_those_under_pmap():
    """To the bit, for it is one program."""
    config = make_config(classifier="sharded", centers=2, rare_margin=0.5)
    expected, metrics = two_steps(config, "pmap", Plain())
    found, under_jit = two_steps(config, "jit", Plain())
    assert under_jit == metrics
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("loss", "tolerance"),
    [
        ({"centers": 2, "rare_margin": 0.5, "smoothing": 0.1}, 1e-4),
        pytest.param(
            {"margin_kind": "cosface", "classifier_dtype": "bfloat16"},
            2e-2,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_steps_in_pieces_equal_two_of_the_whole(loss, tolerance):
    """Weights, averages, momentum, losses and the norm that clips."""
    dense, expected = two_steps(make_config(**loss))
    sharded, metrics = two_steps(make_config(**loss, classifier="sharded"))
    assert metrics["gradient_norm"] > 0.5
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected[name], rtol=tolerance, err_msg=name)
    assert dense.keys() == sharded.keys()
    for name, value in sharded.items():
        atol = tolerance * (np.abs(dense[name]).max() + 1e-6)
        np.testing.assert_allclose(value, dense[name], rtol=0, atol=atol, err_msg=name)


def test_under_jit_a_device_holds_its_classes_alone():
    config = make_config(classifier="sharded", centers=2)
    static, _ = make_static(config, CLASSES, AXIS)
    static = static._replace(module=static.module.clone(backbone=Plain()))
    start = jax.jit(functools.partial(create_state, static, view_size=64))
    state = start(jax.random.key(0))
    placed = PARALLEL["jit"](static, jax.devices()).place_state(state)
    for tree in (placed.params["model"], placed.ema["params"]):
        kernel = tree["classifier"]["kernel"]
        assert kernel.shape == (8, 8)  # of four classes, of which one is none.
        shards = kernel.addressable_shards
        assert [shard.data.shape for shard in shards] == [(8, 4), (8, 4)]
    before, whole = by_name(state), sharded_classifier.whole(placed, static.loss)
    for name, leaf in by_name(whole).items():
        np.testing.assert_array_equal(leaf, before[name], err_msg=name)


@pytest.mark.parametrize(("classes", "centers"), [(5, 1), (4, 3), (1, 2)])
def test_pieces_go_together_again_and_hold_less_than_the_whole(rng, classes, centers):
    loss = LossSettings(classifier="sharded", classes=classes, centers=centers)
    kernel = rng.normal(size=(6, classes * centers)).astype(np.float32)
    state = {"a": {"classifier": {"kernel": kernel}, "bias": kernel[0]}}
    placements = shardings(jax.devices())
    split = sharded_classifier.split(state, *placements, centers)
    pieces = split["a"]["classifier"]["kernel"]
    assert pieces.shape == (2, 6, -(-classes // 2) * centers)
    assert {shard.data.shape[0] for shard in pieces.addressable_shards} == {1}
    for name, leaf in by_name(sharded_classifier.whole(split, loss)).items():
        np.testing.assert_array_equal(leaf, by_name(state)[name])


def test_a_sharded_classifier_needs_classes():
    config = make_config(classifier="sharded")
    config.loss.arcface, config.loss.contrastive = 0.0, 1.0
    with pytest.raises(InputError, match="is for loss.arcface"):
        make_static(config, CLASSES, AXIS)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pmap", "jit"])
def test_a_training_in_pieces_is_kept_whole_and_resumes_on_other_devices(tmp_path, how):
    config = make_config(classifier="sharded", centers=2)
    config.parallel = how
    config.steps, config.checkpoint_every, config.log_every = 4, 2, 1
    config.validation.every = 0
    config.data.sources.train.path = str(
        draw_images(tmp_path / "images", classes=("a", "b", "c"))
    )
    config.data.sources.train.split = ""
    config.data.directory, config.data.threads = str(tmp_path / "data"), 1
    config.devices = 2
    whole = tmp_path / "whole"
    assert train.train(config, str(whole)).finished
    state = final_state(whole)
    assert state["params/model/classifier/kernel"].shape == (8, 2 * CLASSES)
    assert (whole / "model" / "model.safetensors").exists()

    halves = tmp_path / "halves"
    config.steps = 2
    # Only where it stops differs: the schedule is that of four steps.
    config.optimizer.schedule = "constant"
    train.train(config, str(halves))
    config.devices, config.steps = 1, 4
    assert train.train(config, str(halves)).finished
    assert lines_of(halves)[-1]["step"] == 4
    resumed = final_state(halves)
    assert {n: x.shape for n, x in resumed.items()} == {
        n: x.shape for n, x in state.items()
    }
