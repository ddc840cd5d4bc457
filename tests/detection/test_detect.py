"""Boxes of images, by a detector that sees what is bright."""

import io

import numpy as np
import pytest
from PIL import Image

import delf_jax
from delf_jax.detection.detect import detect_images
from delf_jax.files import InputError
from tests.helpers.detectors import draw_bright, sees_bright

MODEL = sees_bright()


def test_boxes_are_in_pixels_of_the_image_best_first():
    image = draw_bright((80, 160), (0, 1), (2, 3))
    image[40:60, 120:] = 200  # less bright
    found = delf_jax.detect(image, MODEL, threshold=0.5)
    assert found.image_size == (80, 160)
    expected = [[0, 40, 20, 80], [40, 120, 60, 160]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)
    assert found.scores[0] > found.scores[1] > 0.5
    assert found.class_indices.tolist() == [1, 1]
    assert str(found) == f"image 1: 2 boxes, the best {found.scores[0]:.2f}"
    assert str(delf_jax.detect(image, MODEL, threshold=1.0)) == "image 1: 0 boxes"


def test_the_threshold_chooses():
    image = draw_bright((64, 64), (1, 1))
    assert len(delf_jax.detect(image, MODEL, threshold=0.0).scores) == 16
    assert len(delf_jax.detect(image, MODEL).scores) == 1
    assert len(delf_jax.detect(image, MODEL, threshold=1.0).scores) == 0
    for threshold in (-0.1, 1.5, float("nan")):
        with pytest.raises(
            InputError, match=r"threshold is .*: scores are in \[0, 1\]"
        ):
            delf_jax.detect(image, MODEL, threshold=threshold)


def test_images_of_any_kind_and_size_have_boxes(tmp_path):
    image = draw_bright((64, 96), (3, 0))
    Image.fromarray(image).save(tmp_path / "a.png")
    data = io.BytesIO((tmp_path / "a.png").read_bytes())
    kinds = [tmp_path / "a.png", image, image / 255.0, Image.fromarray(image), data]
    for found in delf_jax.detect(kinds, MODEL):
        np.testing.assert_allclose(found.boxes, [[48, 0, 64, 24]], atol=1e-3)
    tiny = delf_jax.detect(np.full((1, 1, 3), 255, np.uint8), MODEL)
    assert len(tiny.scores) == 16 and (tiny.boxes <= 1).all()
    long = delf_jax.detect(np.full((1, 5000, 3), 255, np.uint8), MODEL)
    assert np.isfinite(long.boxes).all() and len(long.scores)


def test_an_image_that_cannot_be_used_is_an_error_in_its_place(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    images = [tmp_path / "broken.jpg", draw_bright((64, 64), (0, 0))]
    error, found = delf_jax.detect(images, MODEL, errors="return")
    assert isinstance(error, InputError) and error.image.endswith("broken.jpg")
    assert str(error).count("broken.jpg") == 1 and len(found.scores) == 1
    with pytest.raises(InputError, match=r"broken\.jpg: "):
        delf_jax.detect(images, MODEL)


def test_many_images_are_not_opened_at_once():
    opened = []

    def images():
        for number in range(100):
            opened.append(number)
            yield draw_bright((32, 32), (0, 0))

    found = detect_images(MODEL, images(), threads=1)
    next(found)
    assert len(opened) < 10
    found.close()


def test_a_detector_and_a_model_of_features_are_told_apart(model, tiny_model):
    image = draw_bright((64, 64), (0, 0))
    with pytest.raises(InputError, match="tiny gives features and no boxes: detect"):
        delf_jax.detect(image, tiny_model)
    with pytest.raises(
        InputError, match="sees_bright is a detector, which gives boxes"
    ):
        delf_jax.extract(image, MODEL)
    with pytest.raises(InputError, match="is a detector"):
        delf_jax.build_index([image], model=MODEL)
    with pytest.raises(InputError, match="is a detector"):
        delf_jax.match(image, image, model=MODEL)
