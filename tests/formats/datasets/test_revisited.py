"""Ground truth of Revisited Oxford and Paris."""

import json
import pathlib
import pickle

import numpy as np
import pytest
import scipy.io

from delf_jax.files import InputError
from delf_jax.formats.datasets.revisited import (
    GroundTruth,
    read_ground_truth,
    write_ground_truth,
)

CONTENT = {
    "imlist": ["a", "b", "c", "d"],
    "qimlist": ["q", "r"],
    "gnd": [
        {"easy": [0, 1], "hard": [2], "junk": [], "bbx": [1.5, 2.0, 30.0, 40.25]},
        {"easy": [3], "hard": [], "junk": [0, 1], "bbx": [0, 0, 5, 6]},
    ],
}


def assert_same(one: GroundTruth, other: GroundTruth) -> None:
    assert one.index_images == other.index_images
    assert one.query_images == other.query_images
    assert (one.boxes is None) == (other.boxes is None)
    if one.boxes is not None:
        np.testing.assert_array_equal(one.boxes, other.boxes)
    for mine, theirs in zip(one[3:], other[3:], strict=True):
        assert (mine is None) == (theirs is None)
        for a, b in zip(mine or (), theirs or (), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype == np.int32


def changed(**fields) -> dict:
    """CONTENT with other fields, or with other fields of its first query."""
    content = CONTENT | {k: v for k, v in fields.items() if k in CONTENT}
    first = CONTENT["gnd"][0] | {k: v for k, v in fields.items() if k not in CONTENT}
    return content if "gnd" in fields else content | {"gnd": [first, CONTENT["gnd"][1]]}


def write_json(tmp_path, content) -> pathlib.Path:
    path = tmp_path / "gnd.json"
    path.write_text(json.dumps(content))
    return path


def write_pickle(tmp_path, content, protocol=2) -> pathlib.Path:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_mat(tmp_path, content, compressed=False) -> pathlib.Path:
    """The file as MATLAB has it: cell and struct arrays, ids from 1."""

    def cells(names):
        array = np.empty(len(names), object)
        array[:] = names
        return array

    names = list(content["gnd"][0])
    rows = [
        tuple(np.array(query[n], float) + (n != "bbx") for n in names)
        for query in content["gnd"]
    ]
    made = {
        "imlist": cells(content["imlist"]),
        "qimlist": cells(content["qimlist"]),
        "gnd": np.array(rows, [(name, object) for name in names]),
    }
    path = tmp_path / "gnd.mat"
    scipy.io.savemat(path, made, do_compression=compressed)
    return path


@pytest.mark.golden
def test_the_original_s_files_are_read_as_by_the_original(golden):
    about = json.loads((golden / "revisited" / "revisited.json").read_text())
    for name in ("gnd_synthetic.mat", "gnd_roxford5k.pkl"):
        truth = read_ground_truth(golden / "revisited" / name)
        assert truth.query_images == about["read_mat"]["query_list"]
        assert truth.index_images[:3] == about["read_mat"]["index_list_first3"]
        assert len(truth.index_images) == about["read_mat"]["index_list_length"]
        for query, expected in enumerate(about["ground_truth"]):
            assert truth.easy[query].tolist() == expected["easy"]
            assert truth.hard[query].tolist() == expected["hard"]
            assert truth.junk[query].tolist() == expected["junk"]
            x_min, y_min, x_max, y_max = expected["bbx"]
            assert truth.boxes[query].tolist() == [y_min, x_min, y_max, x_max]


@pytest.mark.golden
@pytest.mark.parametrize(("name", "images"), [("roxford5k", 4993), ("rparis6k", 6322)])
def test_the_published_pickles_equal_the_published_json(golden, tmp_path, name, images):
    folder = golden.parent / "oracles" / "revisitop"
    if not folder.is_dir():
        pytest.skip(f"the published ground truths are not in {folder}")
    truth = read_ground_truth(folder / f"gnd_{name}.pkl")
    assert_same(truth, read_ground_truth(folder / f"gnd_{name}.json"))
    assert (len(truth.index_images), len(truth.query_images)) == (images, 70)
    assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
    write_ground_truth(tmp_path / "again.json", truth)
    assert_same(truth, read_ground_truth(tmp_path / "again.json"))


@pytest.mark.parametrize("write", [write_json, write_pickle, write_mat])
def test_all_kinds_of_file_hold_the_same(tmp_path, write):
    truth = read_ground_truth(write(tmp_path, CONTENT))
    assert truth.index_images == ["a", "b", "c", "d"]
    assert [ids.tolist() for ids in truth.easy] == [[0, 1], [3]]
    assert [ids.tolist() for ids in truth.hard] == [[2], []]
    assert [ids.tolist() for ids in truth.junk] == [[], [0, 1]]
    assert truth.boxes.tolist() == [[2, 1.5, 40.25, 30], [0, 0, 6, 5]]
    write_ground_truth(tmp_path / "written.json", truth)
    assert json.loads((tmp_path / "written.json").read_text()) == CONTENT


def test_a_pickle_may_hold_arrays_of_numpy(tmp_path):
    first = CONTENT["gnd"][0]
    arrays = {name: np.array(first[name], float) for name in first}
    expected = read_ground_truth(write_json(tmp_path, CONTENT))
    for protocol in range(6):
        content = CONTENT | {"gnd": [arrays, CONTENT["gnd"][1]]}
        path = write_pickle(tmp_path, content, protocol)
        assert_same(read_ground_truth(path), expected)


@pytest.mark.parametrize("write", [write_json, write_pickle, write_mat])
def test_lists_that_a_file_lacks_are_absent(tmp_path, write):
    gnd = [{"easy": query["easy"]} for query in CONTENT["gnd"]]
    truth = read_ground_truth(write(tmp_path, CONTENT | {"gnd": gnd}))
    assert (truth.hard, truth.junk, truth.boxes) == (None, None, None)
    write_ground_truth(tmp_path / "written.json", truth)
    assert json.loads((tmp_path / "written.json").read_text())["gnd"] == gnd


def test_a_list_that_only_some_queries_lack_is_empty_there(tmp_path):
    gnd = [{**CONTENT["gnd"][0], "hard": [2]}, CONTENT["gnd"][1].copy()]
    del gnd[1]["hard"]
    truth = read_ground_truth(write_pickle(tmp_path, changed(gnd=gnd)))
    assert [ids.tolist() for ids in truth.hard] == [[2], []]


def original(**lists) -> dict:
    """CONTENT with lists of the original protocol in the first query."""
    return CONTENT | {"gnd": [{"bbx": [1, 2, 3, 4], **lists}, {"bbx": [0, 0, 5, 6]}]}


@pytest.mark.parametrize("write", [write_json, write_pickle])
def test_ok_images_of_the_original_protocol_are_right(tmp_path, write):
    truth = read_ground_truth(write(tmp_path, original(ok=[2, 0], junk=[3])))
    assert [ids.tolist() for ids in truth.easy] == [[2, 0], []]
    assert [ids.tolist() for ids in truth.junk] == [[3], []]
    assert truth.hard is None and truth.boxes.tolist()[0] == [2, 1, 4, 3]
    both = read_ground_truth(write(tmp_path, original(good=[1, 2], ok=[2, 0])))
    assert [ids.tolist() for ids in both.easy] == [[1, 2, 0], []]
    assert both.easy[0].dtype == both.easy[1].dtype == np.int32
    with pytest.raises(InputError, match="has good or ok images, and easy or hard"):
        read_ground_truth(write(tmp_path, original(ok=[0], hard=[1])))
    with pytest.raises(InputError, match=r"gnd\[0\].ok: 4 is not an image"):
        read_ground_truth(write(tmp_path, original(ok=[4])))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"easy": [0, 1], "junk": [1]},
            r"gnd\[0\]: lists image 'b' as easy and again ",
        ),
        ({"easy": [0, 1], "hard": [0]}, "lists image 'a' as easy and again as hard"),
        ({"hard": [2], "junk": [2]}, "lists image 'c' as hard and again as junk"),
        ({"easy": [3, 3]}, "lists image 'd' as easy and again as easy; keep one"),
        ({"ok": [3], "junk": [3]}, "lists image 'd' as easy and again as junk"),
    ],
)
def test_a_query_that_lists_an_image_twice_is_refused(tmp_path, lists, message):
    with pytest.raises(InputError, match=message):
        read_ground_truth(write_pickle(tmp_path, original(**lists)))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_commands_is_refused(tmp_path, protocol):
    trap = tmp_path / "sprung"
    content = CONTENT | {"imlist": Hostile(f"touch {trap}")}
    path = write_pickle(tmp_path, content, protocol)
    with pytest.raises(InputError, match=r"gnd.pkl: needs .*system.* is refused"):
        read_ground_truth(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not a ground truth"),
        ({"imlist": ["a"], "gnd": []}, "has no list qimlist"),
        (changed(imlist=["a", 3]), r"imlist\[1\]: 3 is not a name"),
        (changed(imlist="abcd"), "has no list imlist"),
        (changed(gnd=[{}]), "gnd has 1 rows for 2 names"),
        (changed(gnd=[[], []]), "expected dicts of easy, hard, junk"),
        (changed(easy=[4]), r"gnd\[0\].easy: 4 is not an image; there are 4"),
        (changed(junk=[-1]), r"gnd\[0\].junk: -1 is not an image"),
        (changed(hard=[1.5]), r"gnd\[0\].hard: 1.5 is not an image"),
        (changed(hard=["a"]), r"gnd\[0\].hard: not a list of numbers"),
        (changed(hard=[True]), r"gnd\[0\].hard: not a list of numbers"),
        (changed(hard=[[1], [2, 3]]), r"gnd\[0\].hard: not a list of numbers"),
        (changed(hard=[10**400]), r"gnd\[0\].hard: not a list of numbers"),
        (changed(bbx=[1, 2, 3]), r"gnd\[0\].bbx: a box has 4 numbers, this has 3"),
        (changed(bbx=None), r"gnd\[0\].bbx: not a list of numbers"),
        (changed(gnd=[{"easy": []}, CONTENT["gnd"][1]]), r"gnd\[0\].bbx: .* has 0"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(tmp_path, content, message):
    for write in (write_json, write_pickle):
        path = write(tmp_path, content)
        with pytest.raises(InputError, match=message) as error:
            read_ground_truth(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_boxes_and_ids_are_finite(tmp_path, value):
    for name in ("bbx", "easy"):
        path = write_pickle(tmp_path, changed(**{name: [value, 1, 2, 3]}))
        with pytest.raises(InputError, match=rf"gnd\[0\].{name}: .* not finite"):
            read_ground_truth(path)


def test_ids_of_matlab_count_from_one(tmp_path):
    path = write_mat(tmp_path, changed(easy=[-1]))
    with pytest.raises(InputError, match="easy: 0 is not an image; .* counted from 1"):
        read_ground_truth(path)


@pytest.mark.parametrize("write", [write_pickle, write_mat, write_json])
def test_every_changed_or_cut_byte_gives_a_ground_truth_or_our_own_error(
    tmp_path, write
):
    content = {"imlist": ["a", "b"], "qimlist": ["q"], "gnd": [CONTENT["gnd"][0]]}
    content["gnd"][0] = content["gnd"][0] | {"hard": [1]}
    path = write(tmp_path, content)
    data = bytearray(path.read_bytes())
    start = 116 if write is write_mat else 0  # before it stands free text.
    damaged = [data[:length] for length in range(start, len(data))]
    for place in range(start, len(data)):
        damaged.append(bytearray(data))
        damaged[-1][place] ^= 0xFF if place % 3 == 0 else 1 << place % 8
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            truth = read_ground_truth(path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            count = len(truth.index_images)
            for ids in (*(truth.easy or ()), *(truth.hard or ())):
                assert ((ids >= 0) & (ids < count)).all()
    assert refused > len(damaged) / 4


def test_a_file_that_is_absent_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(InputError, match="a .mat, .pkl or .json file"):
        read_ground_truth(tmp_path / "gnd.txt")
    for suffix in ("pkl", "json", "mat"):
        with pytest.raises(InputError, match="no such file"):
            read_ground_truth(tmp_path / f"gnd.{suffix}")
    (tmp_path / "folder.pkl").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_ground_truth(tmp_path / "folder.pkl")
    with (tmp_path / "gnd.pkl").open("wb") as file:
        file.truncate((1 << 26) + 1)
    with pytest.raises(InputError, match="expected at most [0-9]+"):
        read_ground_truth(tmp_path / "gnd.pkl")
