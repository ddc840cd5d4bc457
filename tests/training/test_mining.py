"""The hard negatives of an epoch, and the descriptors that choose them."""

import functools
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from delf_jax.config import read_config
from delf_jax.extraction import extract, model_folder, settings
from delf_jax.losses import mining
from delf_jax.training import inputs, log, parallel, train
from delf_jax.training.build import make_static
from delf_jax.training.mining import _over, _strongest, describe_images, set_reduction
from delf_jax.training.step import create_state
from tests.helpers.tiny_training import draw_images, final_state


def naive(query, pool, own, clusters, count):
    """Walks down the ranking, as the released code does."""
    taken, seen = [], {own}
    for place in sorted(range(len(pool)), key=lambda i: (-(pool[i] @ query), i)):
        if clusters[place] not in seen:
            seen.add(clusters[place])
            taken.append(place)
        if len(taken) == count:
            return taken
    raise AssertionError


@pytest.mark.parametrize("count", [1, 4])
def test_negatives_are_those_of_a_walk_down_the_ranking(rng, count, monkeypatch):
    monkeypatch.setattr(mining, "_CHUNK", 3)
    queries, pool = (rng.integers(-3, 4, (n, 3)).astype(np.float32) for n in (8, 40))
    own, clusters = rng.integers(6, size=8), rng.integers(6, size=40)
    found = mining.hard_negatives(queries, pool, own, clusters, count)
    for query, row, cluster in zip(queries, found, own, strict=True):
        assert row.tolist() == naive(query, pool, cluster, clusters, count)


def test_no_negative_shows_what_the_query_does_and_no_two_the_same(rng):
    descriptors = rng.normal(size=(60, 4)).astype(np.float32)
    clusters = rng.integers(12, size=60)
    found = mining.hard_negatives(descriptors, descriptors, clusters, clusters, 5)
    for own, row in zip(clusters, clusters[found], strict=True):
        assert own not in row and len(set(row)) == 5


def test_too_few_clusters_are_reported():
    ones = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="the pool has 1 clusters besides"):
        mining.hard_negatives(ones, ones, np.array([0, 0, 1]), np.array([0, 0, 1]), 2)


# What a training by tuples computes between its steps (delf_jax/mining.py).

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def make_config(name, images, directory):
    """A training of two epochs of two batches, on three classes of three images."""
    config = read_config(CONFIGS / f"{name}.py")
    config.batch_size, config.steps, config.log_every = 4, 4, 1
    config.checkpoint_every, config.images_every, config.devices = 2, 0, 2
    config.model.depth, config.model.width = 18, 4
    config.views.size = 64
    config.tuples.queries, config.tuples.pool, config.tuples.negatives = 9, 9, 2
    config.optimizer.learning_rate = 1.0
    config.data.sources.sfm.path = str(images)
    config.data.directory, config.data.threads = str(directory), 1
    if name == "how_r50":
        config.model.reduced_dimension, config.tuples.reduce_images = 6, 8
    return config


def opened(config):
    """(batches, static, first state), as a training makes them."""
    batches = inputs.open_batches(config, inputs.open_sources(config), 2)
    static, _ = make_static(config, 3, parallel.AXIS, [3] * 3)
    start = functools.partial(create_state, static, view_size=64)
    return batches, static, jax.jit(start)(jax.random.key(0))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images") / "all", classes="abc")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_the_reduction_of_how_whitens_the_strongest_cells(images, directory):
    config = make_config("how_r50", images, directory)
    batches, static, state = opened(config)
    state = set_reduction(batches.pool, config, static, state, jax.devices())
    variables = {"params": state.params["model"], "batch_stats": state.batch_stats}
    numbers = np.random.default_rng(config.seed).permutation(9)[:8]
    pieces = _over(
        _strongest, batches.pool, 64, static, variables, jax.devices(), numbers, ""
    )
    cells = np.concatenate([x[valid] for x, valid in pieces])
    assert cells.shape == (8 * 12, 6)  # images of 48 x 64 pixels have 3 x 4 cells.
    np.testing.assert_allclose(cells.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(cells.T, bias=True), np.eye(6), atol=2e-2)
    for name, x in state.params["model"]["reduce"].items():
        np.testing.assert_array_equal(x, state.ema["params"]["reduce"][name])


def test_descriptors_do_not_depend_on_how_many_devices_share_them(images, directory):
    config = make_config("sfm120k_r101", images, directory)
    batches, static, state = opened(config)
    variables = {"params": state.params["model"], "batch_stats": state.batch_stats}
    found = [
        describe_images(
            batches.pool, 64, static, variables, devices, np.arange(9), label=""
        )
        for devices in (jax.devices()[:1], jax.devices()[:2])
    ]
    assert found[0].shape == (9, 32)
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sfm120k_r101", "how_r50"])
def test_a_training_by_tuples_resumes_to_the_same_numbers(
    name, images, directory, tmp_path, monkeypatch
):
    """Stopped within an epoch and at its end; negatives are those of its start."""
    config = make_config(name, images, directory)
    assert train.train(config, str(tmp_path / "whole")).finished
    whole = final_state(tmp_path / "whole")
    for stop in (1, 2):
        add = log.TrainingLog.add

        def add_and_stop(self, step, *rest, stop=stop, add=add):
            add(self, step, *rest)
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(log.TrainingLog, "add", add_and_stop)
        workdir = tmp_path / f"stopped{stop}"
        assert not train.train(config, str(workdir)).finished
        monkeypatch.undo()
        assert train.train(config, str(workdir)).finished
        for leaf, value in final_state(workdir).items():
            np.testing.assert_array_equal(value, whole[leaf], err_msg=leaf)

    model = model_folder.load_model(tmp_path / "whole" / "model")
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    (found,) = extract.extract_features(model, [photo], settings.settings_for(model))
    if name == "how_r50":
        assert found.local.descriptors.shape[1] == 6
        start = whole["params/model/reduce/kernel"]
        assert np.abs(start).max() > 0
    else:
        # The mean of queries and the whitening of their pairs came with the model.
        assert model.config["extraction"]["global_pca"].projection.shape == (32, 32)
        assert found.global_descriptor.shape == (32,)
