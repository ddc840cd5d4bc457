import pickle

import numpy as np
import pytest

from delf_jax.files import InputError, sha256_of
from delf_jax.index import positive_pairs

IDS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/deep/3.jpg", "c.png"]


def write_table(tmp_path, *rows, header="query,positive"):
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_pairs_of_a_table_are_found_by_what_is_unique_of_their_names(tmp_path):
    path = write_table(tmp_path, "a/1.jpg,b/1", "3,c.png", "1.jpg,c", "x,c")
    pairs = positive_pairs.read_pairs(path)
    assert pairs.sha256 == sha256_of(path)
    rows, left_out = positive_pairs.locate(pairs, IDS, "store")
    # 1.jpg is one of two.
    assert rows.tolist() == [[0, 2], [3, 4]] and left_out == 2


def test_pairs_of_sfm120k_are_those_for_training(tmp_path):
    part = {"cids": ["a/1.jpg", "zz", "c.png"], "qidxs": [0, 1], "pidxs": [2, 0]}
    for content in ({"val": {}, "train": part}, part):
        path = tmp_path / "pairs.pkl"
        path.write_bytes(pickle.dumps(content))
        if "val" in content:
            content["val"] = part | {"qidxs": [], "pidxs": []}
            path.write_bytes(pickle.dumps(content))
        pairs = positive_pairs.read_pairs(path)
        assert pairs.pairs == [("a/1.jpg", "c.png"), ("zz", "a/1.jpg")]
    rows, left_out = positive_pairs.locate(pairs, IDS, "store")
    assert rows.tolist() == [[0, 4]] and left_out == 1
    path.write_bytes(pickle.dumps({"val": part}))
    with pytest.raises(
        InputError, match=r"expected pairs of whiten or train, got \['val'\]"
    ):
        positive_pairs.read_pairs(path)


def test_images_of_a_folder_are_pairs(monkeypatch):
    ids = ["a/3", "a/1", "a/2", "b/1", "_others/1", "_others/2", "1", "2"]
    pairs = positive_pairs.pairs_of_folders(ids)
    assert pairs.pairs == [("a/1", "a/2"), ("a/1", "a/3"), ("a/2", "a/3")]
    many = [f"a/{n:03d}" for n in range(100)]
    found = positive_pairs.pairs_of_folders(many).pairs
    assert len(found) == sum(min(positive_pairs.PARTNERS, 99 - n) for n in range(100))
    assert np.unique(found, axis=0).shape == (len(found), 2)


def test_pairs_that_are_nowhere_are_refused(tmp_path):
    path = write_table(tmp_path, "x,y", "c,z")
    reason = r"store: has no two images of the pairs .*; x, y, z are missing"
    with pytest.raises(InputError, match=reason):
        positive_pairs.locate(positive_pairs.read_pairs(path), IDS, "store")
    with pytest.raises(InputError, match="no two images of the pairs .images of one"):
        positive_pairs.locate(
            positive_pairs.pairs_of_folders(["1", "2"]), ["1", "2"], "store"
        )
    with pytest.raises(InputError, match="lists no pairs"):
        positive_pairs.read_pairs(write_table(tmp_path))
    with pytest.raises(InputError, match="no column 'positive'"):
        positive_pairs.read_pairs(write_table(tmp_path, header="query"))
