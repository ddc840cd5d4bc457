"""The CSV files of Google Landmarks v2."""

import json
import pathlib

import pytest

from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2

TASKS = ("recognition", "retrieval")


@pytest.fixture
def folder(golden) -> pathlib.Path:
    return golden / "gldv2"


@pytest.fixture
def expected(folder) -> dict:
    return json.loads((folder / "expected.json").read_text())


def plain(predictions: dict) -> dict:
    """Predictions in the form of the golden file."""
    return {
        image_id: {"class": value.landmark_id, "score": value.score}
        if isinstance(value, gldv2.Recognition)
        else value
        for image_id, value in predictions.items()
    }


@pytest.mark.golden
def test_each_malformed_file_is_accepted_or_refused_as_by_the_original(
    folder, expected
):
    solutions = {
        task: gldv2.read_solution(folder / f"{task}_solution.csv", task)
        for task in TASKS
    }
    seen = 0
    for name, case in expected["errors"].items():
        path = folder / f"malformed_{name}"
        if not path.exists():
            continue
        seen += 1

        def read(task=case["task"], path=path, name=name):
            if name.startswith("solution"):
                return gldv2.read_solution(path, task)
            return gldv2.read_predictions(path, solutions[task], task)

        if case["error"]:
            with pytest.raises(InputError):
                read()
        elif "result" in case:
            assert list(read()) == case["result"], name
        else:
            result = read()
            assert plain(result.public) == case["public"], name
            assert plain(result.private) == case["private"], name
    assert seen == len(list(folder.glob("malformed_*.csv")))


@pytest.mark.golden
@pytest.mark.parametrize("task", TASKS)
def test_as_many_are_read_as_the_original_reads(folder, expected, task):
    solution = gldv2.read_solution(folder / f"{task}_solution.csv", task)
    path = folder / f"{task}_predictions.csv"
    predictions = gldv2.read_predictions(path, solution, task)
    assert expected[task]["counts"] == {
        "public": len(solution.public),
        "private": len(solution.private),
        "ignored": len(solution.ignored),
        "public_predictions": len(predictions.public),
        "private_predictions": len(predictions.private),
    }


@pytest.mark.golden
@pytest.mark.parametrize("task", TASKS)
def test_what_was_read_is_read_again_after_writing(folder, tmp_path, task):
    solution = gldv2.read_solution(folder / f"{task}_solution.csv", task)
    gldv2.write_solution(tmp_path / "solution.csv", solution, task)
    assert gldv2.read_solution(tmp_path / "solution.csv", task) == solution
    predictions = gldv2.read_predictions(
        folder / f"{task}_predictions.csv", solution, task
    )
    path = tmp_path / "predictions.csv"
    gldv2.write_predictions(path, predictions.public | predictions.private, task)
    assert gldv2.read_predictions(path, solution, task) == predictions


def test_predictions_have_the_header_that_the_competitions_ask_for(tmp_path):
    path = tmp_path / "p.csv"
    gldv2.write_predictions(path, {"abc": gldv2.Recognition(7, 0.1)}, "recognition")
    assert path.read_bytes() == b"id,landmarks\nabc,7 0.1\n"
    gldv2.write_predictions(path, {"abc": ["d", "e"], "f": []}, "retrieval")
    assert path.read_bytes() == b"id,images\nabc,d e\nf,\n"
    solution = gldv2.Solution({"a": [1, 2]}, {"b": []}, ["c"])
    gldv2.write_solution(path, solution, "recognition")
    assert path.read_bytes() == (
        b"id,landmarks,Usage\na,1 2,Public\nb,,Private\nc,None,Ignored\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,landmarks,Usage\na,1,Public\nb,x,Private\n", "line 3, landmarks: 'x'"),
        (
            "id,landmarks,Usage\na,1,Test\n",
            "line 2, Usage: .*, got 'Test' of test image a",
        ),
        ("id,landmarks,Usage\n\n", "line 2: needs three columns"),
        ("", "the file is empty"),
    ],
)
def test_an_error_in_a_solution_names_file_line_and_field(tmp_path, text, message):
    path = tmp_path / "solution.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        gldv2.read_solution(path, "recognition")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1 high", "line 3, landmarks: '1 high' is not a landmark id and a score"),
        ("a,1 nan", "line 3, landmarks: '1 nan' is not a landmark id and a score"),
        ("a,1 -inf", "line 3, landmarks: '1 -inf' is not a landmark id and a score"),
        ("a,1 1e999", "line 3, landmarks: '1 1e999' is not a landmark id and a s"),
        ("a,1", "line 3, landmarks: .* has 1 parts"),
        ("a", "line 3: no second column"),
        ("z,1 2", "line 3, id: test image z is not part of the solution"),
        ("b,1 2", "line 3, id: test image b is repeated"),
    ],
)
def test_an_error_in_predictions_names_file_line_and_field(tmp_path, row, message):
    path = tmp_path / "predictions.csv"
    path.write_text(f"id,landmarks\nb,1 2\n{row}\n")
    solution = gldv2.Solution({"a": [1], "b": [2]}, {}, [])
    with pytest.raises(InputError, match=message) as error:
        gldv2.read_predictions(path, solution, "recognition")
    assert str(path) in str(error.value)


def test_a_task_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="'detection': use one of recognition, retr"):
        gldv2.read_solution(tmp_path / "solution.csv", "detection")


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (gldv2.TrainImage, [gldv2.TrainImage("0a1", "https://x/y,_z.jpg", 17)]),
        (gldv2.CleanLandmark, [gldv2.CleanLandmark(1, ("17a", "2bc"))]),
        (gldv2.LabelledImage, [gldv2.LabelledImage("0a1", 17)]),
        (gldv2.ImageId, [gldv2.ImageId("0a1"), gldv2.ImageId("0a2")]),
        (gldv2.Category, [gldv2.Category(1, "http://x/Category:Y,_Z")]),
        (gldv2.Attribution, [gldv2.Attribution("a", "b", "ü", "CC BY", 'c "d"\ne')]),
        (gldv2.Relabelling, [gldv2.Relabelling(0, 2), gldv2.Relabelling(1, "07 b")]),
    ],
)
def test_every_table_is_written_and_read(tmp_path, kind, rows):
    path = tmp_path / "table.csv"
    tables.write_rows(path, kind._fields, rows)
    assert list(tables.read_rows(path, kind)) == rows


def test_both_lists_of_training_images_read_alike(tmp_path):
    whole, clean = tmp_path / "train.csv", tmp_path / "train_clean.csv"
    whole.write_text("id,url,landmark_id\na1,http://x,7\nb2,http://y,7\nc3,,5\n")
    clean.write_text("landmark_id,images\n7,a1 b2\n5,c3\n")
    expected = [("a1", 7), ("b2", 7), ("c3", 5)]
    assert list(gldv2.read_train(whole)) == expected
    assert list(gldv2.read_train(clean)) == expected


def test_images_of_gldv1_may_show_no_landmark(tmp_path):
    table = tmp_path / "train.csv"
    table.write_text('"id","url","landmark_id"\n"a1","x","7"\n"b2","None","None"\n')
    assert list(gldv2.read_train(table)) == [("a1", 7), ("b2", None)]
    table.write_text("id,landmark_id\na1,none\n")
    with pytest.raises(InputError, match="line 2, landmark_id: 'none' is not a number"):
        list(gldv2.read_train(table))


def test_ids_may_say_jpg(tmp_path):
    solution, found = tmp_path / "solution.csv", tmp_path / "found.csv"
    solution.write_text("id,images,Usage\na1.jpg,c3.jpg d4,Public\nb2,,Private\n")
    found.write_text("id,images\na1,d4.jpg c3.JPG\nb2.jpg,e5\n")
    truth = gldv2.read_solution(solution, "retrieval")
    assert truth == ({"a1": ["c3", "d4"]}, {"b2": [""]}, [])
    read = gldv2.read_predictions(found, truth, "retrieval")
    assert read == ({"a1": ["d4", "c3"]}, {"b2": ["e5"]})
    assert gldv2.image_path(tmp_path, "abc.jpg") == gldv2.image_path(tmp_path, "abc")


def test_images_lie_three_folders_deep(tmp_path):
    place = gldv2.image_path(tmp_path, "07a9a5ce7fff037b")
    assert place == tmp_path / "0" / "7" / "a" / "07a9a5ce7fff037b.jpg"
    for wrong in ("", "ab", "../../x", "a b c", "abc/def", "abc\n"):
        with pytest.raises(InputError, match="is not an id of GLDv2"):
            gldv2.image_path(tmp_path, wrong)
