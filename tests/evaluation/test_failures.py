import pathlib

import numpy as np
import pytest

from delf_jax.evaluation import evaluation, failures
from delf_jax.evaluation.datasets import Dataset, Photo, Protocol, read_dataset
from delf_jax.extraction import model_folder, settings


def ids(*lists):
    return [np.array(each, np.int32) for each in lists]


@pytest.fixture
def made():
    """Three queries among twenty photos, one without positives; no features."""
    photos = [Photo(f"{i}", f"{i}.jpg", pathlib.Path(f"{i}.jpg")) for i in range(20)]
    protocols = {
        "easy": Protocol(ids([0], [0], []), ids([], [], [])),
        "medium": Protocol(ids([0, 3], [12, 15], []), ids([1], [0], [])),
    }
    dataset = Dataset("own", "v", photos, photos[:3], None, protocols, None)
    ranking = np.tile(np.arange(20, dtype=np.int32), (3, 1))
    given = {"one": dict.fromkeys(protocols, ranking)}
    return evaluation.score(dataset, given)


def test_queries_come_worst_first_by_the_last_ranking_under_medium(made):
    row = failures.main_row(made)
    assert (row.protocol, row.ranking) == ("medium", "one")
    assert failures.worst_first(row) == [1, 0]
    found = failures.find_failures(made, 5, progress=False)
    assert [each.query for each in found] == [1, 0]
    assert [each.query for each in failures.find_failures(made, 1, progress=False)] == [
        1
    ]


def test_what_was_found_is_marked_and_ranks_leave_junk_out(made):
    worst, second = failures.find_failures(made, 2, progress=False)
    assert [each.kind for each in second.top[:4]] == ["right", "junk", "wrong", "right"]
    assert [each.rank for each in second.top[:4]] == [1, 0, 2, 3]
    assert len(second.top) == 8 and not second.late
    assert [(each.image, each.rank) for each in worst.late] == [("12", 12), ("15", 15)]
    assert all(each.inliers is None for each in (*worst.top, *worst.late))


def test_verified_pairs_have_their_lines(drawn, tmp_path, tiny_model):
    model = model_folder.load_model(tiny_model)
    result = evaluation.evaluate(
        read_dataset(drawn / "drawn" / "gnd_drawn.json"),
        tmp_path / "index",
        model,
        settings.settings_for(model),
        [("global",), ("verification",)],
        progress=False,
    )
    inliers = 0
    for failure in failures.find_failures(result, 8, progress=False):
        for found in (*failure.top, *failure.late):
            assert len(found.lines) == min(found.inliers, failures._MOST_LINES)
            assert (found.lines >= 0).all() and (found.lines <= 1).all()
            inliers += found.inliers
        # As the ranking has them: by inliers, junk last.
        counts = [found.inliers for found in failure.top if found.kind != "junk"]
        assert counts == sorted(counts, reverse=True)
    assert inliers > 0
