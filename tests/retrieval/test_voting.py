import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.retrieval import voting

NEIGHBOURS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-8, 8)), min_size=1, max_size=9
)


def naive_vote(landmarks, scores, voters):
    best = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    sums = {}
    for place in best[:voters]:
        sums[landmarks[place]] = sums.get(landmarks[place], 0) + scores[place]
    return min(sums.items(), key=lambda item: (-item[1], item[0]))


@given(NEIGHBOURS, st.integers(1, 5))
def test_the_vote_is_that_of_a_plain_loop(neighbours, voters):
    landmarks = [landmark for landmark, _ in neighbours]
    scores = [score / 8 for _, score in neighbours]
    found = voting.vote(np.array(landmarks), np.array(scores), voters)
    assert found == naive_vote(landmarks, scores, voters)


def test_two_fair_neighbours_outvote_one_that_is_better():
    landmarks, scores = np.array([3, 8, 8, 3]), np.array([0.9, 0.6, 0.5, 0.4])
    assert voting.vote(landmarks, scores, 1) == (3, pytest.approx(0.9))
    assert voting.vote(landmarks, scores) == (8, pytest.approx(1.1))
    assert voting.vote(landmarks, scores, 9) == (3, pytest.approx(1.3))


def test_inliers_count_until_they_are_enough():
    found = voting.local_score(np.array([0, 35, 70, 900], np.int32))
    np.testing.assert_allclose(found, [0, 0.5, 1, 1])


def test_a_penalty_is_the_mean_similarity_and_nothing_without_images():
    similarities = np.array([[0.5, 0.25], [0, 0]])
    np.testing.assert_allclose(voting.penalty(similarities), [0.375, 0])
    assert voting.penalty(np.zeros((2, 0))).tolist() == [0, 0]
