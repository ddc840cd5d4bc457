"""Boxes of training images from CSVs, .boxes files, COCO and VOC."""

import json

import numpy as np
import pytest
from PIL import Image

from delf_jax.data.boxes import read_boxes
from delf_jax.data.image_lists import list_records
from delf_jax.files import InputError
from delf_jax.formats.delf.boxes import write_boxes

# By id: (height, width), boxes in pixels.
IMAGES = {
    "a/0.png": ((40, 80), [[10, 20, 30, 60], [0, 0, 40, 8]]),
    "a/1.png": ((20, 10), [[0, 0, 20, 10]]),
    "b/0.png": ((20, 20), []),
}
VOC = "<annotation><size><width>{1}</width><height>{0}</height></size>{2}</annotation>"
OBJECT = (
    "<object><bndbox><ymin>{}</ymin><xmin>{}</xmin><ymax>{}</ymax><xmax>{}</xmax>"
    "</bndbox></object>"
)


@pytest.fixture
def photos(tmp_path):
    for name, ((height, width), _) in IMAGES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def records(photos):
    return list_records(str(photos))


def write_csv(folder):
    rows = [f"{id},{','.join(map(str, b))}" for id, (_, x) in IMAGES.items() for b in x]
    path = folder / "boxes.csv"
    path.write_text("image,y_min,x_min,y_max,x_max\n" + "\n".join(rows) + "\n")
    return path


def write_files(folder):
    for id, (size, boxes) in IMAGES.items():
        parts = np.array(boxes, float).reshape(-1, 4) / [*size, *size]
        path = folder / "files" / id.replace(".png", ".boxes")
        count = len(parts)
        write_boxes(path, parts, np.ones(count), np.ones(count, np.int32))
    return folder / "files"


def write_coco(folder):
    images, annotations = [], []
    for number, (id, ((height, width), boxes)) in enumerate(IMAGES.items()):
        images.append({"id": number, "file_name": id, "height": height, "width": width})
        for y_min, x_min, y_max, x_max in boxes:
            box = [x_min, y_min, x_max - x_min, y_max - y_min]
            annotations.append({"image_id": number, "category_id": 3, "bbox": box})
    annotations.append({"image_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def write_voc(folder):
    for id, (size, boxes) in IMAGES.items():
        path = (folder / "voc" / id).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        objects = [OBJECT.format(b[0] + 1, b[1] + 1, b[2], b[3]) for b in boxes]
        path.write_text(VOC.format(*size, "".join(objects)))
    return folder / "voc"


def write_gld(folder):
    rows = []
    for id, (size, boxes) in IMAGES.items():
        parts = (np.array(boxes, float).reshape(-1, 4) / [*size, *size]).tolist()
        rows += [f"{id},{' '.join(map(str, part))}\n" for part in parts or [()]]
    path = folder / "boxes_split1.csv"
    path.write_text("id,box\n" + "".join(rows))
    return path


FORMS = [write_csv, write_files, write_coco, write_voc, write_gld]


@pytest.mark.parametrize("write", FORMS)
def test_all_forms_give_the_same_boxes(records, tmp_path, write):
    found = read_boxes(write(tmp_path), records)
    # in a CSV an image without boxes cannot be
    named = [id for id, (_, x) in IMAGES.items() if x or write is not write_csv]
    assert [*found] == named
    for id, boxes in found.items():
        size, expected = IMAGES[id]
        expected = np.reshape(expected, (-1, 4)) / [*size, *size]
        np.testing.assert_allclose(boxes, expected, atol=1e-6)


def test_an_image_that_is_turned_has_boxes_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (80, 40)).save(tmp_path / "0.jpg", exif=exif)
    (tmp_path / "b.csv").write_text(
        "image,y_min,x_min,y_max,x_max\n0.jpg,40,10,80,40\n"
    )
    found = read_boxes(tmp_path / "b.csv", list_records(str(tmp_path)))
    np.testing.assert_allclose(found["0.jpg"], [[0.5, 0.25, 1, 1]])


def test_what_lies_outside_is_cut_off(records, tmp_path, capsys):
    path = tmp_path / "b.csv"
    rows = "a/0.png,-9,-9,20,40\na/0.png,100,100,120,120\na/1.png,90,0,99,9\n"
    path.write_text("image,y_min,x_min,y_max,x_max\n" + rows)
    found = read_boxes(path, records)
    np.testing.assert_allclose(found["a/0.png"], [[0, 0, 0.5, 0.5]])
    assert found["a/1.png"].shape == (0, 4)
    assert "2 boxes left out: nothing of them is inside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "field annotations is missing; expected the instances"),
        ({"images": [{"id": 1}], "annotations": []}, "images.* is missing"),
        ({"annotations": [{"image_id": 5, "bbox": [0, 0, 1, 1]}]}, "image_id 5 is no"),
        ({"annotations": [{"image_id": 0, "bbox": [0, 0]}]}, "is not x, y, width, he"),
        ({"annotations": [{"image_id": 0, "bbox": "no"}]}, "bbox"),
        ([], "expected the instances of COCO"),
    ],
)
def test_coco_that_is_none_is_one_sentence(records, tmp_path, content, message):
    path = tmp_path / "coco.json"
    image = {"id": 0, "file_name": "a/0.png", "height": 40, "width": 80}
    if isinstance(content, dict):
        content = {"images": [image], **content}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"coco.json: .*{message}"):
        read_boxes(path, records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "not valid XML"),
        ("<annotation/>", "annotation has no number size/height"),
        (VOC.format(0, 4, ""), "an image of 4 x 0 pixels is none"),
        (VOC.format(9, 9, "<object/>"), "object has no number bndbox/ymin"),
        (VOC.format(9, 9, OBJECT.format(1, 1, "nan", 3)), "no number bndbox/ymax"),
    ],
)
def test_voc_that_is_none_is_one_sentence(records, tmp_path, text, message):
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "0.xml").write_text(text)
    with pytest.raises(InputError, match=rf"0\.xml: .*{message}"):
        read_boxes(tmp_path / "voc", records)


def test_boxes_of_other_images_are_refused(records, tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("image,y_min,x_min,y_max,x_max\nz.png,0,0,9,9\n")
    with pytest.raises(
        InputError, match=r"has no box of the training images, such as a"
    ):
        read_boxes(path, records)


@pytest.mark.parametrize("box", ["0.1 0.2 0.3", "0.5 0 0.5 1", "a b c d", "0 0 nan 1"])
def test_a_row_of_google_landmark_boxes_that_is_none_is_named(records, tmp_path, box):
    path = tmp_path / "boxes_split1.csv"
    path.write_text(f"id,box\n0,0 0 1 1\n1,{box}\n")
    with pytest.raises(InputError, match=r"row 2 \(1\): .* is not top, left, bottom"):
        read_boxes(path, records)
