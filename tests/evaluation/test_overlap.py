import numpy as np
import pytest

from delf_jax.evaluation import evaluation, overlap, report
from delf_jax.evaluation.datasets import Dataset, Photo, Protocol
from delf_jax.files import InputError


def ids(*lists):
    return [np.array(each, np.int32) for each in lists]


def dataset(landmarks=("a", "a", "b"), name="own"):
    photos = [Photo(f"{i}", f"{i}.jpg", None) for i in range(12)]
    protocol = Protocol(ids([0], [1], [2]), ids([3], [], []))
    named = None if landmarks is None else list(landmarks)
    return Dataset(name, "v", photos, photos[:3], None, {"medium": protocol}, named)


def leave_out(tmp_path, text, *given):
    (tmp_path / "seen.txt").write_text(text)
    return overlap.leave_out(list(given), tmp_path / "seen.txt")


def test_with_and_without_are_two_protocols(tmp_path):
    (left,) = leave_out(
        tmp_path, "# from a paper\n1 # twice in training\n\n", dataset()
    )
    assert left.seen == ("1",)
    medium, unseen = left.protocols["medium"], left.protocols["medium_unseen"]
    assert [each.tolist() for each in medium.positives] == [[0], [1], [2]]
    assert [each.tolist() for each in unseen.positives] == [[0], [], [2]]
    assert unseen.junk is medium.junk


def test_a_landmark_stands_for_its_queries(tmp_path):
    assert leave_out(tmp_path, "a\n", dataset())[0].seen == ("0", "1")


def test_a_query_may_be_named_otherwise_but_a_landmark_means_its_own_alone(tmp_path):
    queries = ["x/a.jpg", "x/b.jpg", "y/c.jpg"]
    given = dataset(landmarks=["b", "b", "d"])
    photos = [p._replace(name=n) for p, n in zip(given.queries, queries, strict=True)]
    given = given._replace(queries=photos)
    assert leave_out(tmp_path, "c\n", given)[0].seen == ("y/c.jpg",)
    assert leave_out(tmp_path, "x\\A.JPG\n", given)[0].seen == ("x/a.jpg",)
    assert leave_out(tmp_path, "b\n", given)[0].seen == ("x/a.jpg", "x/b.jpg")


def test_names_must_be_known_to_one_of_the_datasets(tmp_path):
    first, second = dataset(), dataset(landmarks=None, name="other")
    both = leave_out(tmp_path, "b\n", first, second)
    assert [each.seen for each in both] == [("2",), ()]
    assert list(both[1].protocols) == ["medium"]
    with pytest.raises(InputError, match="'c' not found among .* of own"):
        leave_out(tmp_path, "a\nc\n", first)


def test_a_file_without_names_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no names"):
        leave_out(tmp_path, "# nothing\n", dataset())
    with pytest.raises(InputError, match="no such file"):
        overlap.leave_out([dataset()], tmp_path / "absent.txt")


def test_both_rows_stand_in_one_table_with_keys_of_their_own(tmp_path):
    ranking = np.stack([np.roll(np.arange(12, dtype=np.int32), -i) for i in (0, 0, 2)])
    keys = set()
    for text in ("1\n", "b\n"):
        (left,) = leave_out(tmp_path, text, dataset())
        found = evaluation.score(left, {"x": dict.fromkeys(left.protocols, ranking)})
        whole, part = found.rows
        assert (whole.protocol, part.protocol) == ("medium", "medium_unseen")
        keys |= {whole.key, part.key}
        # Query 1 finds its photo second: (0 + 1/2) / 2; the others find theirs first.
        assert whole.mean.value == pytest.approx((1 + 0.25 + 1) / 3)
        assert part.mean.value == pytest.approx(1.0 if text == "1\n" else 0.625)
        said = list(report.table(found))
        assert "unseen: without 1 of 3 queries, as --exclude_queries says" in said[1]
        assert report.to_json(found)["seen"] == list(left.seen)
    assert len(keys) == 3
