import pytest

from delf_jax.retrieval.verification import VERIFICATION, most_by_chance
from delf_jax.search.verdict import Verdict, judge
from tests.retrieval.test_ranking import CALIBRATION


@pytest.mark.parametrize("name", VERIFICATION)
def test_what_is_chance_grows_with_features_and_with_photos_compared(name):
    how = VERIFICATION[name]
    pair, search = how.by_chance
    assert most_by_chance(how, 1e3) == pair < search
    assert most_by_chance(how, 1e3, 100) == search
    assert pair < most_by_chance(how, 1e3, 10) < search
    assert most_by_chance(how, 4e3) == 2 * pair
    # Six inliers are no evidence, however few features there are.
    assert most_by_chance(how, 1.0) == most_by_chance(how, 0.0, 0) == 6


def test_the_best_of_many_must_share_more_than_one_alone():
    # 17 inliers of a pair are more than chance, those of the best of a hundred are not.
    assert judge([17], 1e3).confident is True
    assert judge([17, *[5] * 99], 1e3).confident is False
    assert judge([30, *[5] * 99], 1e3).confident is True


def test_the_photo_itself_is_no_match():
    found = judge([600, 9, 8], 1e3, own=0)
    assert found.confident is False and found.most == 9
    assert str(found) == (
        "no confident match but the photo itself: 9 inliers at most, and unrelated "
        f"photos share up to {found.by_chance}"
    )
    assert found.of(600) is True and found.of(9) is False and found.of(None) is None
    assert judge([600, 30], 1e3, own=0).confident is True
    assert judge([600], 1e3, own=0) == Verdict(has_own=True)


@pytest.mark.parametrize("inliers", [[], [None, None]])
def test_where_nothing_was_verified_there_is_no_verdict(inliers):
    found = judge(inliers, 1e3)
    assert found.confident is None and str(found) == "" and found.of(None) is None


def test_with_a_calibration_chance_is_what_the_other_candidates_share():
    how = VERIFICATION["default"]._replace(calibration=CALIBRATION)
    calm, busy = [7, 8, 6, 9] * 24, [30, 38, 24, 42] * 24
    assert judge([41, *calm], 1e3, settings=how).confident is True
    assert judge([58, *busy], 1e3, settings=how).confident is False
    assert judge([400, *busy], 1e3, settings=how).confident is True
    # The numbers for all queries alike call the busy one confident.
    assert judge([58, *busy], 1e3).confident is True
    found = judge([600, *busy], 1e3, own=0, settings=how)
    assert found.confident is False and found.of(600) is True
    assert judge([None], 1e3, settings=how).confident is None
