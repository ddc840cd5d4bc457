import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from delf_jax import cli
from delf_jax.formats.delf.features import read_delf_features, write_delf_features
from tests.helpers.stores import announce


def test_match_writes_a_figure_and_prints_what_it_found(run, photos, tmp_path):
    a, b, out = photos / "0.png", photos / "0.png", tmp_path / "new" / "m.png"
    status, printed = run(
        "match", a, b, f"--out={out}", f"--json={tmp_path / 'm.json'}"
    )
    found = json.loads((tmp_path / "m.json").read_text())
    assert status == 0
    assert found["images"] == [str(a), str(b)]
    assert found["inliers"] == len(found["inlier_locations"]) > 3
    assert found["similarity"] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found["affine"], [[1, 0, 0], [0, 1, 0]], atol=1e-3)
    assert f"{found['inliers']} inliers of {found['matches']} matches" in printed
    assert str(out) in printed
    with Image.open(out) as figure:
        assert figure.size[0] > figure.size[1]


def test_match_says_when_there_is_no_more_than_chance(run, photos, tmp_path):
    for other, confident in (("1.png", True), ("3.png", False)):
        out = tmp_path / "m.json"
        options = [f"--out={tmp_path / 'm.png'}", f"--json={out}"]
        status, printed = run("match", photos / "0.png", photos / other, *options)
        found = json.loads(out.read_text())
        assert status == 0 and found["confident"] is confident
        assert ("no confident match" in printed) is not confident
        assert (found["inliers"] > found["inliers_by_chance"]) is confident


def test_match_takes_the_settings_of_the_original_by_name(run, photos, tmp_path):
    found = {}
    for name in ("default", "delg", "d2r"):
        out = tmp_path / f"{name}.json"
        options = [f"--out={tmp_path / 'm.png'}", f"--json={out}"]
        options.append(f"--verification={name}")
        assert run("match", photos / "0.png", photos / "1.png", *options)[0] == 0
        found[name] = json.loads(out.read_text())
    # They take matches that are not mutual, and count all inliers.
    assert found["delg"]["inliers"] > found["default"]["inliers"]
    assert found["delg"]["matches"] >= found["d2r"]["matches"]
    options = [f"--out={tmp_path / 'no.png'}", "--verification=magic"]
    assert run("match", photos / "0.png", photos / "1.png", *options)[0] == 2
    assert not (tmp_path / "no.png").exists()


@pytest.fixture
def feature_files(run, photos, tmp_path):
    """The features of the photos in files: a folder."""
    store, out = tmp_path / "features", tmp_path / "files"
    assert run("extract", photos, f"--out={store}")[0] == 0
    for layout in ("delf", "delg"):
        command = ["features", store, out, f"--to={layout}"]
        assert run(*command, model=False)[0] == 0
    return out


@pytest.mark.parametrize("suffix", ["delf", "delg_local"])
def test_files_of_features_match_as_their_photos_do(
    run, photos, feature_files, tmp_path, suffix
):
    files = [feature_files / f"{number}.{suffix}" for number in range(2)]
    pair = [photos / f"{number}.png" for number in range(2)]
    found = []
    for images, more in ((pair, []), (files, []), (files, ["--photos", *pair])):
        out, figure = tmp_path / "m.json", tmp_path / "m.png"
        options = [f"--json={out}", f"--out={figure}", *more]
        assert run("match", *images, *options)[0] == 0
        found.append(json.loads(out.read_text()))
        with Image.open(figure) as drawn:
            assert drawn.size[0] > drawn.size[1]
    by_photos, by_files, drawn = found
    assert by_files["images"] == [str(file) for file in files]
    assert by_files == drawn
    # Only .delg_global has what photos are globally compared by.
    assert (by_files["similarity"] is None) is (suffix == "delf")
    for key in ("matches", "inliers", "affine", "confident"):
        assert by_files[key] == by_photos[key]


def test_files_of_features_that_cannot_be_compared_are_one_sentence(
    run, photos, feature_files, tmp_path, capsys
):
    out = f"--out={tmp_path / 'm.png'}"
    short = tmp_path / "short.delf"
    features = read_delf_features(feature_files / "0.delf")
    write_delf_features(
        short, features._replace(descriptors=features.descriptors[:, :3])
    )
    alone = feature_files / "0.delg_global"
    (tmp_path / "alone.delg_global").write_bytes(alone.read_bytes())
    empty = tmp_path / "empty.delf"
    empty.write_bytes(b"")
    good, broken = feature_files / "1.delf", tmp_path / "broken.delf"
    broken.write_bytes(good.read_bytes()[:-7])
    for a, b, sentence in (
        (good, short, "they come from different models"),
        (photos / "0.png", short, "they come from different models"),
        (good, broken, "broken.delf"),
        (good, tmp_path / "none.delf", "no such file"),
        (good, tmp_path / "alone.delg_global", "needs local features"),
    ):
        assert cli.main(["match", str(a), str(b), out]) == 2
        assert sentence in capsys.readouterr().err
    status, printed = run("match", good, empty, out)
    assert status == 0 and "0 inliers of 0 matches" in printed


def test_match_with_a_model_without_local_features_is_refused(
    run, photos, global_model, tmp_path, capsys
):
    out, option = f"--out={tmp_path / 'm.png'}", f"--model={global_model}"
    photo = photos / "0.png"
    status = cli.main(["match", str(photo), str(photo), out, option])
    printed = capsys.readouterr().err
    assert status == 2 and printed.count("\n") == 1
    assert "model global has no local features" in printed


def test_search_prints_a_table_and_writes_json_and_a_page(run, photos, index, tmp_path):
    outputs = [f"--json={tmp_path / 's.json'}", f"--html={tmp_path / 's.html'}"]
    # The order of the queries is kept; those of a folder come by name.
    queries = [photos / "3.png", photos]
    status, printed = run("search", *queries, index, "--top=2", *outputs)
    assert status == 0
    found = json.loads((tmp_path / "s.json").read_text())["queries"]
    names = [pathlib.Path(query["image"]).name for query in found]
    assert names == ["3.png", "0.png", "1.png", "2.png", "3.png"]
    for name, query in zip(names, found, strict=True):
        assert query["results"][0]["image"] == name
        assert len(query["results"]) == 2
    query, verdict, header, best, *_ = printed.strip().splitlines()
    assert query == str(photos / "3.png")
    assert verdict.startswith("no confident match but the photo itself: ")
    assert header.split() == ["inliers", "similarity", "image"]
    assert best.split()[0] == "1" and best.split()[2:] == ["1.000", "3.png"]
    assert 'class="card"' in (tmp_path / "s.html").read_text()


def test_an_incomplete_index_and_photos_from_elsewhere_are_said_everywhere(
    run, photos, index, tmp_path
):
    (tmp_path / "new.png").write_bytes((photos / "2.png").read_bytes())
    assert run("index", index, "--add", tmp_path / "new.png")[0] == 0
    store = pathlib.Path(index.removeprefix("--index=")) / "store"
    page, found = tmp_path / "s.html", tmp_path / "s.json"
    asked = ["search", photos / "2.png", index, f"--html={page}", f"--json={found}"]
    printed = run(*asked)[1]
    outside = f"1 photo from outside of {photos}: {tmp_path / 'new.png'}"
    assert f"{page}: shows {outside}" in printed and outside in page.read_text()
    assert "not extracted yet" not in printed + page.read_text() + found.read_text()
    announce(store, ["4.png", "5.png"])
    printed = run(*asked)[1]
    said = "incomplete, 2 of 7 images are not extracted yet"
    assert f"{said}; finish it with: index {photos} {index}" in printed
    assert said in page.read_text()
    why = json.loads(found.read_text())["incomplete"]
    assert (why["photos"], why["not_extracted_yet"]) == (5, 2)
    assert said in run("inspect", store.parent, model=False)[1]
    assert said in run("inspect", store, model=False)[1]
    (tmp_path / "c.json").write_text('{"2": ["3", "0"]}')
    asked = ["rerank", tmp_path / "c.json", index, f"--out={tmp_path / 'r.json'}"]
    assert said in run(*asked, "--with=global")[1]


def test_search_says_in_words_and_json_what_is_no_more_than_chance(
    run, photos, index, tmp_path
):
    out = tmp_path / "s.json"
    # 0.png shows what 1.png shows; 3.png shows what no other does.
    queries = [photos / "0.png", photos / "3.png"]
    status, printed = run("search", *queries, index, f"--json={out}")
    assert status == 0
    assert printed.count("no confident match") == 1
    related, alone = json.loads(out.read_text())["queries"]
    assert (related["confident"], alone["confident"]) == (True, False)
    for query in (related, alone):
        for result in query["results"]:
            more = result["inliers"] > query["inliers_by_chance"]
            assert result["confident"] is more
    found = {r["image"]: r["confident"] for r in related["results"]}
    assert found == {"0.png": True, "1.png": True, "2.png": False, "3.png": False}


def test_an_index_is_searched_with_the_config_that_made_it(run, photos, tmp_path):
    option, few = f"--index={tmp_path / 'few'}", "--config.extraction.max_features=50"
    assert run("index", photos, option, few)[0] == 0
    assert run("search", photos / "0.png", option, few)[0] == 0
    assert run("search", photos / "0.png", option)[0] == 2


def test_search_without_reranking_verifies_nothing(run, photos, index, tmp_path):
    out = tmp_path / "s.json"
    options = ["--no_rerank", "--top=0", f"--json={out}"]
    assert run("search", photos / "0.png", index, *options)[0] == 0
    (query,) = json.loads(out.read_text())["queries"]
    assert len(query["results"]) == 4
    assert {result["inliers"] for result in query["results"]} == {None}
    # Similarities alone are no verdict.
    assert query["confident"] is None
    assert {result["confident"] for result in query["results"]} == {None}


@pytest.mark.parametrize(("precision", "size"), [("bfloat16", 64), ("int8", 36)])
def test_search_in_reduced_precision_prints_what_it_saves(
    run, photos, index, tmp_path, precision, size
):
    found = []
    for name in ("float32", precision):
        out = tmp_path / f"{name}.json"
        options = [f"--precision={name}", "--top=0", f"--json={out}"]
        status, printed = run("search", photos / "0.png", index, *options)
        assert status == 0
        found.append(out.read_text())
    assert printed.startswith(f"{precision}: {size} bytes a photo (float32: 128)\n")
    assert found[0] == found[1]


def test_search_that_is_one_of_several_processes_must_know_them(
    run, photos, index, capsys, monkeypatch
):
    import jax

    def fail():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    arguments = [photos / "0.png", index, "--distributed"]
    assert cli.main(["search", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --distributed: coordinator_address should be")


@pytest.mark.slow
def test_search_by_two_processes_answers_as_by_one(
    run, photos, index, tiny_model, tmp_path
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for process in range(2):
        # What Slurm tells each of its processes.
        variables = {
            **{"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost"},
            **{"SLURM_NTASKS": "2", "SLURM_PROCID": str(process)},
            **{"SLURM_LOCALID": "0", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"},
        }
        command = [sys.executable, "main.py", "search", str(photos), index]
        options = [f"--json={tmp_path / 's.json'}", f"--model={tiny_model}"]
        started.append(
            subprocess.Popen(
                [*command, *options, "--distributed", "--top=3"],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                text=True,
                cwd=pathlib.Path(__file__).parents[2],
            )
        )
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "JSON" in printed[0] and "JSON" not in printed[1]
    alone = tmp_path / "alone.json"
    assert run("search", photos, index, "--top=3", f"--json={alone}")[0] == 0
    assert (tmp_path / "s.json").read_text() == alone.read_text()
