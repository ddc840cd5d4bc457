import os

import numpy as np
import pytest

from delf_jax.extraction import boxes
from delf_jax.extraction.boxes import boxes_of, of_images, open_boxes
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from tests.helpers.box_files import HEADER, write_file, write_table

SETTINGS = ExtractionSettings()
SIZE = (100, 200)


def test_boxes_of_a_table_are_pixels_rounded_outwards_and_cut_to_the_image(tmp_path):
    given = open_boxes(
        write_table(
            tmp_path,
            "a/1.jpg,10.2,20.9,50.1,60",
            "a/1.jpg,-5,150,300,250.5",
            "b,1,1,9,9",
        )
    )
    given = of_images(given, ["a/1.jpg", "b.png", "c.png"])
    found = boxes_of(given, "a/1.jpg", SIZE, SETTINGS)
    np.testing.assert_array_equal(found, [[10, 20, 51, 60], [0, 150, 100, 200]])
    assert found.dtype == np.float32
    # By the name without extension, too.
    assert boxes_of(given, "b.png", SIZE, SETTINGS).shape == (1, 4)
    assert boxes_of(given, "c.png", SIZE, SETTINGS).shape == (0, 4)


def test_boxes_of_files_are_parts_of_the_image_rounded_as_the_original_does(tmp_path):
    write_file(tmp_path, "a/1", [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]], [0.9, 0.05])
    given = of_images(open_boxes(tmp_path), ["a/1.jpg", "a/2.jpg"])
    found = boxes_of(given, "a/1.jpg", (333, 77), SETTINGS)
    y, x = np.float32(333), np.float32(77)
    box = np.float32([0.1, 0.2, 0.3, 0.4])
    expected = [np.floor(box[0] * y), np.floor(box[1] * x)]
    expected += [np.ceil(box[2] * y), np.ceil(box[3] * x)]
    np.testing.assert_array_equal(found, [expected])
    assert boxes_of(given, "a/2.jpg", SIZE, SETTINGS).shape == (0, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_hidden_or_no_regular_file_has_no_boxes(tmp_path):
    write_file(tmp_path, "a/1", [[0.1, 0.2, 0.3, 0.4]], [0.9])
    alone = boxes.digest(open_boxes(tmp_path))
    (tmp_path / "a" / "._1.boxes").write_bytes(b"\0\5\26\7")
    os.mkfifo(tmp_path / "a" / "2.boxes")
    assert boxes.digest(open_boxes(tmp_path)) == alone


def test_the_threshold_and_the_number_of_boxes_are_the_settings(tmp_path):
    rows = [f"a,0,{n},50,{n + 20},{s}" for n, s in enumerate([0.5, 0.9, 0.1, 0.09])]
    given = open_boxes(write_table(tmp_path, *rows, header=HEADER + ",score"))
    left = {
        (threshold, most): boxes_of(
            given,
            "a",
            SIZE,
            SETTINGS._replace(box_threshold=threshold, max_boxes=most),
        )[:, 1].tolist()
        for threshold, most in [(0.1, None), (0.5, None), (0.0, 2), (0.0, 1), (0, 0)]
    }
    assert list(left.values()) == [[0, 1, 2], [0, 1], [0, 1], [1], []]


def test_a_thousand_boxes_of_a_photo_are_all_kept_or_the_best(tmp_path):
    rows = [f"a,{n % 50},{n % 90},{n % 50 + 9},{n % 90 + 9},{n}" for n in range(1000)]
    given = open_boxes(write_table(tmp_path, *rows, header=HEADER + ",score"))
    every = boxes_of(given, "a", SIZE, SETTINGS)
    assert every.shape == (999, 4)  # The first has a score of 0.
    best = boxes_of(given, "a", SIZE, SETTINGS._replace(max_boxes=3))
    np.testing.assert_array_equal(best, every[-3:])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,0,0,nan,5", "line 2, y_max: 'nan' is not a number, or out of range"),
        ("a,0,0,5,inf", "line 2, x_max: 'inf' is not a number, or out of range"),
        ("a,5,0,5,9", "y_min < y_max and x_min < x_max"),
        ("a,0,0,x,5", "line 2, y_max: 'x' is not a number"),
        ("a,0,0", "line 2: no field 'y_max'"),
        ("a,0.1,0.1,0.5,0.9", "its boxes are not in pixels"),
    ],
)
def test_rows_that_make_no_sense_are_refused(tmp_path, row, reason):
    with pytest.raises(InputError, match=reason):
        open_boxes(write_table(tmp_path, row))


def test_a_box_outside_of_its_image_is_refused(tmp_path):
    given = open_boxes(write_table(tmp_path, "a,0,200,50,300"))
    reason = r"\(200, 0\) to \(300, 50\) lies outside of a, which has 200 x 100 pixels"
    with pytest.raises(InputError, match=reason):
        boxes_of(given, "a", SIZE, SETTINGS)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_boxes(tmp_path / "none.csv")
    with pytest.raises(InputError, match="no column 'x_min'"):
        open_boxes(write_table(tmp_path, header="image,y_min"))
    path = write_file(tmp_path, "a", [[0.5, 0, 0.5, 1]], [1])
    with pytest.raises(InputError, match="name the folder of such files"):
        open_boxes(path)
    with pytest.raises(InputError, match=r"a\.boxes: a box needs finite"):
        given = of_images(open_boxes(tmp_path), ["a.jpg"])
        boxes_of(given, "a.jpg", SIZE, SETTINGS)


def test_the_coverage_says_how_many_images_have_boxes(tmp_path):
    given = open_boxes(write_table(tmp_path, "a.jpg,0,0,5,5", "z.jpg,0,0,5,5"))
    text = boxes.format_coverage(given, ["a.jpg", "b.jpg"])
    assert text.endswith(
        "boxes of 1 of 2 images; 1 names match no image, such as z.jpg"
    )
    with pytest.raises(InputError, match="names none of the images, such as b.jpg"):
        boxes.format_coverage(given, ["b.jpg"])
    write_file(tmp_path, "b", [[0, 0, 1, 1]], [1])
    text = boxes.format_coverage(open_boxes(tmp_path), ["a.jpg", "b.jpg"])
    assert text.endswith("boxes of 1 of 2 images")


def test_a_name_of_boxes_meets_one_image_or_is_counted(tmp_path):
    rows = ("1.JPG,0,0,5,5", "deep/2,0,0,6,6", "3,0,0,7,7", "4.png,0,0,8,8")
    given = open_boxes(write_table(tmp_path, *rows))
    ids = ["a/1.jpg", "2.png", "a/3.jpg", "b/3.jpg", "4.jpg", "4"]
    met = boxes.of_images(given, ids)
    sides = [boxes_of(met, id, SIZE, SETTINGS)[:, 2].tolist() for id in ids]
    assert sides == [[5], [6], [], [], [], []]
    text = boxes.format_coverage(given, ids)
    assert text.endswith("boxes of 2 of 6 images; 2 names match no image, such as 3")


def test_boxes_of_a_name_without_suffix_are_not_those_of_another_image(tmp_path):
    given = open_boxes(write_table(tmp_path, "a,0,0,5,5", "b.jpg,0,0,6,6", "b,0,0,7,7"))
    met = boxes.of_images(given, ["a", "a.jpg", "b.jpg"])
    assert [len(boxes_of(met, id, SIZE, SETTINGS)) for id in met.table] == [1, 0, 2]


def test_files_of_boxes_meet_images_in_folders(tmp_path):
    write_file(tmp_path, "One", [[0, 0, 1, 1]], [1])
    met = boxes.of_images(open_boxes(tmp_path), ["deep/one.jpg", "two.jpg"])
    assert boxes_of(met, "deep/one.jpg", SIZE, SETTINGS).tolist() == [[0, 0, 100, 200]]
    assert not len(boxes_of(met, "two.jpg", SIZE, SETTINGS))
