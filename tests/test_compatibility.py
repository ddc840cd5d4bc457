"""What version 0.1 wrote opens, and is continued; see fixtures/make.py."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from delf_jax import cli
from delf_jax.extraction import extract, model_folder, pca, settings
from delf_jax.index import codebook
from delf_jax.store import feature_store

ROOT = pathlib.Path(__file__).parents[1]
OLD = ROOT / "tests" / "fixtures" / "v0.1"
EXPECTED = json.loads((OLD / "expected.json").read_text())
MODEL = "--model=training/model"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A copy of all files, the working directory: their paths start from it."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    index = tmp_path / "index" / "index.json"
    index.write_text(index.read_text().replace("FOLDER", str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs a command: all that it prints."""

    def run(*arguments):
        assert cli.main(arguments) == 0
        return "".join(capsys.readouterr())

    return run


def _summary(features):
    counts = len(features.local.scales)
    if features.regions is not None:
        counts = features.regions.counts.tolist()
    sums = features.local.descriptors.sum(), features.global_descriptor.sum()
    return [counts, *(pytest.approx(float(x), rel=1e-3, abs=1e-3) for x in sums)]


@pytest.mark.parametrize(
    ("name", "options"),
    [("features", ()), ("features_of_boxes", ("--boxes=boxes.csv",))],
)
def test_a_feature_store(run, name, options):
    images = feature_store.open_store(name)
    found = {id: _summary(f) for id, f in zip(images.ids, images, strict=True)}
    assert found == EXPECTED[name]
    printed = run("extract", "images", MODEL, f"--out={name}", *options)
    assert "0 extracted, 6 unchanged\n" in printed


def test_a_model_folder_extracts_what_it_did():
    model = model_folder.load_model("training/model")
    images = feature_store.open_store("features")
    paths = [f"images/{id}" for id in images.ids]
    found = extract.extract_features(model, paths, settings.settings_for(model))
    for old, new in zip(images, found, strict=True):
        np.testing.assert_allclose(
            new.global_descriptor, old.global_descriptor, atol=1e-5
        )
        np.testing.assert_allclose(
            new.local.descriptors, old.local.descriptors, atol=1e-4
        )


@pytest.mark.parametrize(
    ("name", "options"), [("similarities", ()), ("asmk", ("--codebook=codebook",))]
)
def test_an_index_and_its_inverted_file(run, name, options):
    before = {p: p.read_bytes() for p in pathlib.Path("index/asmk").rglob("*.*")}
    printed = run("index", "images", MODEL, "--index=index")
    assert "0 extracted, 6 unchanged\n" in printed
    every = ("--no_rerank", "--top=0", "--json=found.json")
    run("search", "images/a/0.jpg", "--index=index", MODEL, *every, *options)
    (query,) = json.loads(pathlib.Path("found.json").read_text())["queries"]
    found = {row["image"]: row["similarity"] for row in query["results"]}
    assert found == pytest.approx(EXPECTED[name], abs=1e-5)
    assert before == {path: path.read_bytes() for path in before}


def test_a_codebook():
    centroids = codebook.load_codebook("codebook").centroids
    np.testing.assert_allclose(centroids, EXPECTED["centroids"], rtol=1e-6)


def test_a_pca_and_its_datum_files(run):
    described = json.loads(pathlib.Path("pca/pca.json").read_text())
    pca.check_model("pca", "pca/mean.datum", model_folder.load_model("training/model"))
    assert described["dimension"] == 4
    options = (
        "--config.extraction.pca.mean=pca/mean.datum",
        "--config.extraction.pca.projection=pca/pca_proj_mat.datum",
        "--config.extraction.pca.dimension=4",
    )
    run("extract", "images/a/0.jpg", MODEL, "--out=projected", *options)
    (features,) = feature_store.open_store("projected")
    assert features.local.descriptors.shape == (20, 4)


def test_a_prepared_dataset(run):
    (shard,) = pathlib.Path("prepared").rglob("*.array_record*")
    before = shard.stat()
    printed = run("prepare", "--dataset=images", "--data=prepared", "--max_side=128")
    assert "6 of 6 images ready" in printed
    assert shard.stat() == before


def test_a_training_resumes_at_its_step(run):
    config = f"--config={ROOT / 'configs' / 'tiny.py'}"
    options = ("--workdir=training", *EXPECTED["training_options"])
    run("train", config, "--config.steps=4", *options)
    lines = pathlib.Path("training/metrics.jsonl").read_text().splitlines()
    *_, third, last = map(json.loads, lines)
    assert [third["step"], len(lines)] == [3, 4]
    expected = EXPECTED["resumed"]
    assert {n: last[n] for n in expected} == pytest.approx(expected, rel=1e-3)
