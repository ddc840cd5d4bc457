import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from delf_jax import cli
from delf_jax.extraction.config import (
    check_projections,
    read_extraction_config,
    replaced_settings,
)
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.pca import SETTINGS, check_model, project
from delf_jax.features import Features
from delf_jax.files import InputError, read_json
from delf_jax.index import fit_projection, positive_pairs
from delf_jax.manifests import write_manifest
from delf_jax.retrieval import whitening
from delf_jax.store import feature_store
from tests.helpers.stores import add_features, write_descriptors


@pytest.fixture
def clustered(tmp_path, rng):
    """(store, its local descriptors)."""
    images = [rng.normal(size=(30, 6)).astype(np.float32) for _ in range(20)]
    images = [x * np.float32([[6, 5, 4, 3, 2, 1]]) for x in images]
    return write_descriptors(tmp_path / "store", images), np.concatenate(images)


def write_global_store(out, descriptors, ids, settings=None):
    features = {
        id: Features(None, row, (40, 60))
        for id, row in zip(ids, descriptors, strict=True)
    }
    add_features(out, features, settings=settings or {})
    return out


@pytest.fixture
def landmarks(tmp_path, rng):
    """(store, global descriptors): eight landmarks of five images."""
    x = np.repeat(rng.normal(size=(8, 6)), 5, axis=0) + 0.3 * rng.normal(size=(40, 6))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"{place // 5}/{place % 5}.jpg" for place in range(40)]
    return write_global_store(tmp_path / "landmarks", x, ids), x


def read_settings(settings, name):
    lines = [f"--config.{field}={value}" for field, value in settings.items()]
    config, _ = read_extraction_config(None, lines)
    return config, replaced_settings(config)[name]


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("of", ["local", "global"])
def test_a_pca_is_read_by_extraction(clustered, landmarks, tmp_path, whiten, of):
    store, x = clustered if of == "local" else landmarks
    settings = fit_projection.fit_pca(
        store, tmp_path / "pca", dimension=3, of=of, whiten=whiten, progress=False
    )
    _, pca = read_settings(settings, SETTINGS[of])
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(float), bias=True))
    np.testing.assert_allclose(pca.mean, x.mean(axis=0), atol=1e-5)
    cosines = np.sum(pca.projection * vectors.T[::-1][:3], axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-5)
    if whiten:
        np.testing.assert_allclose(pca.variances, values[::-1][:3], rtol=1e-4)
    else:
        assert pca.variances is None
    info = json.loads((tmp_path / "pca" / "pca.json").read_text())
    share = values[-3:].sum() / values.sum()
    assert info["explained_variance"] == pytest.approx(share)
    assert info["model"]["fingerprint"] == "f" * 64
    assert info["descriptors"] == len(x) and info["of"] == of


def test_half_whitening_divides_by_the_root_of_the_deviation(landmarks, tmp_path):
    store, x = landmarks
    fit = {"dimension": 4, "of": "global", "progress": False}
    whole = fit_projection.fit_pca(store, tmp_path / "whole", whiten=True, **fit)
    half = fit_projection.fit_pca(store, tmp_path / "half", half_whiten=True, **fit)
    (_, whole), (_, half) = (read_settings(s, "global_pca") for s in (whole, half))
    assert half.variances is None
    ours = project(x, half)
    values = (x - whole.mean) @ whole.projection.T
    expected = values / np.sqrt(values.std(axis=0))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_projection_is_of_the_model_that_gave_the_descriptors(tmp_path, rng):
    x = rng.normal(size=(9, 6)).astype(np.float32)
    store = write_global_store(tmp_path / "store", x, list("abcdefghi"))
    manifest = read_json(store / "manifest.json")
    other = {"name": "g", "fingerprint": "a" * 64, "path": "/g", "settings": {}}
    write_manifest(store / "manifest.json", manifest | {"global_model": other})
    fields = fit_projection.fit_pca(
        store, tmp_path / "pca", dimension=2, of="global", progress=False
    )
    config, _ = read_settings(fields, "global_pca")
    local = Model(None, {}, {}, "f" * 64, "local")
    check_projections(
        config, local._replace(global_model=local._replace(fingerprint="a" * 64))
    )
    with pytest.raises(InputError, match="fitted to descriptors of the model g, not"):
        check_projections(config, local)


def test_a_pca_that_cannot_be_is_refused(clustered, landmarks, tmp_path, rng):
    out = tmp_path / "pca"

    def fit(store, dimension=3, **options):
        options |= {"dimension": dimension, "progress": False}
        return fit_projection.fit_pca(store, out, **options)

    with pytest.raises(InputError, match="--dimension=7: the descriptors .* have 6"):
        fit(clustered[0], 7)
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 4))
    flat = write_descriptors(tmp_path / "flat", [flat.astype(np.float32)])
    for how in ("whiten", "half_whiten"):
        with pytest.raises(InputError, match="do not vary in 3 directions"):
            fit(flat, **{how: True})
    none = write_descriptors(tmp_path / "none", [np.zeros((0, 4), np.float32)])
    with pytest.raises(InputError, match="no local descriptors to fit"):
        fit(none)
    eye = np.eye(4, dtype=np.float32)
    projected = write_descriptors(tmp_path / "projected", [eye], {"pca": "abc"})
    with pytest.raises(InputError, match="are projected already"):
        fit(projected)
    with pytest.raises(InputError, match="has no global descriptors"):
        fit(clustered[0], of="global")
    with pytest.raises(InputError, match="has no local descriptors"):
        fit(landmarks[0])
    empty = write_global_store(tmp_path / "empty", [], [])
    with pytest.raises(InputError, match="an empty store"):
        fit(empty, of="global")
    wild = write_global_store(tmp_path / "wild", np.full((1, 4), np.nan), ["a"])
    with pytest.raises(InputError, match="that are not finite"):
        fit(wild, of="global")


# Of the images in `pairs.csv` below.
PLACES = np.array([[1, 10, 6], [3, 14, 7]])


@pytest.mark.parametrize("dimension", [None, 4])
def test_whitening_is_learned_from_pairs(landmarks, tmp_path, dimension):
    store, x = landmarks
    path = tmp_path / "pairs.csv"
    path.write_text("query,positive\n0/1,0/3\n2/0.jpg,2/4.jpg\n5/1,gone\n1/1,1/2\n")
    pairs = positive_pairs.read_pairs(path)
    out = tmp_path / "whitening"
    settings = fit_projection.fit_whitening(store, pairs, out, dimension=dimension)
    _, found = read_settings(settings, "global_pca")
    mean, projection = whitening.learn_whitening(x, *PLACES)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.projection, projection[:dimension], rtol=1e-5)
    text = fit_projection.format_summary(out)
    assert f"{dimension or 6} components, learned from 3 pairs (1 left out" in text
    assert "not all images are in the store, such as gone)" in text
    assert "note: 3 pairs are few for" in text
    info = json.loads((out / "pca.json").read_text())
    assert info["pairs_sha256"] == pairs.sha256 and info["features_key"] == "drawn"


def test_whitening_of_folders_brings_images_of_one_together(landmarks, tmp_path):
    store, x = landmarks
    settings = fit_projection.fit_whitening(store, None, tmp_path / "w")
    _, found = read_settings(settings, "global_pca")
    white = whitening.apply_whitening(x, found.mean, found.projection)
    same = np.equal.outer(np.arange(40) // 5, np.arange(40) // 5)

    def margin(rows):
        similarities = rows @ rows.T
        return similarities[same].mean() - similarities[~same].mean()

    assert margin(white) > margin(x)
    assert "learned from 80 pairs" in fit_projection.format_summary(tmp_path / "w")


def test_whitening_that_cannot_be_is_refused(landmarks, tmp_path):
    out = tmp_path / "whitening"
    with pytest.raises(InputError, match="--dimension=9: the descriptors .* have 6"):
        fit_projection.fit_whitening(landmarks[0], None, out, dimension=9)
    same = write_global_store(tmp_path / "same", np.ones((2, 3)), ["a/1", "a/2"])
    with pytest.raises(InputError, match="equal descriptors, nothing to learn from"):
        fit_projection.fit_whitening(same, None, out)
    projected = {"global_pca": "abc"}
    done = write_global_store(tmp_path / "b", np.eye(2), ["a/1", "a/2"], projected)
    with pytest.raises(InputError, match="are projected already"):
        fit_projection.fit_whitening(done, None, out)


def test_a_projection_of_another_model_or_kind_is_refused(clustered, tmp_path):
    settings = fit_projection.fit_pca(
        clustered[0], tmp_path / "pca", dimension=3, progress=False
    )
    config, _ = read_settings(settings, "pca")
    other = Model(None, {}, {}, "0" * 64, "other")
    with pytest.raises(InputError, match="of the model drawn, not of other: fit one"):
        check_projections(config, other)
    path = settings["extraction.pca.projection"]
    with pytest.raises(InputError, match="was fitted to local descriptors"):
        check_model("global_pca", path, other)
    own = Model(None, {}, {}, "f" * 64, "drawn")
    check_projections(config, own)
    data = bytearray(pathlib.Path(path).read_bytes())
    data[-1] ^= 1
    pathlib.Path(path).write_bytes(data)
    with pytest.raises(InputError, match=r"not the file that pca\.json"):
        check_projections(config, own)
    # Of another file pca.json says nothing.
    (tmp_path / "pca" / "mine.datum").write_bytes(b"x")
    check_model("pca", tmp_path / "pca" / "mine.datum", other)
    (tmp_path / "pca" / "pca.json").write_text("[]")
    with pytest.raises(InputError, match=r"pca\.json: expected fields"):
        check_model("pca", path, other)


def test_a_command_learns_whitening_and_extraction_uses_it(
    tmp_path, tiny_model, global_model, rng, capsys
):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), np.uint8)).save(path)
    photos, store = str(tmp_path / "photos"), str(tmp_path / "store")
    extract = ["extract", photos, f"--model={global_model}"]
    assert cli.main([*extract, f"--out={store}"]) == 0
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,positive\na/1,a/2\nb/1,b/2\n")
    fit = ["fit", "whitening", store, f"--out={tmp_path / 'w'}", f"--pairs={pairs}"]
    capsys.readouterr()
    assert cli.main([*fit, "--dimension=5"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "5 components, learned from 2 pairs" in said[0]
    assert any("fitted to sums over 2 scales" in line for line in said)
    fields = [line.strip() for line in said if line.startswith("  --config")]
    white = tmp_path / "white"
    assert cli.main([*extract, f"--out={white}", *fields]) == 0
    found = feature_store.open_store(white).global_descriptors
    assert found.shape == (4, 5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    other = ["extract", photos, f"--model={tiny_model}", f"--out={tmp_path / 'o'}"]
    capsys.readouterr()
    assert cli.main([*other, *fields]) == 2
    assert "was fitted to descriptors of the model" in capsys.readouterr().err
    fit = ["fit", "pca", store, f"--out={tmp_path / 'p'}", "--of=global"]
    assert cli.main([*fit, "--dimension=2"]) == 0
    assert "--config.extraction.global_pca.mean=" in capsys.readouterr().out
