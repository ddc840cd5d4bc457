import json

import numpy as np
import pytest

from delf_jax.files import InputError, sha256_of
from delf_jax.formats import tensor_files
from delf_jax.index.codebook import (
    INFO,
    TENSORS,
    check_codebook,
    load_codebook,
    save_codebook,
)
from delf_jax.manifests import write_manifest

MODEL = {"name": "drawn", "fingerprint": "f" * 64}
PROVENANCE = {"model": MODEL, "settings": {"max_features": 9}}


@pytest.fixture
def saved(tmp_path, rng):
    centroids = rng.normal(size=(5, 3)).astype(np.float32)
    return save_codebook(tmp_path / "codebook", centroids, PROVENANCE)


def test_a_codebook_comes_back_as_it_was(saved):
    loaded = load_codebook(saved.path)
    np.testing.assert_array_equal(loaded.centroids, saved.centroids)
    assert loaded.info == saved.info
    assert (loaded.info["words"], loaded.info["dimension"]) == (5, 3)


def test_a_codebook_fits_what_it_was_fitted_to(saved):
    check_codebook(saved, PROVENANCE, 3)
    other = PROVENANCE | {"settings": {"max_features": 50}}
    check_codebook(saved, other, 3)


@pytest.mark.parametrize(
    ("change", "dimension", "reason"),
    [
        ({}, 4, "of 3 dimensions does not fit descriptors of 4"),
        (
            {"model": {"name": "b", "fingerprint": "e" * 64}},
            3,
            "of the model drawn, not of b",
        ),
        ({"settings": {"pca": "abc"}}, 3, "another PCA"),
    ],
)
def test_a_codebook_of_other_descriptors_is_refused(saved, change, dimension, reason):
    with pytest.raises(InputError, match=reason):
        check_codebook(saved, PROVENANCE | change, dimension)


def test_features_from_files_do_not_say_their_model(saved):
    files = {"model": {"name": "files", "fingerprint": ""}, "settings": {}}
    check_codebook(saved, files, 3)


def test_a_damaged_codebook_is_refused(saved):
    path = saved.path / TENSORS
    data = path.read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="not the file that codebook.json"):
            load_codebook(saved.path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        load_codebook(saved.path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_codebook_with_numbers_that_are_not_finite_is_refused(tmp_path, value):
    centroids = np.ones((5, 3), np.float32)
    centroids[4, 1] = value
    save_codebook(tmp_path, centroids, PROVENANCE)
    with pytest.raises(InputError, match="has no centroids .* of finite numbers"):
        load_codebook(tmp_path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"words": 6}, "centroids"),
        ({"words": -1}, "words"),
        ({"model": []}, "model"),
        ({"model": {"fingerprint": 3}}, "model.fingerprint"),
        ({"settings": [1]}, "settings"),
        ({"sha256": "0"}, "sha256"),
    ],
)
def test_a_field_of_another_kind_is_named(saved, change, field):
    write_manifest(saved.path / INFO, saved.info | change)
    with pytest.raises(InputError, match=field):
        load_codebook(saved.path)


def test_what_is_not_a_codebook_is_refused(saved, tmp_path):
    tensor_files.write_tensors(saved.path / TENSORS, {"a": np.zeros(3)}, {})
    info = saved.path / INFO
    digest = sha256_of(saved.path / TENSORS)
    info.write_text(json.dumps(saved.info | {"sha256": digest}))
    with pytest.raises(InputError, match="has no centroids"):
        load_codebook(saved.path)
    info.write_text(json.dumps({"format": 9}))
    with pytest.raises(InputError, match="field 'format': expected 1, got 9"):
        load_codebook(saved.path)
    info.unlink()
    with pytest.raises(InputError, match="codebook: not finished: resume"):
        load_codebook(saved.path)
    with pytest.raises(InputError):
        load_codebook(tmp_path / "absent")


@pytest.mark.golden
@pytest.mark.parametrize("name", ["codebook", "tf1_model.ckpt-33"])
def test_codebooks_of_the_original_are_read(golden, name):
    codebook = load_codebook(golden / "tfbundle" / name)
    assert codebook.info == {} and codebook.centroids.ndim == 2
    check_codebook(codebook, PROVENANCE, codebook.centroids.shape[1])
