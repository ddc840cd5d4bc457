import json
import math

import pytest

from delf_jax import cli
from delf_jax.files import InputError, sha256_of
from delf_jax.formats.datasets import gldv2
from delf_jax.gldv2 import report
from delf_jax.gldv2 import scores as gldv2_scores
from delf_jax.retrieval import gldv2_metrics

A, B, C, D = ("a" * 16, "b" * 16, "c" * 16, "d" * 16)


@pytest.fixture
def files(tmp_path):
    """Solutions and two files of predictions for each task."""
    truth = {
        "retrieval": gldv2.Solution({A: ["x1", "x2"], B: ["x3"]}, {C: ["x4"]}, [D]),
        "recognition": gldv2.Solution({A: [1], B: []}, {C: [2, 3]}, [D]),
    }
    found = {
        "retrieval": ({A: ["x1", "x9"], B: ["x9", "x3"]}, {A: ["x9"], C: ["x4"]}),
        "recognition": (
            {A: gldv2.Recognition(1, 0.4), B: gldv2.Recognition(9, 0.7)},
            {A: gldv2.Recognition(1, 0.9), C: gldv2.Recognition(3, 0.1)},
        ),
    }
    for task, solution in truth.items():
        gldv2.write_solution(tmp_path / f"{task}.csv", solution, task)
        for name, predictions in zip("pq", found[task], strict=True):
            path = tmp_path / f"{task}_{name}.csv"
            gldv2.write_predictions(path, predictions, task)
    return tmp_path


def score(files, task, names="p", **kwargs):
    paths = [files / f"{task}_{name}.csv" for name in names]
    return gldv2_scores.score(task, files / f"{task}.csv", paths, **kwargs)


def values(scores):
    return {
        (row.part, row.file): {name: v.value for name, v in row.values.items()}
        for row in scores.rows
    }


def test_each_part_is_scored_by_its_own_images(files):
    found = values(score(files, "retrieval"))
    public = found["Public", "retrieval_p.csv"]
    assert public["mAP@100"] == pytest.approx((0.5 + 0.5) / 2)
    assert public["P@1"] == 0.5 and public["mean position"] == 1.5
    assert found["Private", "retrieval_p.csv"]["mAP@100"] == 0
    found = values(score(files, "recognition"))
    public = found["Public", "recognition_p.csv"]
    assert public == {"GAP": 0.5, "GAP of landmarks": 1, "top-1": 1}
    assert found["Private", "recognition_p.csv"]["GAP"] == 0


@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_several_files_are_compared_on_the_same_draws(files, task):
    scores = score(files, task, "pq")
    first, second = scores.rows[:2]
    for name, value in first.values.items():
        assert value.gain is None
        if value.interval is not None:
            low, high = value.interval
            assert low <= value.value <= high
            assert second.values[name].gain is not None
    same = score(files, task, "pp")
    gains = [v.gain for v in same.rows[1].values.values() if v.gain is not None]
    assert gains and all(gain == (0, 0) for gain in gains)
    header = report.table(scores)[-5]
    assert "gain" in header and header.split()[-1] == "settings"


def test_the_solution_and_the_settings_stand_beside_every_number(files):
    path = files / "retrieval_p.csv"
    gldv2_scores.write_provenance(path, {"settings": {"k": 1}, "partial": ["index: 3"]})
    scores = score(files, "retrieval", "pq")
    version = sha256_of(files / "retrieval.csv")
    lines = report.table(scores)
    assert lines[0] == f"retrieval on retrieval.csv, SHA-256 {version}"
    assert "retrieval_p.csv: PARTIAL, index: 3" in lines
    rows = [line for line in lines if line.startswith(("Public ", "Private "))]
    assert len(rows) == 4
    for row, made in zip(rows, scores.rows, strict=True):
        assert f"retrieval.csv {version[:10]}  " in row and row.endswith(made.settings)
    assert scores.rows[0].settings != scores.rows[1].settings
    assert scores.rows[1].settings.startswith("file ")
    described = report.to_json(scores)
    json.dumps(described, allow_nan=False)
    assert described["solution_sha256"] == version


def test_what_was_said_of_a_file_is_forgotten_when_it_changes(files):
    path = files / "retrieval_p.csv"
    gldv2_scores.write_provenance(path, {"settings": {"k": 1}})
    assert gldv2_scores.read_provenance(path)["settings"] == {"k": 1}
    gldv2.write_predictions(path, {A: ["x1"]}, "retrieval")
    assert gldv2_scores.read_provenance(path) == {}


def test_images_of_excluded_landmarks_are_scored_apart(files):
    found = score(files, "recognition", exclude={2})
    assert [row.part for row in found.rows] == ["Public", "Public, unseen", "Private"]
    assert "unseen: without the 1 test images of landmarks to exclude" in found.notes
    known = {"x1": 5, "x2": 6, "x3": 7, "x4": 8, "x9": 9}
    found = score(files, "retrieval", exclude={5}, known=known)
    unseen = values(found)["Public, unseen", "retrieval_p.csv"]
    assert unseen["mAP@100"] == 0.5 and found.rows[1].images == 1
    with pytest.raises(InputError, match="--known=index_image_to_landmark"):
        score(files, "retrieval", exclude={5})


def test_ids_that_do_not_exist_are_refused_if_a_table_says_what_does(files):
    (files / "index.csv").write_text("id\nx1\nx2\nx3\nx4\n")
    known = gldv2_scores.read_known(files / "index.csv")
    with pytest.raises(
        InputError, match=f"retrieval_p.csv: prediction 'x9' of test image {A} is"
    ):
        score(files, "retrieval", known=known)
    (files / "train.csv").write_text("id,url,landmark_id\ny1,u,1\ny2,u,3\n")
    known = gldv2_scores.read_known(files / "train.csv")
    assert known == {"y1": 1, "y2": 3}
    score(files, "recognition", "q", known=known)
    with pytest.raises(InputError, match="prediction 9 of test image"):
        score(files, "recognition", "p", known=known)


def test_what_the_numbers_do_not_say_is_noted(files):
    truth = gldv2.Solution({A: ["x1"], B: []}, {}, [])
    gldv2.write_solution(files / "retrieval.csv", truth, "retrieval")
    gldv2.write_predictions(files / "retrieval_p.csv", {A: ["x1", "x1"]}, "retrieval")
    scores = score(files, "retrieval")
    assert "1 images have no positives and count as 0, as in the original" in (
        scores.notes
    )
    assert any("no prediction for 1 of 2 images" in note for note in scores.notes)
    assert any("1 rankings list an image twice" in note for note in scores.notes)
    assert values(scores)["Public", "retrieval_p.csv"]["mAP@100"] == 0.5
    lines = report.original_lines(scores)
    assert "(Private) Mean Average Precision: nan" in lines


def test_without_an_image_of_a_landmark_there_are_no_intervals(files):
    truth = gldv2.Solution({A: [], B: []}, {}, [])
    gldv2.write_solution(files / "recognition.csv", truth, "recognition")
    (row,) = score(files, "recognition").rows
    assert math.isnan(row.values["GAP"].value) and row.values["GAP"].interval is None
    described = report.to_json(score(files, "recognition"))
    assert described["results"][0]["values"]["GAP"]["value"] is None
    truth = gldv2.Solution({}, {}, [A, B])
    gldv2.write_solution(files / "recognition.csv", truth, "recognition")
    with pytest.raises(InputError, match="no public or private images"):
        score(files, "recognition")


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("retrieval", f"{A},x1\n{A},x2\n", "is repeated"),
        ("retrieval", f"{'e' * 16},x1\n", "is not part of the solution"),
        ("recognition", f"{A},1\n", "a landmark id and a score"),
    ],
)
def test_bad_predictions_are_refused_in_one_sentence(
    files, task, line, message, capsys
):
    path = files / f"{task}_p.csv"
    path.write_text("id,images\n" + line)
    option = f"--solution={files / f'{task}.csv'}"
    assert cli.main(["gldv2", "score", task, str(path), option]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.golden
@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_what_the_original_prints_is_printed_to_the_letter(
    golden, task, capsys, monkeypatch
):
    folder = golden / "gldv2"

    def fail(*_, **__):
        raise AssertionError("drawn although nothing shows it")

    monkeypatch.setattr(gldv2_metrics, "resampled_global_average_precisions", fail)
    arguments = [
        *("gldv2", "score", task, str(folder / f"{task}_predictions.csv")),
        *(f"--solution={folder / f'{task}_solution.csv'}", "--original"),
    ]
    assert cli.main(arguments) == 0
    expected = (folder / f"{task}_stdout.txt").read_text()
    assert capsys.readouterr().out == expected


@pytest.mark.golden
@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_the_table_of_the_command_holds_the_original_numbers(
    golden, task, capsys, tmp_path
):
    folder = golden / "gldv2"
    expected = json.loads((folder / "expected.json").read_text())[task]
    out = tmp_path / "scores.json"
    arguments = [
        *("gldv2", "score", task, str(folder / f"{task}_predictions.csv")),
        *(f"--solution={folder / f'{task}_solution.csv'}", f"--json={out}"),
    ]
    assert cli.main(arguments) == 0
    name, original = {
        "retrieval": ("mAP@100", "mean_average_precision"),
        "recognition": ("GAP", "global_average_precision"),
    }[task]
    said = capsys.readouterr().out
    for row in json.loads(out.read_text())["results"]:
        value = expected[row["part"].lower()][original]
        assert row["values"][name]["value"] == pytest.approx(value, abs=1e-9)
        assert f" {100 * value:.2f} " in said
