"""The metrics of Google Landmarks v2."""

import json
import math

import numpy as np
import pytest

from delf_jax.formats.datasets import gldv2
from delf_jax.retrieval import gldv2_metrics

SOLUTION = {"a": [], "b": [1], "c": [2, 3]}


@pytest.mark.golden
@pytest.mark.parametrize("part", ["public", "private"])
def test_recognition_from_files_equals_the_original(golden, part):
    folder = golden / "gldv2"
    expected = json.loads((folder / "expected.json").read_text())["recognition"][part]
    everything = gldv2.read_solution(folder / "recognition_solution.csv", "recognition")
    predicted = gldv2.read_predictions(
        folder / "recognition_predictions.csv", everything, "recognition"
    )
    solution, predictions = getattr(everything, part), getattr(predicted, part)
    found = {
        "global_average_precision": gldv2_metrics.global_average_precision(
            predictions, solution
        ),
        "global_average_precision_ignoring_non_landmark": (
            gldv2_metrics.global_average_precision(
                predictions, solution, landmarks_only=True
            )
        ),
        "top1_accuracy": gldv2_metrics.top1_accuracy(predictions, solution),
    }
    assert found == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("part", ["public", "private"])
def test_retrieval_from_files_equals_the_original(golden, part):
    folder = golden / "gldv2"
    expected = json.loads((folder / "expected.json").read_text())["retrieval"][part]
    everything = gldv2.read_solution(folder / "retrieval_solution.csv", "retrieval")
    predicted = gldv2.read_predictions(
        folder / "retrieval_predictions.csv", everything, "retrieval"
    )
    solution, predictions = getattr(everything, part), getattr(predicted, part)
    mean, median = gldv2_metrics.mean_and_median_position(predictions, solution)
    mean_of_20, _ = gldv2_metrics.mean_and_median_position(predictions, solution, 20)
    found = {
        "mean_average_precision": gldv2_metrics.mean_average_precision(
            predictions, solution
        ),
        "mean_average_precision_at_10": gldv2_metrics.mean_average_precision(
            predictions, solution, 10
        ),
        "mean_precisions_1_to_100": gldv2_metrics.mean_precisions(
            predictions, solution
        ).tolist(),
        "mean_position": mean,
        "median_position": median,
        "mean_position_max20": mean_of_20,
    }
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-9)


def test_equal_scores_are_ranked_by_image_id():
    right, wrong = (1, 0.5), (9, 0.5)
    solution = {"a": [1], "b": [1]}
    first = gldv2_metrics.global_average_precision({"a": right, "b": wrong}, solution)
    second = gldv2_metrics.global_average_precision({"b": right, "a": wrong}, solution)
    assert (first, second) == (0.5, 0.25)


def test_predictions_for_images_of_no_landmark_cost_unless_left_out():
    predictions = {"a": (1, 0.9), "b": (1, 0.8)}
    assert gldv2_metrics.global_average_precision(predictions, SOLUTION) == 0.25
    alone = gldv2_metrics.global_average_precision(
        predictions, SOLUTION, landmarks_only=True
    )
    assert alone == 0.5
    assert gldv2_metrics.top1_accuracy(predictions, SOLUTION) == 0.5


def test_an_image_found_twice_counts_once_but_takes_up_a_place():
    value = gldv2_metrics.mean_average_precision(
        {"q": ["a", "a", "b"]}, {"q": ["a", "b"]}
    )
    assert value == pytest.approx((1 + 2 / 3) / 2)


def test_a_missing_or_empty_ranking_finds_nothing():
    solution = {"q": ["a"], "r": ["b"]}
    assert gldv2_metrics.mean_average_precision({"q": ["a"]}, solution) == 0.5
    assert gldv2_metrics.mean_precisions(
        {"q": ["a"], "r": []}, solution, 2
    ).tolist() == [
        0.5,
        0.25,
    ]
    assert gldv2_metrics.mean_and_median_position({"q": ["a"]}, solution) == (51, 51)


def test_without_images_of_landmarks_there_is_no_score():
    assert math.isnan(gldv2_metrics.global_average_precision({}, {"a": []}))
    assert math.isnan(gldv2_metrics.top1_accuracy({}, {"a": []}))
    assert math.isnan(gldv2_metrics.mean_average_precision({}, {}))
    assert np.isnan(gldv2_metrics.mean_precisions({}, {}, 3)).all()
    assert np.isnan(gldv2_metrics.mean_and_median_position({}, {})).all()
    assert gldv2_metrics.mean_average_precision({"q": ["a"]}, {"q": []}) == 0


@pytest.mark.parametrize(
    "metric", [gldv2_metrics.mean_average_precision, gldv2_metrics.mean_precisions]
)
def test_a_prediction_for_an_unknown_image_is_refused(metric):
    with pytest.raises(ValueError, match="test image zz is not part of the solution"):
        metric({"zz": ["a"]}, {"q": ["a"]})
    with pytest.raises(ValueError, match="test image zz"):
        gldv2_metrics.global_average_precision({"zz": (1, 0.5)}, {"q": [1]})


def naive_gap_of_draw(predictions, solution, drawn, landmarks_only):
    """By listing each image as often as it is drawn."""
    ids = list(solution)
    listed = [(ids[place], copy) for copy, place in enumerate(drawn)]
    ranked = sorted(
        (-predictions[id][1], id, copy) for id, copy in listed if id in predictions
    )
    right, total, rank = 0, 0.0, 0
    for _, id, _ in ranked:
        if landmarks_only and not solution[id]:
            continue
        rank += 1
        if predictions[id][0] in solution[id]:
            right += 1
            total += right / rank
    shown = sum(bool(solution[id]) for id, _ in listed)
    return total / shown if shown else math.nan


@pytest.mark.parametrize("landmarks_only", [False, True])
def test_precisions_of_draws_are_those_of_the_images_listed_so_often(
    rng, landmarks_only
):
    solution = {f"{n:02}": [n % 3] if n % 4 else [] for n in range(12)}
    methods = [
        {id: (int(rng.integers(3)), float(rng.integers(4))) for id in solution}
        for _ in range(2)
    ]
    del methods[1]["03"]
    found = gldv2_metrics.resampled_global_average_precisions(
        *(methods, solution, np.random.default_rng(5)),
        **{"samples": 20, "landmarks_only": landmarks_only},
    )
    again = np.random.default_rng(5)
    for sample in range(20):
        drawn = again.integers(0, 12, 12)
        for method, row in zip(methods, found, strict=True):
            expected = naive_gap_of_draw(method, solution, drawn, landmarks_only)
            assert row[sample] == pytest.approx(expected, nan_ok=True)


def test_average_precisions_and_hits_are_those_whose_mean_is_told():
    found = gldv2_metrics.average_precisions({"q": ["a"]}, {"q": ["a"], "r": ["b"]})
    assert found.tolist() == [1, 0]
    hits = gldv2_metrics.top1_hits({"b": (1, 0.5)}, SOLUTION)
    assert math.isnan(hits[0]) and hits[1:].tolist() == [1, 0]
