import json
import pathlib

import numpy as np
import pytest

from delf_jax.evaluation import evaluation, report
from delf_jax.evaluation.datasets import Dataset, Photo, Protocol
from delf_jax.formats.datasets import revisited_metrics


def ids(*lists):
    return [np.array(each, np.int32) for each in lists]


@pytest.fixture
def results():
    """Three queries of two landmarks, one without a hard photo; two rankings."""
    photos = [Photo(f"{i}", f"{i}.jpg", pathlib.Path(f"{i}.jpg")) for i in range(6)]
    dataset = Dataset(
        name="own",
        version="0123456789abcdef",
        index=photos,
        queries=photos[:3],
        boxes=None,
        protocols={
            "medium": Protocol(ids([1, 2], [0], [3]), ids([], [], [])),
            "hard": Protocol(ids([2], [0], []), ids([1], [], [])),
        },
        landmarks=["a", "a", "b"],
    )
    up = np.tile(np.arange(6, dtype=np.int32), (3, 1))
    rankings = {
        "global": {"medium": up, "hard": up},
        "verification": {"medium": up[:, ::-1], "hard": up},
    }
    return evaluation.score(dataset, rankings, missing={"7": "no such file"})


def test_the_table_says_what_was_scored_and_what_was_left_out(results):
    lines = list(report.table(results))
    assert lines[0] == "own: 3 queries, 6 photos, ground truth 0123456789"
    assert lines[1].startswith("PARTIAL: 1 photo missing (7)")
    assert lines[2] == "hard: without positives and left out: 1 of 3 queries"
    assert len(lines) == 3 + 2 + 4


def test_each_row_has_means_intervals_gains_and_its_settings(results):
    header, *rows = list(report.table(results))[4:]
    assert header.split()[:3] == ["protocol", "ranking", "mAP"]
    assert "macro-mAP" in header and "mP@5" in header and "mP@10" not in header
    for line, row in zip(rows, results.rows, strict=True):
        cells = line.split()
        assert cells[:2] == [row.protocol, row.ranking]
        assert cells[2] == f"{100 * row.mean.value:.2f}"
        assert cells[-1] == row.key
    # Only the second ranking is compared with the first.
    assert [line.count(" to ") for line in rows] == [2, 4, 2, 4]


def test_json_has_shares_and_null_for_a_query_without_positives(results):
    described = json.loads(json.dumps(report.to_json(results)))
    assert described["missing"] == {"7": "no such file"}
    assert described["landmarks"] == ["a", "a", "b"]
    hard = described["results"][2]
    assert (hard["protocol"], hard["ranking"]) == ("hard", "global")
    # The right one is second, once the junk is taken out: (0 + 1/2) / 2.
    assert hard["average_precisions"] == [0.25, 1.0, None]
    assert hard["mAP"]["value"] == 0.625 and hard["mAP"]["gain"] is None
    assert described["results"][3]["mAP"]["gain"] == [0, 0]


def test_metrics_have_the_names_of_the_original(results, tmp_path):
    report.write_metrics(tmp_path / "metrics.txt", results)
    ranks, summaries = revisited_metrics.read_metrics(tmp_path / "metrics.txt")
    assert ranks == (1, 5)
    assert list(summaries) == [
        *("hard", "hard_after_gv", "medium", "medium_after_gv"),
    ]
    assert summaries["hard"].mean_average_precision == 0.625
