import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.datasets import oxford


def write_query(folder, name="all_souls_1", query="oxc1_all_souls_000013 1.5 2 30 40"):
    files = {"query": query, "good": "a\nb\n", "ok": "c", "junk": ""}
    for kind, text in files.items():
        (folder / f"{name}_{kind}.txt").write_text(text)
    return folder / f"{name}_query.txt"


def test_a_query_has_a_photo_a_box_and_three_lists(tmp_path):
    write_query(tmp_path)
    write_query(tmp_path, "defense_2", "paris_defense_000605 0 0 9 9\n")
    first, second = oxford.read_ground_truth(tmp_path)
    assert (first.name, first.photo) == ("all_souls_1", "all_souls_000013")
    np.testing.assert_array_equal(first.box, [2, 1.5, 40, 30])
    assert first[3:] == (["a", "b"], ["c"], [])
    assert second.photo == "paris_defense_000605"


def test_hidden_files_are_no_queries(tmp_path):
    write_query(tmp_path)
    (tmp_path / "._all_souls_1_query.txt").write_bytes(b"\0\5\26\7")
    assert [query.name for query in oxford.read_ground_truth(tmp_path)] == [
        "all_souls_1"
    ]


@pytest.mark.parametrize("text", ["", "oxc1_a", "a 1 2 3", "a 1 2 3 x", "a 1 2 3 nan"])
def test_a_query_of_another_form_is_named(tmp_path, text):
    path = write_query(tmp_path, query=text)
    with pytest.raises(InputError, match=f"{path.name}: must hold a name and four"):
        oxford.read_ground_truth(tmp_path)


def test_files_that_are_missing_or_no_text_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no files"):
        oxford.read_ground_truth(tmp_path)
    write_query(tmp_path)
    (tmp_path / "all_souls_1_junk.txt").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match="all_souls_1_junk.txt: not UTF-8 text"):
        oxford.read_ground_truth(tmp_path)
    (tmp_path / "all_souls_1_ok.txt").unlink()
    with pytest.raises(InputError, match="all_souls_1_ok.txt: no such file"):
        oxford.read_ground_truth(tmp_path)
