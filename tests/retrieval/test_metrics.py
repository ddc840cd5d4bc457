import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.retrieval.metrics import (
    average_precision,
    find_positions,
    group_means,
    macro_mean,
    mean_over_queries,
    precision_at,
    protocol_lists,
    recall_at,
    revisited_metrics,
)

PROTOCOLS = ("easy", "medium", "hard")


@pytest.mark.golden
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_equals_the_original_from_its_lists_to_its_means(golden, protocol):
    about = json.loads((golden / "revisited" / "revisited.json").read_text())
    expected = about[protocol]
    rankings = np.load(golden / "revisited" / "revisited.npz")["sorted_index_ids"]
    easy, hard, junk = (
        [np.array(query[name], np.int32) for query in about["ground_truth"]]
        for name in ("easy", "hard", "junk")
    )
    positives, left_out = protocol_lists(protocol, easy, hard, junk)
    assert [ids.tolist() for ids in positives] == [
        query["ok"] for query in expected["parsed"]
    ]
    assert [ids.tolist() for ids in left_out] == [
        query["junk"] for query in expected["parsed"]
    ]
    found = revisited_metrics(rankings, positives, left_out, about["ranks"])
    names = ["mAP", "mean_precision", "mean_recall"]
    names += ["average_precision", "precision", "recall"]
    for value, name in zip(found, names, strict=True):
        original = np.array(expected[name], np.float64)  # null becomes NaN.
        np.testing.assert_allclose(value, original, rtol=0, atol=1e-9, err_msg=name)


def test_a_rank_beyond_the_ranking_is_refused():
    rankings, ids = np.arange(6)[None], [np.array([1], np.int32)]
    with pytest.raises(ValueError, match="rank 7 of a ranking of 6 images"):
        revisited_metrics(rankings, ids, ids, (1, 7))


@pytest.mark.golden
def test_average_precision_equals_the_published_unit_tests(golden):
    about = json.loads((golden / "revisited" / "revisited.json").read_text())
    for case in about["unit"]:
        positives, junk = case["positive_ranks"], case["junk_ranks"]
        ranking = np.arange(max(positives + junk) + 1)
        places = find_positions(ranking, positives, junk)
        np.testing.assert_array_equal(places, case["adjusted"])
        np.testing.assert_allclose(
            average_precision(ranking, positives, junk), case["average_precision"]
        )
        for k, precision in zip(case["desired_ranks"], case["precisions"], strict=True):
            np.testing.assert_allclose(precision_at(places, k), precision)


@given(
    size=st.integers(1, 30), positives=st.integers(1, 30), seed=st.integers(0, 10_000)
)
def test_average_precision_is_one_exactly_when_positives_lead(size, positives, seed):
    positives = min(size, positives)
    ranking = np.random.default_rng(seed).permutation(size)
    value = average_precision(ranking, ranking[:positives])
    assert value == pytest.approx(1)
    if positives < size:
        worse = np.concatenate([ranking[positives:], ranking[:positives]])
        assert average_precision(worse, ranking[:positives]) < 1


def test_junk_is_as_if_it_were_not_there():
    with_junk = average_precision(np.array([7, 3, 8, 1, 9, 0]), [1, 0], [7, 8, 9])
    assert with_junk == average_precision(np.array([3, 1, 0]), [1, 0])


def test_a_query_without_positives_is_left_out_of_the_means():
    nothing = average_precision(np.array([0, 1]), [])
    assert math.isnan(nothing)
    assert mean_over_queries([1.0, nothing, 0.5]) == 0.75
    assert math.isnan(mean_over_queries([nothing]))
    assert macro_mean([1.0, nothing, 0.5, nothing], ["a", "a", "b", "c"]) == 0.75


def test_positives_that_were_not_retrieved_count_as_missed():
    assert average_precision(np.array([4]), [4, 5]) == 0.5
    assert average_precision(np.array([], np.int32), [4, 5]) == 0


def test_a_landmark_of_many_photos_weighs_as_much_as_one_of_two():
    assert macro_mean([1.0] * 9 + [0.0], ["reichstag"] * 9 + ["lund"]) == 0.5


def test_means_of_groups_are_in_the_order_in_which_they_come():
    found = group_means([1.0, math.nan, 0.5, 0.0], ["b", "c", "a", "b"])
    np.testing.assert_array_equal(found, [0.5, math.nan, 0.5])


def test_macro_mean_needs_one_group_per_value():
    with pytest.raises(ValueError, match="2 values but 1 groups"):
        macro_mean([1.0, 0.0], ["a"])


def test_recall_asks_for_one_positive_and_precision_for_all():
    places = find_positions(np.array([5, 1, 2, 3]), [1, 3])
    assert recall_at(places, 1) == 0 and recall_at(places, 2) == 1
    assert precision_at(places, 2) == 0.5
    # Beyond the last positive nothing can be found: the depth stops there.
    assert precision_at(places, 100) == 0.5
    nowhere = find_positions(np.array([5, 1]), [9])
    assert recall_at(nowhere, 10) == 0 and precision_at(nowhere, 10) == 0
