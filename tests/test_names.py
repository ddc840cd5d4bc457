"""Names that lists have for photos."""

import unicodedata

import pytest

from delf_jax.names import finder, plain

IDS = [
    "a/1.jpg",
    "a/2.png",
    "b/1.jpg",
    "c/d/e.JPG",
    "f.jpg",
    "st.paul_1.jpg",
    "Tor.png",
]


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("a/1.jpg", ["a/1.jpg"]),
        ("a/1", ["a/1.jpg"]),
        ("a/2.jpg", ["a/2.png"]),
        ("2", ["a/2.png"]),
        ("e", ["c/d/e.JPG"]),
        ("d/e.jpg", ["c/d/e.JPG"]),
        ("jpg/f.jpg", ["f.jpg"]),
        ("/data/photos/f", ["f.jpg"]),
        ("./a/1.jpg", ["a/1.jpg"]),
        ("a\\1.JPG", ["a/1.jpg"]),
        ("st.paul_1", ["st.paul_1.jpg"]),
        ("TOR.PNG", ["Tor.png"]),
        ("1.jpg", ["a/1.jpg", "b/1.jpg"]),
        ("c/1.jpg", []),
        ("st", []),
        ("st.jpg", []),
        ("", []),
        (".jpg", []),
        ("..", []),
    ],
)
def test_a_name_fits_with_or_without_suffix_folders_and_case(name, ids):
    assert [IDS[place] for place in finder(IDS)(name)] == ids


def test_what_differs_least_comes_first():
    ids = ["x/a.jpg", "a.jpg", "a.png", "A.jpg", "x/b.png", "y/b.jpg", "B.jpg"]
    find = finder(ids)

    def found(name):
        return [ids[place] for place in find(name)]

    assert found("a.jpg") == ["a.jpg"]
    assert found("a") == ["a.jpg", "a.png"]
    assert found("A") == ["A.jpg"]
    assert found("x/a") == ["x/a.jpg"]
    assert found("b.jpg") == ["y/b.jpg"]
    assert found("b") == ["x/b.png", "y/b.jpg"]


def test_a_name_that_two_photos_share_without_suffix_is_ambiguous():
    find = finder(["a/1.jpg", "a/1.png", "b.jpg", "b"])
    assert find("a/1") == [0, 1] and find("a/1.png") == [1]
    assert find("b") == [3] and find("b.jpg") == [2]


def test_an_id_may_be_an_old_name_or_one_of_another_unicode_form():
    one, other = (unicodedata.normalize(form, "Köln.jpg") for form in ("NFC", "NFD"))
    assert finder([one])(other) == finder([other])(one) == [0]
    assert finder(["a"])("a.jpg") == [0]
    assert finder(["b\udcff.jpg"])("b\udcff") == [0]
    assert finder([])("a") == []


def test_only_suffixes_of_images_are_taken_off():
    names = ["a.jpg", "b/c.PNG", "d.2009", "e", ".jpg"]
    assert list(map(plain, names)) == ["a", "b/c", "d.2009", "e", ".jpg"]


def test_names_of_many_photos_are_looked_for_once():
    ids = [f"{number}/0.jpg" for number in range(2000)]
    find = finder(ids)
    assert find("0") is find("0") and len(find("0")) == len(ids)
