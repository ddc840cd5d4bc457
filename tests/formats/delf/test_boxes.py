import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.delf import boxes
from tests.formats.delf.test_datum import assert_all_damage_is_survived


@pytest.mark.golden
@pytest.mark.parametrize("name", ["boxes.boxes", "boxes_empty.boxes"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_boxes_are_the_originals_both_ways(golden, tmp_path, name, dtype):
    stored = np.load(golden / "formats" / "formats.npz")
    found = boxes.read_boxes(golden / "formats" / name)
    for array, field in zip(
        found, ("boxes_ymin_xmin_ymax_xmax", "scores", "class_indices"), strict=True
    ):
        np.testing.assert_array_equal(array.ravel(), stored[f"{name}/{field}"].ravel())
    assert found.boxes.shape[1] == 4 and found.class_indices.dtype == np.int32
    classes = found.class_indices.astype(dtype)  # Detectors give floats.
    boxes.write_boxes(tmp_path / "again", found.boxes, found.scores, classes)
    written = (tmp_path / "again").read_bytes()
    assert written == (golden / "formats" / name).read_bytes()


@pytest.mark.golden
def test_no_damaged_byte_is_more_than_an_error(golden, monkeypatch):
    data = (golden / "formats" / "boxes.boxes").read_bytes()
    assert_all_damage_is_survived(data, boxes.read_boxes, monkeypatch)


@pytest.mark.parametrize("index", [0.5, np.nan, 2.0**40])
def test_a_class_index_that_is_not_a_whole_number_is_refused(tmp_path, index):
    with pytest.raises(InputError, match=r"a\.boxes: class indices must be whole"):
        boxes.write_boxes(
            tmp_path / "a.boxes", np.zeros((1, 4)), np.ones(1), np.array([index])
        )
    assert not (tmp_path / "a.boxes").exists()


def test_boxes_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "a.boxes"
    boxes.write_boxes(path, np.full((1, 4), np.nan), np.ones(1), np.zeros(1))
    with pytest.raises(InputError, match=r"a\.boxes: a box needs finite numbers"):
        boxes.read_boxes(path)
