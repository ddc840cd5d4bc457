import os
import shutil

import numpy as np
import pytest

from delf_jax import cli
from delf_jax.store import feature_store


def test_extract_in_parts_gives_the_store_of_one_process(run, photos, tmp_path):
    assert (
        "4 extracted, 0 unchanged"
        in run("extract", photos, f"--out={tmp_path / 'whole'}")[1]
    )
    for part in ("0/2", "1/2"):
        arguments = ["extract", photos, f"--out={tmp_path / 'parts'}", f"--part={part}"]
        assert "2 extracted" in run(*arguments)[1]
    whole, parts = (
        feature_store.open_store(tmp_path / name) for name in ("whole", "parts")
    )
    assert whole.ids == parts.ids == [f"{number}.png" for number in range(4)]
    np.testing.assert_array_equal(whole.global_descriptors, parts.global_descriptors)


def test_odd_files_do_not_stop_a_job(run, photos, tiny_model, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    os.mkfifo(folder / "pipe.jpg")
    with open(folder / "large.jpg", "wb") as file:
        file.truncate(2**40)
    (folder / "note.txt").write_text("")
    arguments = [str(folder), f"--out={tmp_path / 'out'}", f"--model={tiny_model}"]
    assert cli.main(["extract", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("out: 4 extracted, 0 unchanged, 2 failed\n")
    assert "large.jpg: 1024.0 GiB, more than" in printed.err
    assert "pipe.jpg: cannot be read (a FIFO or device" in printed.err
    assert printed.err.splitlines()[-1] == f"{folder}: 1 file skipped: 1 .txt"


def test_photos_of_a_list_are_extracted_indexed_and_searched_for(
    run, photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(photos.parent)
    listed = tmp_path / "list.txt"
    lines = [f"{photos.name}/{name}.png" for name in (2, 0, "absent")]
    listed.write_text("\n".join(["# two of them", *lines]))
    status, printed = run("extract", f"@{listed}", f"--out={tmp_path / 'out'}")
    assert status == 0 and "2 extracted, 0 unchanged, 1 failed" in printed
    opened = feature_store.open_store(tmp_path / "out")
    assert opened.ids == ["0.png", "2.png"] and [*opened.failed] == ["absent.png"]
    index = f"--index={tmp_path / 'index'}"
    status, printed = run("index", f"@{listed}", index)
    assert status == 0 and "2 extracted, 0 unchanged, 1 failed" in printed
    (tmp_path / "list.csv").write_text(f"id,path\n1,{lines[1]}\n")
    status, printed = run("search", f"@{tmp_path / 'list.csv'}", index, "--top=1")
    assert status == 0 and printed.strip().endswith("0.png")


PBTXT = """
image_scales: 1 image_scales: 0.5 use_global_features: true max_image_size: 100
delf_local_config { use_pca: false layer_name: "block3" score_threshold: 0
                    max_feature_num: 20 }
delf_global_config { use_pca: false image_scales_ind: 0 }
"""


def test_a_text_config_of_the_original_sets_the_extraction(run, photos, tmp_path):
    (tmp_path / "a.pbtxt").write_text(PBTXT)
    out, config = tmp_path / "out", f"--config={tmp_path / 'a.pbtxt'}"
    override = "--config.extraction.max_features=9"
    status, printed = run("extract", photos, f"--out={out}", config, override)
    assert status == 0 and "a.pbtxt: layer_name: block3 has no effect" in printed
    opened = feature_store.open_store(out)
    settings = opened.manifest["settings"]
    assert settings["image_scales"] == [1.0, 0.5] and settings["max_image_size"] == 100
    assert settings["locations"] == "delf" and settings["global_scales"] == [0]
    assert {len(image.local.scales) for image in opened} == {9}


def test_a_config_names_the_model_unless_the_command_line_does(
    run, photos, tmp_path, tiny_model, capsys
):
    config = tmp_path / "mine.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({{'model': '{tiny_model}'}})\n"
    )
    arguments = ["extract", photos, f"--out={tmp_path / 'out'}", f"--config={config}"]
    assert run(*arguments, model=False)[0] == 0
    name = feature_store.open_store(tmp_path / "out").manifest["model"]["name"]
    assert name == tiny_model.name
    other = "--config.model=parameters/r50delg_gld_20200814"
    assert cli.main([*map(str, arguments), other]) == 2
    printed = capsys.readouterr().err
    assert "run `convert DOWNLOADED --out=parameters/r50delg_gld_20200814`" in printed
    assert run(*arguments, other)[0] == 0  # --model wins.


def test_a_store_forgets_images_once_that_is_asked_for(run, photos, tmp_path):
    folder, out = tmp_path / "photos", f"--out={tmp_path / 'store'}"
    shutil.copytree(photos, folder, copy_function=shutil.copy2)
    assert run("extract", folder, out)[0] == 0
    (folder / "3.png").unlink()
    kept = "0 extracted, 3 unchanged, 1 kept from before\n"
    assert kept in run("extract", folder, out)[1]
    said, last = run("extract", folder, out, "--prune")[1].splitlines()
    assert said.endswith("store: forgetting 1 of 4 images, not among these")
    assert last.endswith("store: 0 extracted, 3 unchanged, 1 removed")
    store, files, again = (tmp_path / name for name in ("store", "files", "again"))
    for asked in ([store, files, "--to=delf"], [files, again, "--from=delf"]):
        assert run("features", *asked, model=False)[0] == 0
    (files / "0.delf").unlink()
    kept = "0 written, 2 unchanged, 1 kept from before\n"
    asked = ["features", files, again, "--from=delf"]
    assert kept in run(*asked, model=False)[1]
    said, last = run(*asked, "--prune", model=False)[1].splitlines()
    assert said.endswith("again: forgetting 1 of 3 images, not among these")
    assert last.endswith("again: 0 written, 2 unchanged, 1 removed")


def test_features_go_to_files_and_back(run, photos, tmp_path):
    paths = features, files, again = [tmp_path / name for name in ("s", "f", "a")]
    assert run("extract", photos, f"--out={features}")[0] == 0

    def turn(*arguments):
        return run("features", *arguments, model=False)

    status, printed = turn(features, "--to=delg", files)
    assert status == 0 and "4 written, 0 unchanged" in printed
    assert "4 written" in turn(files, again, "--from=delg", "--name=mine")[1]
    assert (
        "0 written, 4 unchanged" in turn(files, again, "--from=delg", "--name=mine")[1]
    )
    before, after = (
        feature_store.open_store(paths[0]),
        feature_store.open_store(paths[2]),
    )
    assert before.ids == after.ids and after.manifest["model"]["name"] == "mine"
    np.testing.assert_array_equal(before.global_descriptors, after.global_descriptors)


def test_features_and_matches_go_to_colmap(run, photos, tmp_path, capsys):
    features, out, pairs = (tmp_path / name for name in ("s", "out", "pairs.txt"))
    assert run("extract", photos, f"--out={features}")[0] == 0
    pairs.write_text("0.png 1.png\n0.png 2.png\n1.png 0.png\n")
    arguments = ["features", features, out, "--to=colmap", f"--pairs={pairs}"]
    status, printed = run(*arguments, model=False)
    assert status == 0
    assert printed.splitlines() == [
        f"{out / 'matches.txt'}: matches of 2 pairs",
        f"{out}: 4 written, 0 unchanged",
    ]
    blocks = (out / "matches.txt").read_text().split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:2]] == pairs.read_text().split(
        "\n"
    )[:2]
    assert len(blocks[0].splitlines()) > len(blocks[1].splitlines()) > 0
    (out / "keypoints" / "3.png.txt").unlink()
    assert "1 written, 3 unchanged" in run(*arguments, model=False)[1]


@pytest.mark.parametrize("kind", ["--to=delf", "--to=csv", "--from=delf"])
def test_pairs_go_with_layouts_that_have_a_place_for_them(tmp_path, kind, capsys):
    arguments = [
        "features",
        str(tmp_path),
        str(tmp_path / "out"),
        kind,
        "--pairs=p.txt",
    ]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: --pairs goes with --to=hdf5 or --to=colmap\n"
    )
