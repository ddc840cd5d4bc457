"""That a training learns: what it is shown, it knows at the end."""

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

import delf_jax
from delf_jax.config import read_config
from delf_jax.evaluation.detection import Found, average_precision
from delf_jax.formats.delf.boxes import read_boxes
from delf_jax.training import train
from tests.helpers.tiny_training import TINY, lines_of

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

DRAWN = {"first": 0, "landmarks": 3, "views": 3}
LAST = 5  # of the lines that metrics.jsonl holds.


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> pathlib.Path:
    """The workdir of a training on three views each of three drawn landmarks."""
    root = tmp_path_factory.mktemp("learning")
    config = read_config(TINY)
    config.steps = config.checkpoint_every = 180
    config.batch_size, config.log_every = 16, 4
    config.images_every, config.devices, config.data.threads = 0, 1, 1
    config.views.kind, config.views.area = "crop", (0.9, 1.0)
    config.views.colour = 0.0
    config.model.attention_width = config.model.reduced_dimension = 32
    config.loss.correspondence = config.loss.matchability = 0.0
    config.loss.scale = 5.66  # sqrt of the descriptor's dimension.
    config.optimizer.learning_rate = 0.128  # 8e-3 at this batch.
    config.optimizer.warmup_steps = 10
    config.data.directory = str(root / "data")
    with config.unlocked():
        config.data.sources = ConfigDict({"drawn": DRAWN})
    train.train(config, str(root / "run"))
    return root / "run"


def curve(workdir, name):
    return np.array([line[name] for line in lines_of(workdir) if name in line])


@pytest.mark.slow
def test_a_tiny_dataset_is_overfitted_to_the_last_view(learned):
    """Every crop of the last 20 steps is known by both classifiers."""
    for name in ("arcface_accuracy", "attention_accuracy"):
        accuracy = curve(learned, name)
        assert accuracy[0] < 0.6
        np.testing.assert_array_equal(accuracy[-LAST:], 1.0)


@pytest.mark.slow
def test_every_loss_falls(learned):
    for name in ("loss", "arcface", "attention", "reconstruction"):
        values = curve(learned, name)
        assert values[-LAST:].mean() < 0.5 * values[0], name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "narrow", "steps"),
    [("ssd", {}, 160), ("frcnn", {"depth": 18, "proposals": 32}, 400)],
)
def test_a_detector_finds_the_landmarks_that_it_was_shown(
    name, narrow, steps, tmp_path
):
    """Eight views of four; held out is nothing."""
    config = read_config(CONFIGS / f"detect_{name}.py")
    config.model.update(narrow)
    config.steps = config.checkpoint_every = steps
    config.batch_size, config.log_every, config.ema_decay = 8, 4, 0.9
    config.images_every, config.devices, config.data.threads = 0, 1, 1
    config.model.width, config.model.image_size, config.views.size = 16, 96, 96
    config.views.area, config.views.zoom, config.views.colour = (0.9, 1.0), 0.05, 0.2
    config.optimizer.learning_rate = 0.128  # 4e-3 at this batch.
    config.optimizer.warmup_steps = 10
    config.validation.every = 0
    config.data.directory = str(tmp_path / "data")
    config.data.sources.drawn.update(landmarks=4, views=2)
    train.train(config, str(tmp_path / "run"))
    losses = curve(tmp_path / "run", "detection")
    assert losses[-LAST:].mean() < 0.5 * losses[0]
    photos = sorted((tmp_path / "data" / "drawn-0-4x2").rglob("*.jpg"))
    found = delf_jax.detect(photos, tmp_path / "run" / "model", threshold=0.1)
    images = []
    for photo, each in zip(photos, found, strict=True):
        relative = photo.relative_to(tmp_path / "data" / "drawn-0-4x2")
        folder = tmp_path / "data" / "drawn-0-4x2-boxes"
        truth = read_boxes(folder / relative.with_suffix(".boxes")).boxes
        truth = truth * np.array([*each.image_size] * 2, np.float32)
        images.append(Found(each.boxes, each.scores, truth))
    assert average_precision(images)["AP50"] > 0.8
