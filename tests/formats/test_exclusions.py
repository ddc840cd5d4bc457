import pytest

from delf_jax.files import InputError
from delf_jax.formats import tables


@pytest.fixture
def listed(tmp_path):
    def write(text):
        path = tmp_path / "seen.txt"
        path.write_bytes(text.encode("utf-8"))
        return path

    return write


def test_names_stand_one_a_line_and_comments_after_a_hash(listed):
    path = listed("# seen in training\n12 # Radcliffe Camera\r\n\n  ashmolean \n")
    assert tables.read_names(path) == ["12", "ashmolean"]


def test_landmark_ids_are_numbers(listed):
    assert tables.read_landmark_ids(listed("7\n007# twice\n12")) == {7, 12}
    for name in ("-1", "1.5", "x", "²"):
        with pytest.raises(InputError, match="is not a landmark id"):
            tables.read_landmark_ids(listed(f"7\n{name}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no names"),
        ("# only a comment\n", "has no names"),
        ("a\nb\na # again\n", "line 3: 'a' repeats line 1"),
    ],
)
def test_a_bad_list_is_refused_in_one_sentence(listed, text, message):
    with pytest.raises(InputError, match=message) as error:
        tables.read_names(listed(text))
    assert "\n" not in str(error.value)


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        tables.read_names(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot be read"):
        tables.read_names(tmp_path)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        tables.read_names(tmp_path / "latin")
