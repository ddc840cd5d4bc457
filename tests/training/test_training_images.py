"""Pictures of a training."""

import numpy as np

from delf_jax.config import read_config
from delf_jax.training import log
from tests.helpers.tiny_training import TINY, make_config, plain_static


def test_a_sheet_shows_examples_side_by_side_and_views_below():
    views = np.arange(3 * 2, dtype=np.uint8).reshape(3, 2, 1, 1, 1)
    views = np.broadcast_to(views, (3, 2, 4, 4, 3))
    sheet = log.sheet(views)
    assert sheet.shape == (8, 12, 3)
    np.testing.assert_array_equal(sheet[::4, ::4, 0], [[0, 2, 4], [1, 3, 5]])


def test_an_overlay_is_bright_where_attention_is():
    image = np.full((32, 32, 3), 100, np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[3, 0] = 7.0
    shown = log.overlay(image, attention).sum(-1)
    assert shown[30, 1] > 2 * shown[1, 30]
    flat = log.overlay(image, np.zeros((4, 4), np.float32))
    assert (flat == flat[0, 0]).all()


def test_what_a_batch_shows_ends_with_the_eighth_example(monkeypatch):
    images = np.zeros((9, 2, 16, 16, 3), np.uint8)
    static = plain_static(make_config("", ""))
    maps = np.ones((8, 2, 2), np.float32)
    monkeypatch.setattr(log, "_attention", lambda *rest: maps)
    shown = log.look(static, {}, {"image": images})
    assert {name: x.shape for name, x in shown.items()} == {
        "batch": (32, 128, 3),
        "attention": (32, 128, 3),
    }
    dense = ["--config.loss.classifier=dense"]
    config = read_config(TINY.parent / "gldv2_arcface_r101.py", dense)
    static = plain_static(config)
    assert list(log.look(static, {}, {"image": images})) == ["batch"]
