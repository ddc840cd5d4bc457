"""The folder that `detect` fills, by a detector that sees what is bright."""

import json

import numpy as np
import pytest
from PIL import Image

from delf_jax.detection import results
from delf_jax.detection.results import detect_to_folder
from delf_jax.extraction.boxes import boxes_of, of_images, open_boxes
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.formats.delf.boxes import read_boxes
from delf_jax.image_files import find_images
from tests.helpers.clusters import in_this_process
from tests.helpers.detectors import draw_bright, sees_bright

MODEL = sees_bright()
BOXES = {
    "a/0.png": [[48, 0, 64, 24], [0, 24, 16, 48]],
    "b.png": [],
    "c.png": [[0, 0, 8, 8]],
}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    drawn = {
        "a/0.png": draw_bright((64, 96), (0, 1), (3, 0)),
        "b.png": draw_bright((32, 32)),
        "c.png": draw_bright((32, 32), (0, 0)),
    }
    for name, image in drawn.items():
        Image.fromarray(image).save(folder / name)
    return folder


def run(photos, out, threshold=0.5, layout="csv", model=MODEL, ray=None):
    found = find_images([photos])
    return detect_to_folder(
        found, out, model, threshold, layout, ray=ray, progress=False
    )


def read_all(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("layout", ["csv", "boxes"])
def test_extraction_reads_what_is_written(photos, tmp_path, layout):
    out = tmp_path / "out"
    report, found = run(photos, out, layout=layout)
    assert (report.extracted, report.unchanged, report.failed) == (3, 0, {})
    assert [len(each.scores) for each in found.values()] == [2, 0, 1]
    opened = open_boxes(out if layout == "boxes" else out / "boxes.csv")
    of_ids = of_images(opened, list(BOXES))
    for id, size in {"a/0.png": (64, 96), "b.png": (32, 32), "c.png": (32, 32)}.items():
        boxes = boxes_of(of_ids, id, size, ExtractionSettings())
        np.testing.assert_array_equal(boxes, np.reshape(BOXES[id], (-1, 4)))


def test_boxes_files_are_the_originals(photos, tmp_path):
    run(photos, tmp_path / "out", layout="boxes")
    found = read_boxes(tmp_path / "out" / "a" / "0.boxes")
    expected = [[0.75, 0, 1, 0.25], [0, 0.25, 0.25, 0.5]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-6)
    assert found.class_indices.tolist() == [1, 1] and (found.scores > 0.99).all()
    assert len(read_boxes(tmp_path / "out" / "b.boxes").scores) == 0


def test_coco_has_every_photo_and_box(photos, tmp_path):
    run(photos, tmp_path / "out", layout="coco")
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [*BOXES]
    assert content["images"][0] | {"height": 64, "width": 96} == content["images"][0]
    boxes = [(a["image_id"], a["bbox"]) for a in content["annotations"]]
    assert boxes[1] == (1, [24, 0, 24, 16]) and boxes[-1] == (3, [0, 0, 8, 8])
    assert {a["category_id"] for a in content["annotations"]} == {1}
    assert len({a["id"] for a in content["annotations"]}) == 3


def test_the_figure_shows_the_boxes(photos, tmp_path):
    run(photos, tmp_path / "out")
    plain = np.asarray(Image.open(tmp_path / "out" / "b_boxes.jpg")).astype(int)
    drawn = np.asarray(Image.open(tmp_path / "out" / "a" / "0_boxes.jpg")).astype(int)
    assert plain.shape == (32, 32, 3) and plain.max() < 16
    assert drawn.shape == (64, 96, 3)
    coloured = np.ptp(drawn, axis=2) > 40  # The photo is grey.
    assert coloured[:16, 22:28].any() and coloured[48:, 20:28].any()
    assert not coloured[20:44].any()


def test_a_second_run_looks_at_nothing_and_changes_nothing(
    photos, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    run(photos, out)
    before = read_all(out)
    monkeypatch.setattr(results, "draw_boxes", None)
    report, _ = run(photos, out)
    assert (report.extracted, report.unchanged) == (0, 3)
    assert read_all(out) == before


def test_a_stopped_run_keeps_what_it_has_found(photos, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(photos, whole)
    draw, drawn = results.draw_boxes, []

    def stopping(*arguments):
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(results, "draw_boxes", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(photos, out)
    monkeypatch.undo()
    report, _ = run(photos, out)
    assert report.unchanged >= 2
    assert [*read_all(out).values()] == [*read_all(whole).values()]


def test_a_changed_photo_and_another_threshold_are_seen(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out)
    before = (out / "c_boxes.jpg").read_bytes()
    Image.fromarray(draw_bright((32, 32), (1, 1), (2, 2))).save(photos / "c.png")
    report, found = run(photos, out)
    assert (report.extracted, report.unchanged) == (1, 2)
    assert len(found["c.png"].scores) == 2
    assert (out / "c_boxes.jpg").read_bytes() != before
    plain = (out / "b_boxes.jpg").read_bytes()
    report, found = run(photos, out, threshold=0.1)
    assert report.extracted == 0 and len(found["b.png"].scores) == 16
    assert (out / "b_boxes.jpg").read_bytes() != plain


def test_boxes_of_other_photos_stay(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out)
    found = [("d.png", photos / "b.png")]
    report, chosen = detect_to_folder(found, out, MODEL, 0.5, progress=False)
    assert report.kept == 3 and [*chosen] == ["d.png"]
    assert {*open_boxes(out / "boxes.csv").table} == {"a/0.png", "c.png"}


def test_a_photo_that_is_damaged_is_named_and_its_files_go(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, layout="boxes")
    (photos / "c.png").write_bytes(b"no image")
    report, found = run(photos, out, layout="boxes")
    assert [*report.failed] == ["c.png"] and "c.png: " in report.failed["c.png"]
    assert [*found] == ["a/0.png", "b.png"]
    assert not (out / "c.boxes").exists() and not (out / "c_boxes.jpg").exists()


def test_photos_that_would_share_a_file_are_refused(photos, tmp_path):
    Image.open(photos / "b.png").save(photos / "b.jpg")
    with pytest.raises(InputError, match=r"b\.jpg and b\.png would share a file"):
        run(photos, tmp_path / "out")


def test_boxes_of_another_model_are_not_mixed(photos, tmp_path):
    run(photos, tmp_path / "out")
    other = sees_bright("1" * 64)
    with pytest.raises(InputError, match="has boxes of model sees_bright, not of"):
        run(photos, tmp_path / "out", model=other)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["images"]["c.png"].pop("scores"),
        lambda state: state["images"]["c.png"]["scores"].append(0.5),
        lambda state: state["images"]["c.png"]["boxes"].append([0, 1]),
        lambda state: state["images"]["c.png"].update(size=[3]),
        lambda state: state.update(images=[]),
        lambda state: state.update(format=2),
    ],
)
def test_a_damaged_state_is_one_sentence(photos, tmp_path, change):
    run(photos, tmp_path / "out")
    path = tmp_path / "out" / "detections.json"
    state = json.loads(path.read_text())
    change(state)
    del state["checksum"]
    path.write_text(json.dumps(state))
    with pytest.raises(
        InputError, match=r"detections\.json: .*the same command detects"
    ):
        run(photos, tmp_path / "out")


@pytest.mark.parametrize("layout", ["csv", "boxes", "coco", ""])
def test_a_cluster_fills_the_folder_that_one_process_would(
    photos, tmp_path, monkeypatch, layout
):
    (photos / "broken.png").write_bytes(b"no photo")
    report, _ = run(photos, tmp_path / "one", layout=layout)
    in_this_process(monkeypatch, times=2)
    assert run(photos, tmp_path / "many", layout=layout, ray="")[0] == report

    def relative(folder):
        files = read_all(folder).items()
        return {path.relative_to(folder): json_or_bytes(b) for path, b in files}

    assert relative(tmp_path / "many") == relative(tmp_path / "one")
    report, _ = run(photos, tmp_path / "many", layout=layout, ray="")
    assert (report.extracted, report.unchanged, len(report.failed)) == (0, 3, 1)


def json_or_bytes(data):
    return json.loads(data) if data.startswith(b"{") else data


def test_photos_of_a_share_that_fails_are_listed(photos, tmp_path, monkeypatch):
    in_this_process(monkeypatch, fails=lambda item: item[0] == "b.png")
    report, found = run(photos, tmp_path / "out", ray="")
    assert (report.extracted, [*report.failed]) == (2, ["b.png"])
    assert [*found] == ["a/0.png", "c.png"]
    assert run(photos, tmp_path / "out")[0].extracted == 1
