"""The training pairs of SfM-120k."""

import pickle

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.datasets.sfm120k import image_path, read_sfm120k, read_whitening

PART = {"cids": ["aa", "bb", "cc"], "cluster": [4, 4, 7], "qidxs": [0], "pidxs": [1]}


def write(tmp_path, content, protocol=2):
    path = tmp_path / "retrieval-SfM-120k.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_both_parts_are_read_from_lists_or_arrays(tmp_path, protocol):
    arrays = {k: np.array(v) for k, v in PART.items() if k != "cids"}
    content = {"train": PART, "val": PART | arrays}
    found = read_sfm120k(write(tmp_path, content, protocol))
    assert list(found) == ["train", "val"]
    for pairs in found.values():
        assert pairs.images == ["aa", "bb", "cc"]
        assert pairs.clusters.tolist() == [4, 4, 7]
        assert (pairs.queries.tolist(), pairs.positives.tolist()) == ([0], [1])


def test_a_file_for_whitening_has_one_part_and_no_clusters(tmp_path):
    content = {"ids": PART["cids"], "qidxs": [2], "pidxs": [0]}
    (pairs,) = read_sfm120k(write(tmp_path, content)).values()
    assert pairs.clusters is None
    assert pairs.queries.tolist() == [2]


def test_images_lie_by_the_end_of_their_id(tmp_path):
    expected = tmp_path / "ims" / "ef" / "cd" / "ab" / "0123abcdef"
    assert image_path(tmp_path, "0123abcdef") == expected
    with pytest.raises(InputError, match="is not an id"):
        image_path(tmp_path, "../../../etc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not the lists of SfM-120k"),
        ({"train": []}, "train: expected a dict of cids"),
        ({"train": PART | {"cids": [1]}}, "train: cids is not a list of names"),
        ({"train": {"cids": []}}, "train.qidxs: not a list of numbers"),
        ({"train": PART | {"qidxs": [3]}}, "train.qidxs: 3 is not an image"),
        ({"train": PART | {"pidxs": []}}, "train: 1 queries, 0 positives"),
        ({"val": PART | {"cluster": [1]}}, "val.cluster: not a small number"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_sfm120k(write(tmp_path, content))


def test_every_changed_or_cut_byte_gives_pairs_or_our_own_error(tmp_path):
    path = write(tmp_path, {"train": PART})
    data = bytearray(path.read_bytes())
    damaged = [data[:length] for length in range(len(data))]
    for place in range(len(data)):
        for flip in (1 << place % 8, 0xFF):
            damaged.append(bytearray(data))
            damaged[-1][place] ^= flip
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_sfm120k(path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(damaged) / 2


def dense(kernel, bias):
    """The config of a Dense layer of Keras, as far as it matters."""
    config = {"name": "whitening", "units": len(bias), "use_bias": True}
    for name, value in (("kernel", kernel), ("bias", bias)):
        initializer = {"class_name": "Constant", "config": {"value": value}}
        config[f"{name}_initializer"] = initializer
    return config


@pytest.mark.parametrize("rows", [5, 3])
@pytest.mark.parametrize("form", [np.float32, np.float64, "lists"])
def test_whitening_projects_as_the_layer_does(rng, tmp_path, rows, form):
    projection, mean = rng.normal(size=(rows, 5)), rng.normal(size=5)
    kernel, bias = projection.T, -projection @ mean
    if form == "lists":
        kernel, bias = kernel.tolist(), bias.tolist()
    else:
        kernel, bias = kernel.astype(form), bias.astype(form)
    found_mean, found = read_whitening(write(tmp_path, dense(kernel, bias)))
    x = rng.normal(size=(4, 5))
    np.testing.assert_allclose(
        (x - found_mean) @ found.T, x @ kernel + bias, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "whose kernel_initializer is a constant"),
        ({"kernel_initializer": "glorot"}, "whose kernel_initializer is a constant"),
        (dense(np.eye(2), [0, float("nan")]), "bias: has numbers that are not finite"),
        (dense(np.eye(2), [0.0, 0, 0]), "its kernel and bias are no whitening"),
        (dense(np.zeros((2, 2)), [1.0, 0]), "its kernel and bias are no whitening"),
        (dense(np.zeros((2, 3)), np.ones(3)), "its kernel and bias are no whitening"),
    ],
)
def test_what_is_no_whitening_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_whitening(write(tmp_path, content))
