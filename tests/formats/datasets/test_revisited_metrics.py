"""metrics.txt as the original writes and reads it."""

import json

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.datasets.revisited_metrics import (
    Summary,
    read_metrics,
    write_metrics,
)


def summaries(about: dict, protocols: tuple[str, ...]) -> dict[str, Summary]:
    names = ("mAP", "mean_precision", "mean_recall")
    return {
        protocol: Summary(*(np.array(about[protocol][name]) for name in names))
        for protocol in protocols
    }


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "protocols"),
    [
        ("metrics.txt", ("medium", "hard")),
        ("metrics_easy_medium_hard.txt", ("medium", "easy", "hard")),
    ],
)
def test_results_are_written_byte_by_byte_as_by_the_original(
    golden, tmp_path, name, protocols
):
    about = json.loads((golden / "revisited" / "revisited.json").read_text())
    path = tmp_path / name
    write_metrics(path, about["ranks"], summaries(about, protocols))
    assert path.read_bytes() == (golden / "revisited" / name).read_bytes()


@pytest.mark.golden
@pytest.mark.parametrize("name", ["metrics", "metrics_two_ranks"])
def test_results_are_read_as_by_the_original_and_written_back(golden, tmp_path, name):
    about = json.loads((golden / "revisited" / "revisited.json").read_text())
    expected = about[f"read_{name}.txt"]
    path = golden / "revisited" / f"{name}.txt"
    ranks, found = read_metrics(path)
    assert list(ranks) == expected["pr_ranks"]
    assert found.keys() == expected["mAP"].keys()
    for protocol, summary in found.items():
        assert summary.mean_average_precision == expected["mAP"][protocol]
        precisions = expected["mean_precisions"][protocol]
        assert summary.mean_precisions.tolist() == precisions
        assert summary.mean_recalls.tolist() == expected["mean_recalls"][protocol]
    write_metrics(tmp_path / "again.txt", ranks, found)
    assert (tmp_path / "again.txt").read_bytes() == path.read_bytes()


@pytest.mark.golden
def test_what_the_original_calls_malformed_is_refused(golden):
    paths = sorted((golden / "revisited").glob("bad_*.txt"))
    assert len(paths) == 5
    for path in paths:
        with pytest.raises(InputError, match=path.name):
            read_metrics(path)


def test_many_ranks_stay_on_one_line_and_a_missing_mean_is_nan(tmp_path):
    ranks = tuple(range(1, 101))
    shares = np.linspace(0, 1, 100)
    path = tmp_path / "metrics.txt"
    write_metrics(path, ranks, {"hard": Summary(float("nan"), shares, shares)})
    again, found = read_metrics(path)
    assert again == ranks
    assert np.isnan(found["hard"].mean_average_precision)
    np.testing.assert_allclose(found["hard"].mean_recalls, shares, atol=5e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 lines"),
        ("a\n  mAP=x\n  mP@k[1] [1]\n  mR@k[1] [1]\n", "line 2: .* got '  mAP=x'"),
        ("a\n  mAP=inf\n  mP@k[1] [1]\n  mR@k[1] [1]\n", "line 2: .* '  mAP=inf'"),
        ("a\n mAP=1\n  mP@k[1] [1]\n  mR@k[1] [1]\n", "line 2: .* got ' mAP=1'"),
        ("a\n  mAP=1\n  mP@k[1] [1]\n  mP@k[1] [1]\n", "line 4: does not begin"),
        ("a\n  mAP=1\n  mP@k[1] 1\n  mR@k[1] [1]\n", "line 3: .* got '1'"),
        ("a\n  mAP=1\n  mP@k[1] [1]\n  mR@k[2] [1]\n", "ranks k of 'a' differ"),
        ("a\n  mAP=1\n  mP@k[1] [1 2]\n  mR@k[1] [1]\n", "line 3: 2 scores for 1 r"),
    ],
)
def test_the_line_that_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "metrics.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_metrics(path)


def test_a_file_that_is_absent_or_not_text_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_metrics(tmp_path / "metrics.txt")
    (tmp_path / "metrics.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_metrics(tmp_path / "metrics.txt")
