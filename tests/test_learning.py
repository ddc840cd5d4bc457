"""That a training learns: what it is shown, it knows at the end."""

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_training import TINY, lines_of

from delf_jax import configuration, train
from delf_jax.training_data import draw_landmarks

DRAWN = {"first": 0, "landmarks": 3, "views": 3}
LAST = 5  # of the lines that metrics.jsonl holds.


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> pathlib.Path:
    """The workdir of a training on three views each of three drawn landmarks."""
    root = tmp_path_factory.mktemp("learning")
    config = configuration.read_config(TINY)
    config.steps = config.checkpoint_every = config.validation.every = 240
    config.batch_size, config.log_every = 8, 4
    config.images_every, config.devices, config.data.threads = 0, 1, 1
    config.views.kind, config.views.area = "crop", (0.5, 1.0)
    config.views.size, config.views.colour = 48, 0.0
    config.model.attention_width = config.model.reduced_dimension = 32
    config.loss.correspondence = config.loss.matchability = 0.0
    config.loss.scale = 5.66  # sqrt of the descriptor's dimension.
    config.optimizer.learning_rate = 0.16  # 5e-3 at this batch.
    config.optimizer.warmup_steps = 10
    config.ema_decay = 0.9
    config.extraction.image_scales, config.extraction.global_scales = (0.25,), (0,)
    config.extraction.max_image_size = 384
    config.data.directory = str(root / "data")
    config.validation.dataset = draw_landmarks(DRAWN, config.data.directory)
    with config.unlocked():
        config.data.sources = ConfigDict({"drawn": DRAWN})
    train.train(config, str(root / "run"))
    return root / "run"


def curve(workdir, name):
    return np.array([line[name] for line in lines_of(workdir) if name in line])


def test_a_tiny_dataset_is_overfitted_to_the_last_view(learned):
    """Every crop of the last 20 steps is known by both classifiers."""
    for name in ("arcface_accuracy", "attention_accuracy"):
        accuracy = curve(learned, name)
        assert accuracy[0] < 0.6
        np.testing.assert_array_equal(accuracy[-LAST:], 1.0)


def test_every_loss_falls(learned):
    for name in ("loss", "arcface", "attention", "reconstruction"):
        values = curve(learned, name)
        assert values[-LAST:].mean() < 0.2 * values[0], name


def test_what_was_learned_ranks_views_of_a_landmark_first(learned):
    assert list(curve(learned, "validation/mAP")) == [1.0]
