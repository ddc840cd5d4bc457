"""detect, as it is typed."""

import json

import numpy as np
import pytest

import delf_jax
from delf_jax import cli
from delf_jax.store.feature_store import open_store
from tests.helpers.detectors import save_random


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("models") / "ssd")


def test_photos_are_detected_and_extraction_takes_the_boxes(
    run, photos, detector, tmp_path, capsys
):
    out, model = tmp_path / "out", f"--model={detector}"
    arguments = ["detect", photos, f"--out={out}", model, "--threshold=0.01"]
    arguments.append(f"--json={tmp_path / 'found.json'}")
    assert cli.main([*map(str, arguments)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{out}: 4 detected, 0 unchanged"
    content = json.loads((tmp_path / "found.json").read_text())
    assert [*content["images"]] == [f"{number}.png" for number in range(4)]
    boxes = sum(len(each["boxes"]) for each in content["images"].values())
    assert boxes and printed[-2] == f"{boxes} boxes in 4 photos"
    assert cli.main([*map(str, arguments)]) == 0
    assert "0 detected, 4 unchanged" in capsys.readouterr().out
    store = f"--out={tmp_path / 'store'}"
    status, printed = run("extract", photos, store, f"--boxes={out / 'boxes.csv'}")
    assert status == 0 and "4 extracted" in printed


def test_an_index_has_features_of_the_boxes_that_are_detected(
    run, photos, detector, tmp_path, capsys
):
    folder, detect = tmp_path / "index", f"--detect={detector}"
    few = "--config.extraction.max_boxes=3"
    arguments = ["index", photos, f"--index={folder}", few]
    low = "--config.extraction.box_threshold=0.01"
    status, printed = run(*arguments, low, detect)
    assert status == 0 and "4 extracted" in printed
    store = open_store(folder / "store")
    assert store.manifest["with_boxes"]
    known = json.loads((folder / "boxes" / "detections.json").read_text())["images"]
    for id, features in zip(store.ids, store, strict=True):
        assert len(features.regions.counts) == 1 + min(len(known[id]["scores"]), 3)
    assert [p.name for p in (folder / "boxes").iterdir()] == ["detections.json"]
    status, printed = run(*arguments, low, detect)
    assert status == 0 and "0 extracted, 4 unchanged" in printed
    status, printed = run("search", photos / "0.png", f"--index={folder}", low, few)
    assert status == 0 and "1.png" in printed
    capsys.readouterr()
    assert run(*arguments, low)[0] == 2
    run("features", folder / "store", tmp_path / "delf", "--to=delf", model=False)
    mapping = (tmp_path / "delf" / "index_mapping.csv").read_text().splitlines()
    assert mapping[:3] == ["name,index_image_id,box_id", "0,0,-1", "0_0,0,0"]


def test_the_bundled_detector_is_what_finds_boxes_unless_another_is_named(
    run, photos, detector, tmp_path
):
    """Of `--detect` alone the next word is a photo, as of `--detect=` what it names."""
    bundled = delf_jax.detect(photos / "0.png", threshold=0.0)
    named = delf_jax.detect(photos / "0.png", detector, threshold=0.0)
    assert not np.array_equal(bundled.scores, named.scores)
    status, _ = run("detect", photos, f"--out={tmp_path / 'found'}", model=False)
    assert status == 0
    target = f"--out={tmp_path / 'store'}"
    status, printed = run("extract", "--detect", photos, target)
    assert status == 0 and "4 extracted" in printed
    for folder in (tmp_path / "found", tmp_path / "store" / "boxes"):
        content = json.loads((folder / "detections.json").read_text())
        assert content["model"]["name"] == "ssd_tiny"
        scores = np.array(content["images"]["0.png"]["scores"])
        np.testing.assert_allclose(scores, bundled.scores, atol=1e-4)


def test_extraction_takes_the_boxes_of_a_detector(run, photos, detector, tmp_path):
    arguments = ["extract", photos, f"--out={tmp_path / 'store'}"]
    status, printed = run(*arguments, f"--detect={detector}")
    assert status == 0 and "4 extracted" in printed
    assert open_store(tmp_path / "store").manifest["with_boxes"]
    for more in (f"--boxes={tmp_path}", "--part=0/2"):
        assert run(*arguments, f"--detect={detector}", more)[0] == 2


def test_what_cannot_be_is_one_sentence(photos, detector, tiny_model, tmp_path, capsys):
    def error_of(*arguments):
        assert cli.main([*map(str, arguments)]) == 2
        return capsys.readouterr().err.strip()

    out = f"--out={tmp_path / 'out'}"
    no_boxes = (
        "error: model tiny gives features and no boxes: detect takes a detector, or "
        "none for the bundled one"
    )
    assert error_of("detect", photos, out, f"--model={tiny_model}") == no_boxes
    for command, target in (("extract", out), ("index", f"--index={tmp_path / 'i'}")):
        found = error_of(command, photos, target, f"--model={detector}")
        assert "error: model ssd is a detector, which gives boxes and no" in found
        features = f"--model={tiny_model}"
        found = error_of(command, photos, target, features, f"--detect={tiny_model}")
        assert found == no_boxes
    found = error_of("detect", photos, out, f"--model={detector}", "--threshold=2")
    assert found == "error: threshold is 2.0: scores are in [0, 1]"
    assert not (tmp_path / "out").exists()


def test_a_folder_of_photos_none_of_which_can_be_read_fails(detector, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"none")
    arguments = [str(tmp_path / "photos"), f"--out={tmp_path / 'out'}"]
    assert cli.main(["detect", *arguments, f"--model={detector}"]) == 1
    printed = capsys.readouterr()
    assert "0 detected, 0 unchanged, 1 failed" in printed.out
    assert "failed: " in printed.err and "a.jpg" in printed.err
