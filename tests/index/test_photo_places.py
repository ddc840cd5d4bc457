import pathlib

from delf_jax.index import photo_places
from delf_jax.index.photo_places import Places

ROOT = pathlib.Path("/data/photos")


def name(*paths, outside=(), known=()):
    """The ids of photos, by path, and the places that know them."""
    places = Places(ROOT, {id: pathlib.Path(p) for id, p in dict(outside).items()})
    found = [(pathlib.Path(path).name, pathlib.Path(path)) for path in paths]
    files, places = photo_places.name_photos(found, places, set(known))
    return {str(path): id for id, path in files.items()}, places


def test_photos_in_the_root_are_named_by_their_path_there():
    found, places = name("/data/photos/a/1.jpg", "/data/photos/2.jpg")
    assert found == {"/data/photos/a/1.jpg": "a/1.jpg", "/data/photos/2.jpg": "2.jpg"}
    assert places.outside == {}


def test_others_have_as_many_folders_as_make_them_unique_and_keep_their_ids():
    paths = "/x/1.jpg", "/x/B/1.jpg", "/x/B/B/1.jpg"
    found, places = name(*paths, known=["1.jpg"])
    assert found == dict(zip(paths, ["x/1.jpg", "B/1.jpg", "B/B/1.jpg"], strict=True))
    again, _ = name(*reversed(paths), outside=places.outside, known=["1.jpg"])
    assert again == found


def test_a_photo_in_the_root_does_not_take_the_id_of_one_from_elsewhere():
    found, places = name("/data/photos/1.jpg", outside={"1.jpg": "/x/1.jpg"})
    assert found == {"/data/photos/1.jpg": "photos/1.jpg"}
    assert places.file("1.jpg") == pathlib.Path("/x/1.jpg")
    assert places.file("photos/1.jpg") == pathlib.Path("/data/photos/1.jpg")


def test_an_id_that_a_file_in_the_root_would_have_is_left_to_it(tmp_path):
    (tmp_path / "1.jpg").touch()
    found = [("1.jpg", pathlib.Path("/x/1.jpg"))]
    files, _ = photo_places.name_photos(found, Places(tmp_path, {}), set())
    assert list(files) == ["x/1.jpg"]


def test_a_name_is_counted_where_no_folder_makes_it_unique():
    assert name("/x/1.jpg", known=["1.jpg", "x/1.jpg"])[0] == {
        "/x/1.jpg": "x/1 (2).jpg"
    }
