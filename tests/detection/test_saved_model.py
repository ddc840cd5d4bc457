"""Detectors of the original: SavedModels of its signature."""

import sys

import numpy as np
import pytest

import delf_jax
from delf_jax import cli
from delf_jax.files import InputError
from delf_jax.formats.delf.boxes import read_boxes
from tests.helpers.detectors import draw_bright

BOXES = [[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.2, 1.0], [0.3, 0.3, 0.3, 0.9]]


def save_detector(folder, outputs=("boxes", "scores", "classes")):
    """One that always finds BOXES, the surer the brighter the first pixel is."""
    tf = pytest.importorskip("tensorflow", reason="the extra [tf] is not installed")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.uint8, (None, None, None, 3), "input_images")
        bright = tf.cast(images[:, 0, 0, :1], tf.float32) / 255
        values = {
            "boxes": tf.tile(tf.constant([BOXES]), (tf.shape(images)[0], 1, 1)),
            "scores": bright * [[0.9, 0.3, 0.8]],
            "classes": tf.ones_like(bright) * [[1.0, 1.0, 1.0]],
        }
        found = {n: tf.identity(values[n], f"detection_{n}") for n in outputs}
        v1.saved_model.simple_save(session, str(folder), {"images": images}, found)
    return folder


def test_a_released_detector_gives_boxes_as_ours(tmp_path):
    model = save_detector(tmp_path / "d2r_frcnn")
    image = np.full((50, 200, 3), 255, np.uint8)
    found = delf_jax.detect(image, model, threshold=0.1)
    expected = [[5, 40, 25, 120], [0, 0, 50, 200]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.3], atol=1e-6)
    assert found.class_indices.tolist() == [1, 1]
    assert len(delf_jax.detect(draw_bright((40, 40)), model).scores) == 0


def test_its_boxes_are_written_as_the_original_does(tmp_path, capsys):
    from PIL import Image

    model = save_detector(tmp_path / "d2r_frcnn")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (200, 50), "white").save(tmp_path / "photos" / "a.png")
    arguments = ["detect", str(tmp_path / "photos"), f"--out={tmp_path / 'out'}"]
    arguments += [f"--model={model}", "--format=boxes"]
    assert cli.main(arguments) == 0
    found = read_boxes(tmp_path / "out" / "a.boxes")
    np.testing.assert_allclose(found.boxes, [BOXES[0]], atol=1e-6)
    assert found.class_indices.tolist() == [1]


def test_another_saved_model_is_one_sentence(tmp_path):
    model = save_detector(tmp_path / "other", outputs=("boxes",))
    with pytest.raises(InputError, match="other: no detector as the original's, which"):
        delf_jax.detect(draw_bright((40, 40)), model)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"none")
    with pytest.raises(InputError, match="broken: no detector as the original's"):
        delf_jax.detect(draw_bright((40, 40)), tmp_path / "broken")


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"which TensorFlow runs: pip install 'delf_ja"
    ):
        delf_jax.detect(draw_bright((40, 40)), tmp_path)
