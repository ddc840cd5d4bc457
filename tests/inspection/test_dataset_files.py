import json
import pickle

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2, revisited
from delf_jax.formats.datasets.revisited_metrics import Summary, write_metrics
from delf_jax.formats.delf import index_mapping
from delf_jax.formats.tensorflow import tfrecord
from delf_jax.inspection.describe import format_contents

TRUTH = {
    "imlist": ["a", "b", "c"],
    "qimlist": ["q"],
    "gnd": [{"bbx": [0, 1, 2, 3], "easy": [0], "hard": [1, 2], "junk": []}],
}
PAIRS = {"cids": ["a", "b"], "cluster": [0, 0], "qidxs": [0], "pidxs": [1]}


def contents(path):
    """What is printed of a file, without its name."""
    return format_contents(path).removeprefix(f"{path}: ")


def test_ground_truth_is_counted(tmp_path):
    (tmp_path / "gnd.json").write_text(json.dumps(TRUTH))
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(TRUTH, protocol=2))
    for name in ("gnd.json", "gnd.pkl"):
        assert contents(tmp_path / name) == (
            "ground truth\nqueries: 1, index images: 3\n"
            "easy: 1 index images of all queries\nhard: 2 index images of all queries\n"
            "junk: 0 index images of all queries\nboxes of queries: 1"
        )


@pytest.mark.golden
def test_ground_truth_of_matlab_is_counted(golden):
    for path in sorted((golden / "revisited").glob("*.mat")):
        count = len(revisited.read_ground_truth(path).query_images)
        assert f"ground truth\nqueries: {count}," in contents(path)


def test_pairs_are_counted_by_part(tmp_path):
    path = tmp_path / "retrieval-SfM-120k.pkl"
    path.write_bytes(pickle.dumps({"train": PAIRS, "val": PAIRS}, protocol=2))
    assert contents(path) == (
        "pairs of SfM-120k\ntrain: 2 images, 1 pair\nval: 2 images, 1 pair"
    )


def test_results_are_listed_by_protocol(tmp_path):
    path = tmp_path / "metrics.txt"
    write_metrics(path, (1, 5), {"hard": Summary(0.5, np.ones(2), np.ones(2))})
    words = "results on Revisited Oxford and Paris\nprotocols: 1, ranks: 1, 5\n"
    assert contents(path) == f"{words}hard: mAP 50.00"


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [
        (
            ("id", "url", "landmark_id"),
            [("a", "u", 3), ("b", "u", 3)],
            "training images of GLDv2\nrows: 2\nlandmarks: 1",
        ),
        (
            ("landmark_id", "images"),
            [(3, "a b"), (4, "c")],
            "cleaned training images of GLDv2\nrows: 2\nimages: 3\nlandmarks: 2",
        ),
        (("id",), [("a",)], "images of GLDv2\nrows: 1"),
        (("id", "landmarks"), [("a", "3 .5")], "predictions of GLDv2\nrows: 1"),
    ],
)
def test_lists_of_landmarks_are_counted(tmp_path, columns, rows, expected):
    tables.write_rows(tmp_path / "a.csv", columns, rows)
    assert contents(tmp_path / "a.csv").startswith(expected)


def test_solutions_and_index_mappings_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    solution = gldv2.Solution({"a": [1]}, {"b": [2], "c": []}, ["d"])
    gldv2.write_solution(path, solution, "recognition")
    expected = "solution of GLDv2 recognition\npublic: 1, private: 2, ignored: 1"
    assert contents(path) == expected
    index_mapping.write_index_mapping(path, [index_mapping.IndexBox("a_0", 0, -1)])
    assert contents(path) == "index mapping\nrows: 1"


def test_tfrecords_are_counted(tmp_path):
    examples = [tfrecord.Example(id, b"jpeg", 7, 4, 5) for id in ("a", "b")]
    (path,) = tfrecord.write_examples(tmp_path, "train", examples, 1)
    assert contents(path) == "TFRecord of training images\nimages: 2\nlabels: 1"


def test_what_is_unknown_is_refused_with_the_kinds_that_are_known(tmp_path):
    for name, text, words in (
        ("a.csv", "x,y\n", r"not a known kind of CSV \(x, y\)"),
        ("a.json", "[]", "not a known kind of JSON"),
        (
            "a.odd",
            "odd",
            r"no kind .* ground truth .* TFRecords, and files that end in .datum",
        ),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=words):
            format_contents(tmp_path / name)
