"""detect, as it is typed."""

import json

import pytest

from delf_jax import cli
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


def test_what_cannot_be_is_one_sentence(photos, detector, tiny_model, tmp_path, capsys):
    def error_of(*arguments):
        assert cli.main([*map(str, arguments)]) == 2
        return capsys.readouterr().err.strip()

    out = f"--out={tmp_path / 'out'}"
    found = error_of("detect", photos, out, f"--model={tiny_model}")
    assert found == (
        "error: model tiny gives features and no boxes: detect takes a detector, such "
        "as train --config=configs/detect_ssd.py makes"
    )
    for command, target in (("extract", out), ("index", f"--index={tmp_path / 'i'}")):
        found = error_of(command, photos, target, f"--model={detector}")
        assert "error: model ssd is a detector, which gives boxes and no" in found
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
