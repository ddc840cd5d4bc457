"""CSV files as named tuples, and lists of names."""

from typing import NamedTuple

import pytest

from delf_jax.files import InputError
from delf_jax.formats import tables


class Shelf(NamedTuple):
    number: int
    books: tuple[str, ...]
    place: str


def write(tmp_path, text: str):
    path = tmp_path / "shelves.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_are_found_by_name_and_blank_lines_are_skipped(tmp_path):
    path = write(tmp_path, 'place,x,books,number\n"a, ü",,b  c,1\n\n,0,,-2\n')
    assert list(tables.read_rows(path, Shelf)) == [
        Shelf(1, ("b", "c"), "a, ü"),
        Shelf(-2, (), ""),
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_of_spreadsheets_are_read(tmp_path, mark, end, encoding):
    lines = ["number,books,place", "1,a b,ü", "2,,"]
    text = end.join([*lines, ""]).replace(",", mark)
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    expected = [Shelf(1, ("a", "b"), "ü"), Shelf(2, (), "")]
    assert list(tables.read_rows(tmp_path / "a.csv", Shelf)) == expected


def test_semicolons_in_fields_separated_by_commas_are_text(tmp_path):
    path = write(tmp_path, "number,books,place\n1,a;b,c;d\n")
    assert list(tables.read_rows(path, Shelf)) == [Shelf(1, ("a;b",), "c;d")]


def test_columns_named_at_run_time_are_read(tmp_path):
    path = write(tmp_path, "a column,number\nx,1\n")
    columns = {"number": int, "a column": str}
    assert list(tables.read_columns(path, columns)) == [[1, "x"]]
    path = write(tmp_path, "a column,number\nx\n")
    with pytest.raises(InputError, match="line 2: no field 'number'"):
        list(tables.read_columns(path, columns))


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [Shelf(3, ("a", "b"), 'x"\n,y'), Shelf(4, (), "")]
    path = tmp_path / "out.csv"
    tables.write_rows(path, Shelf._fields, rows)
    assert path.read_bytes().startswith(b"number,books,place\n3,a b,")
    assert list(tables.read_rows(path, Shelf)) == rows


def test_a_field_longer_than_the_limit_of_the_csv_module_is_read(tmp_path):
    books = tuple(f"{number:016x}" for number in range(20_000))
    path = tmp_path / "long.csv"
    tables.write_rows(path, Shelf._fields, [Shelf(0, books, "")])
    assert list(tables.read_rows(path, Shelf)) == [Shelf(0, books, "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "shelves.csv: the file is empty"),
        ("number,place\n", "shelves.csv: the CSV has no column 'books'"),
        ("number,books,place\n1,a,b\nx,a,b\n", "line 3, number: 'x' is not a number"),
        (f"number,books,place\n{1 << 63},a,b\n", "line 2, number: .* out of range"),
        ("number,books,place\n\n1,a\n", "line 3: no field 'place'"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        list(tables.read_rows(write(tmp_path, text), Shelf))


def test_a_file_that_is_absent_or_not_text_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.csv: no such file"):
        tables.read_header(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="cannot be read"):
        tables.read_header(tmp_path)
    path = tmp_path / "image.csv"
    path.write_bytes(b"number,books,place\n1,\xff\xfe,c\n")
    with pytest.raises(InputError, match="image.csv, after line .: not UTF-8"):
        list(tables.read_rows(path, Shelf))
    path.write_bytes("number,books,place\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="image.csv, line 1: .* it has NUL bytes"):
        list(tables.read_rows(path, Shelf))
    path.write_text('number,books,place\n1,"a\n' + "b" * (1 << 26) + "\n")
    with pytest.raises(InputError, match="not a CSV .field larger than"):
        list(tables.read_rows(path, Shelf))


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


def test_repeated_names_may_be_allowed(listed):
    assert tables.read_names(listed("a\nb\na\n"), unique=False) == ["a", "b"]
