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
from delf_jax.config import read_config
from delf_jax.store import feature_store


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four photos of coarse noise; 0.png and 1.png show the same, shifted."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(4):
        small = rng.integers(0, 256, (16, 20, 3), np.uint8)
        wide = Image.fromarray(small).resize((200, 160), Image.Resampling.BICUBIC)
        if number == 0:
            wide.crop((40, 32, 168, 128)).save(folder / "0.png")
            wide.crop((24, 16, 152, 112)).save(folder / "1.png")
        elif number > 1:
            wide.crop((0, 0, 128, 96)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(tiny_model, capsys):
    """Runs a command line with the tiny model: (status, standard output)."""

    def run(*arguments, model=True):
        arguments = [str(argument) for argument in arguments]
        status = cli.main(arguments + ([f"--model={tiny_model}"] if model else []))
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def index(run, photos, tmp_path):
    option = f"--index={tmp_path / 'index'}"
    assert run("index", photos, option)[0] == 0
    return option


def test_match_writes_a_figure_and_says_what_it_found(run, photos, tmp_path):
    a, b, out = photos / "0.png", photos / "0.png", tmp_path / "new" / "m.png"
    status, said = run("match", a, b, f"--out={out}", f"--json={tmp_path / 'm.json'}")
    found = json.loads((tmp_path / "m.json").read_text())
    assert status == 0
    assert found["images"] == [str(a), str(b)]
    assert found["inliers"] == len(found["inlier_locations"]) > 3
    assert found["similarity"] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found["affine"], [[1, 0, 0], [0, 1, 0]], atol=1e-3)
    assert f"{found['inliers']} inliers of {found['matches']} matches" in said
    assert str(out) in said
    with Image.open(out) as figure:
        assert figure.size[0] > figure.size[1]


def test_match_with_a_model_without_local_features_says_so(
    run, photos, global_model, tmp_path, capsys
):
    out, option = f"--out={tmp_path / 'm.png'}", f"--model={global_model}"
    photo = photos / "0.png"
    status = cli.main(["match", str(photo), str(photo), out, option])
    said = capsys.readouterr().err
    assert status == 2 and said.count("\n") == 1
    assert "model global has no local features" in said


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


def test_an_index_is_made_grown_and_shrunk(run, photos, index, tmp_path):
    new = tmp_path / "new.png"
    new.write_bytes((photos / "2.png").read_bytes())
    assert "1 extracted, 4 unchanged" in run("index", index, "--add", new)[1]
    assert "2 removed, 3 left" in run("index", index, "--remove", "0.png", "new.png")[1]
    assert "1 extracted, 3 unchanged" in run("index", photos, index)[1]


def test_search_prints_a_table_and_writes_json_and_a_page(run, photos, index, tmp_path):
    outputs = [f"--json={tmp_path / 's.json'}", f"--html={tmp_path / 's.html'}"]
    # The order of the queries is kept; those of a folder come by name.
    queries = [photos / "3.png", photos]
    status, said = run("search", *queries, index, "--top=2", *outputs)
    assert status == 0
    found = json.loads((tmp_path / "s.json").read_text())["queries"]
    names = [pathlib.Path(query["image"]).name for query in found]
    assert names == ["3.png", "0.png", "1.png", "2.png", "3.png"]
    for name, query in zip(names, found, strict=True):
        assert query["results"][0]["image"] == name
        assert len(query["results"]) == 2
    query, header, best, *_ = said.strip().splitlines()
    assert query == str(photos / "3.png")
    assert header.split() == ["inliers", "similarity", "image"]
    assert best.split()[0] == "1" and best.split()[2:] == ["1.000", "3.png"]
    assert 'class="card"' in (tmp_path / "s.html").read_text()


PBTXT = """
image_scales: 1 image_scales: 0.5 use_global_features: true max_image_size: 100
delf_local_config { use_pca: false layer_name: "block3" score_threshold: 0
                    max_feature_num: 20 }
delf_global_config { use_pca: false image_scales_ind: 0 }
"""


def test_a_text_config_of_the_original_says_how_to_extract(run, photos, tmp_path):
    (tmp_path / "a.pbtxt").write_text(PBTXT)
    out, config = tmp_path / "out", f"--config={tmp_path / 'a.pbtxt'}"
    override = "--config.extraction.max_features=9"
    status, said = run("extract", photos, f"--out={out}", config, override)
    assert status == 0 and "a.pbtxt: layer_name: block3 has no effect" in said
    opened = feature_store.open_store(out)
    settings = opened.manifest["settings"]
    assert settings["image_scales"] == [1.0, 0.5] and settings["max_image_size"] == 100
    assert settings["locations"] == "delf" and settings["global_scales"] == [0]
    assert {len(image.local.scales) for image in opened} == {9}


def test_an_index_is_searched_with_the_config_that_made_it(run, photos, tmp_path):
    option, few = f"--index={tmp_path / 'few'}", "--config.extraction.max_features=50"
    assert run("index", photos, option, few)[0] == 0
    assert run("search", photos / "0.png", option, few)[0] == 0
    assert run("search", photos / "0.png", option)[0] == 2


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
    said = capsys.readouterr().err
    assert "run `convert DOWNLOADED --out=parameters/r50delg_gld_20200814`" in said
    assert run(*arguments, other)[0] == 0  # --model wins.


def test_search_without_reranking_verifies_nothing(run, photos, index, tmp_path):
    out = tmp_path / "s.json"
    options = ["--no_rerank", "--top=0", f"--json={out}"]
    assert run("search", photos / "0.png", index, *options)[0] == 0
    (query,) = json.loads(out.read_text())["queries"]
    assert len(query["results"]) == 4
    assert {result["inliers"] for result in query["results"]} == {None}


def test_prepare_stores_photos_and_lists_the_broken_ones(run, tmp_path):
    from delf_jax import images

    photos = tmp_path / "photos" / "a"
    photos.mkdir(parents=True)
    for number in range(3):
        pixels = np.full((30, 40, 3), 50 * number, np.uint8)
        (photos / f"{number}.jpg").write_bytes(images.encode_jpeg(pixels, 90))
    (photos / "2.jpg").write_bytes(b"no image")
    data = tmp_path / "data"
    given = f"--dataset={photos.parent}", f"--data={data}"
    status, out = run("prepare", *given, model=False)
    assert status == 0
    assert "2 of 3 images ready, 1 cannot be used" in out
    listed = (data / "photos-quarantine.csv").read_text()
    assert "a/2.jpg" in listed


def test_what_prepare_leaves_out_train_finds_without_preparing_again(
    run, tmp_path, monkeypatch
):
    from delf_jax import images
    from delf_jax.data import loader, prepare

    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        encoded = images.encode_jpeg(np.full((30, 40, 3), 90, np.uint8), 90)
        (tmp_path / "photos" / label / "0.jpg").write_bytes(encoded)
    names, stored = tmp_path / "names.txt", tmp_path / "data"
    names.write_text("b\n")
    given = f"--dataset={tmp_path / 'photos'}", f"--data={stored}"
    status, out = run("prepare", *given, f"--exclude={names}", model=False)
    assert status == 0 and "1 of 1 images ready" in out
    monkeypatch.delattr(prepare, "_build")
    settings = {"mine": {"path": str(tmp_path / "photos")}}
    (source,), _ = loader.open_sources(
        settings, str(stored), max_side=1024, exclude="b"
    )
    assert source.classes == {"a": 0} and len(source) == 1


def test_train_is_given_the_config_with_its_overrides(run, tmp_path, monkeypatch):
    from delf_jax.training import train

    calls = []

    def fake(config, workdir):
        calls.append((config.seed, workdir))
        return train.Outcome(3, True, {})

    monkeypatch.setattr(train, "train", fake)
    config = pathlib.Path(__file__).parent.parent / "configs" / "common.py"
    arguments = [f"--config={config}", f"--workdir={tmp_path}", "--config.seed=5"]
    assert run("train", *arguments, model=False)[0] == 0
    assert calls == [(5, str(tmp_path))]
    assert read_config(config).seed != 5


def test_features_go_to_files_and_back(run, photos, tmp_path):
    paths = features, files, again = [tmp_path / name for name in ("s", "f", "a")]
    assert run("extract", photos, f"--out={features}")[0] == 0

    def turn(*arguments):
        return run("features", *arguments, model=False)

    status, said = turn(features, "--to=delg", files)
    assert status == 0 and "4 written, 0 unchanged" in said
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


@pytest.mark.parametrize(("precision", "size"), [("bfloat16", 64), ("int8", 36)])
def test_search_in_reduced_precision_says_what_it_saves(
    run, photos, index, tmp_path, precision, size
):
    found = []
    for name in ("float32", precision):
        out = tmp_path / f"{name}.json"
        options = [f"--precision={name}", "--top=0", f"--json={out}"]
        status, said = run("search", photos / "0.png", index, *options)
        assert status == 0
        found.append(out.read_text())
    assert said.startswith(f"{precision}: {size} bytes a photo (float32: 128)\n")
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
    said = capsys.readouterr().err
    assert said.startswith("error: --distributed: nothing") and said.count("\n") == 1


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
                cwd=pathlib.Path(__file__).parent.parent,
            )
        )
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "JSON" in said[0] and "JSON" not in said[1]
    alone = tmp_path / "alone.json"
    assert run("search", photos, index, "--top=3", f"--json={alone}")[0] == 0
    assert (tmp_path / "s.json").read_text() == alone.read_text()
