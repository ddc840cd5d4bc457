"""The commands of Google Landmarks v2 on a miniature of it, from photos to scores."""

import json
import shutil

import numpy as np
import pytest

from delf_jax import cli, images
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2
from delf_jax.store import feature_store
from tests.helpers import gldv2_miniature
from tests.helpers.gldv2_miniature import INDEX_IDS, TRAIN_IDS, image_id


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return gldv2_miniature.write(tmp_path_factory.mktemp("gldv2"))


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def run(tiny_model, capsys):
    """Runs gldv2: (status, standard output, standard error)."""

    def run(*arguments):
        arguments = [str(argument) for argument in arguments]
        model = [] if arguments[0] == "score" else [f"--model={tiny_model}"]
        status = cli.main(["gldv2", *arguments, *model])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def solution(data, task):
    return f"--solution={data / f'{task}_solution_v2.1.csv'}"


def read(path, task, data):
    truth = gldv2.read_solution(data / f"{task}_solution_v2.1.csv", task)
    found = gldv2.read_predictions(path, truth, task)
    return found.public | found.private


def test_retrieval_ranks_the_index_for_each_test_image(run, data, features, tmp_path):
    out = tmp_path / "retrieval.csv"
    status, said, _ = run(
        *("retrieve", data, f"--features={features}", f"--out={out}"),
        solution(data, "retrieval"),
    )
    assert status == 0
    assert "test: 2 images that the solution ignores" in said
    assert "index: 6 images of index.csv" in said
    lines = out.read_text().splitlines()
    assert lines[0] == "id,images"
    tests = [image_id("test", place, 0) for place in range(3)]
    assert [line.split(",")[0] for line in lines[1:]] == tests
    index, test = (
        feature_store.open_store(features / name) for name in ("index", "test")
    )
    for line in lines[1:]:
        id, ranked = line.split(",")
        query = test[test.row(f"{id[0]}/{id[1]}/{id[2]}/{id}.jpg")].global_descriptor
        found = index.global_descriptors @ query
        expected = [index.ids[row].split("/")[-1][:-4] for row in np.argsort(-found)]
        assert ranked.split(" ") == expected
    made = json.loads((tmp_path / "retrieval.csv.json").read_text())
    assert made["settings"]["rerank"] == [["global", None]]
    scored = run("score", "retrieval", out, solution(data, "retrieval"))[1]
    assert scored in said
    assert "retrieval.csv: index: 6 images of index.csv\n" in scored
    row = next(line for line in scored.splitlines() if line.startswith("Public"))
    assert "retrieval_solution_v2.1.csv " in row and "file " not in row


def test_features_are_found_again_even_without_their_images(
    run, data, features, tmp_path
):
    arguments = ["retrieve", f"--features={features}", f"--out={tmp_path / 'r.csv'}"]
    assert run(*arguments, data)[0] == 0
    before = (tmp_path / "r.csv").read_text()
    bare = tmp_path / "bare"
    bare.mkdir()
    for table in data.glob("*.csv"):
        shutil.copy(table, bare)
    assert run(*arguments, bare)[0] == 0
    assert (tmp_path / "r.csv").read_text() == before
    assert len(before.splitlines()) == 6


def test_features_of_extract_are_those_that_are_looked_for(
    run, data, tiny_model, tmp_path, capsys
):
    out = tmp_path / "features"
    for part in ("0/2", "1/2"):
        arguments = [f"--out={out / 'index'}", f"--part={part}"]
        cli.main(["extract", str(data / "index"), *arguments, f"--model={tiny_model}"])
    before = sorted((out / "index").rglob("*.safetensors"))
    capsys.readouterr()
    status, _, err = run(
        "retrieve", data, f"--features={out}", f"--out={tmp_path / 'r.csv'}"
    )
    assert status == 0 and "5 of 5" in err
    assert sorted((out / "index").rglob("*.safetensors")) == before


@pytest.mark.parametrize(
    "pipeline", ["verification", "alpha_qe+superglobal", "k_reciprocal+verification"]
)
def test_pipelines_put_all_of_a_small_index_in_order(
    run, data, features, tmp_path, pipeline
):
    out = tmp_path / "r.csv"
    options = (f"--features={features}", f"--out={out}", f"--rerank={pipeline}")
    assert run("retrieve", data, *options)[0] == 0
    listed = sorted(
        row.id for row in tables.read_rows(data / "index.csv", gldv2.ImageId)
    )
    for ranked in read(out, "retrieval", data).values():
        assert sorted(ranked) == listed


@pytest.mark.parametrize("more", [(), ("--verify=4", "--voters=2")])
def test_recognition_predicts_a_landmark_and_a_confidence(
    run, data, features, tmp_path, more
):
    out = tmp_path / "recognition.csv"
    status, said, _ = run(
        *("recognize", data, f"--features={features}", f"--out={out}"),
        *(solution(data, "recognition"), *more),
    )
    assert status == 0
    found = read(out, "recognition", data)
    assert list(found) == [image_id("test", place, 0) for place in (0, 3, 1, 2)]
    assert {each.landmark_id for each in found.values()} <= set(TRAIN_IDS)
    assert "GAP" in said and "recognition_solution_v2.1.csv " in said


def test_images_like_those_of_no_landmark_are_less_sure(
    run, data, features, tmp_path, rng
):
    others = tmp_path / "others"
    others.mkdir()
    for number in range(3):
        pixels = rng.integers(0, 256, (64, 80, 3), np.uint8)
        (others / f"{number}.jpg").write_bytes(images.encode_jpeg(pixels, 90))
    found = {}
    for name, more in (("plain", []), ("demoted", [f"--non_landmarks={others}"])):
        out = tmp_path / f"{name}.csv"
        options = (f"--features={features}", f"--out={out}", "--voters=1")
        assert run("recognize", data, *options, *more)[0] == 0
        found[name] = read(out, "recognition", data)
    descriptors = {
        name: feature_store.open_store(features / name).global_descriptors
        for name in ("test", "train", "non_landmarks")
    }
    rows = feature_store.open_store(features / "test").ids
    cosines = descriptors["test"] @ descriptors["train"].T
    penalties = {
        name: (descriptors[name] @ descriptors["non_landmarks"].T).mean(axis=1)
        for name in ("test", "train")
    }
    for id, each in found["plain"].items():
        row = rows.index(f"{id[0]}/{id[1]}/{id[2]}/{id}.jpg")
        assert each.score == pytest.approx(cosines[row].max(), abs=1e-5)
        expected = (cosines[row] - penalties["train"]).max() - penalties["test"][row]
        assert found["demoted"][id].score == pytest.approx(expected, abs=1e-5)


def test_excluded_landmarks_are_not_searched_and_scored_apart(
    run, data, features, tmp_path
):
    (tmp_path / "seen.txt").write_text(f"{INDEX_IDS[0]} # in the training\n")
    out = tmp_path / "r.csv"
    status, said, _ = run(
        *("retrieve", data, f"--features={features}", f"--out={out}"),
        *(f"--exclude={tmp_path / 'seen.txt'}", solution(data, "retrieval")),
    )
    assert status == 0
    assert "index: 4 images of index_image_to_landmark.csv, 2 excluded" in said
    assert "r.csv: made without 1 landmarks" in said
    assert "unseen: without the 1 test images" in said
    parts = {line.split("  ")[0] for line in said.splitlines()}
    assert {"Public", "Public, unseen", "Private, unseen"} <= parts
    gone = image_id("index", 0, 1)
    assert all(gone not in ranked for ranked in read(out, "retrieval", data).values())
    (tmp_path / "seen.txt").write_text(f"{TRAIN_IDS[1]}\n")
    status, said, _ = run(
        *("recognize", data, f"--features={features}", f"--out={out}"),
        *(f"--exclude={tmp_path / 'seen.txt'}", solution(data, "recognition")),
    )
    assert status == 0 and "train: 4 images of train.csv, 2 excluded" in said
    found = read(out, "recognition", data).values()
    assert TRAIN_IDS[1] not in {each.landmark_id for each in found}


def test_broken_images_are_counted_and_named_and_nothing_is_scored(
    run, data, features, tmp_path
):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    gone, broken = (image_id("index", 0, view) for view in (1, 2))
    gldv2.image_path(copy / "index", gone).unlink()
    gldv2.image_path(copy / "index", broken).write_bytes(b"no image")
    out = tmp_path / "r.csv"
    arguments = (
        *("retrieve", copy, f"--features={tmp_path / 'f'}", f"--out={out}"),
        solution(data, "retrieval"),
    )
    status, _, err = run(*arguments)
    error = err.splitlines()[-1]
    assert status == 2 and not out.exists()
    assert error.startswith("error: index: of 6 images, 2 photos missing (")
    assert gone in error and broken in error and "--partial" in error
    status, said, _ = run(*arguments, "--partial")
    assert status == 0 and "PARTIAL, index: of 6 images, 2 photos missing" in said
    assert "PARTIAL" in run("score", "retrieval", out, solution(data, "retrieval"))[1]


def test_lists_that_leave_out_what_the_solution_needs_are_refused(
    run, data, features, tmp_path
):
    some = tmp_path / "some.csv"
    some.write_text(f"id\n{image_id('index', 0, 1)}\n")
    arguments = (
        *("retrieve", data, f"--features={features}", f"--out={tmp_path / 'r.csv'}"),
        *(f"--index_list={some}", solution(data, "retrieval")),
    )
    status, _, err = run(*arguments)
    assert status == 2 and "index: 5 of the 6 images that the solution counts" in err
    status, said, _ = run(*arguments, "--partial")
    assert status == 0 and "PARTIAL, index: 5 of the 6 images" in said


@pytest.mark.parametrize(
    ("kind", "option", "message"),
    [
        ("retrieve", "--rerank=diffusion", "got 'diffusion'"),
        ("retrieve", "--rerank=global,verification", "expected one pipeline"),
        ("retrieve", "--test_list=absent.csv", "absent.csv: no such file"),
        ("recognize", "--voters=0", "use a larger number"),
        ("recognize", "--verify=-1", "use a larger number"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    run, data, features, tmp_path, kind, option, message
):
    out = tmp_path / "r.csv"
    status, _, err = run(kind, data, f"--features={features}", f"--out={out}", option)
    assert status == 2 and message in err and err.count("\n") == 1
    assert not out.exists()


def test_test_images_are_no_examples_of_no_landmark(run, data, features, tmp_path):
    status, _, err = run(
        *("recognize", data, f"--features={features}", f"--out={tmp_path / 'r.csv'}"),
        f"--non_landmarks={data / 'test'}",
    )
    assert status == 2 and "give the answer away" in err


def test_a_model_without_local_features_cannot_verify(
    data, features, tmp_path, global_model, capsys
):
    arguments = [
        *("gldv2", "recognize", str(data), f"--features={features}", "--verify=3"),
        *(f"--out={tmp_path / 'r.csv'}", f"--model={global_model}"),
    ]
    assert cli.main(arguments) == 2
    assert "no local features to verify by" in capsys.readouterr().err
