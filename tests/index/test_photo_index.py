import shutil

import pytest

from delf_jax.extraction import model_folder, settings
from delf_jax.files import InputError
from delf_jax.index import photo_index
from delf_jax.search.query import search, to_json
from tests.helpers.indexed_photos import (
    NAMES,
    ask,
    copy_photos,
    draw_photo,
    index_photos,
)


@pytest.fixture(scope="module")
def model(tiny_model):
    return model_folder.load_model(tiny_model)


@pytest.fixture(scope="module")
def how(model):
    return settings.settings_for(model, max_features=50)


@pytest.fixture(scope="module")
def made(tmp_path_factory, model, how):
    """A folder that holds photos/ and their index."""
    folder = tmp_path_factory.mktemp("search")
    index_photos(folder, model, how)
    return folder


@pytest.fixture
def own(made, tmp_path):
    """A copy of photos and index, to be changed."""
    return copy_photos(made, tmp_path)


def test_indexing_again_does_only_what_changed(own, model, how):
    photos, index = own / "photos", own / "index"
    draw_photo(photos / "new.jpg", 77)
    draw_photo(photos / "a/1.jpg", 78)
    (photos / "b/1.jpg").unlink()
    report = photo_index.make_index([photos], index, model, how, progress=False)
    assert (report.extracted, report.unchanged, report.removed) == (2, 2, 1)
    expected = ["a/1.jpg", "a/2.jpg", "b/c/3.png", "new.jpg"]
    assert photo_index.open_index(index).store.ids == expected


def test_added_photos_are_named_within_the_folder_or_as_short_as_is_unique(
    own, model, how
):
    draw_photo(own / "photos/b/late.jpg", 5)
    draw_photo(own / "elsewhere/a/1.jpg", 6)
    draw_photo(own / "elsewhere/fresh.jpg", 7)
    index = own / "index"
    photo_index.add_images(
        [own / "photos/b/late.jpg"], index, model, how, progress=False
    )
    report = photo_index.add_images(
        [own / "elsewhere"], index, model, how, progress=False
    )
    assert (report.extracted, report.unchanged, report.removed) == (2, 5, 0)
    opened = photo_index.open_index(index)
    added = {"b/late.jpg", "elsewhere/a/1.jpg", "fresh.jpg"}
    assert set(opened.store.ids) == {*NAMES, *added}
    assert opened.file("elsewhere/a/1.jpg") == own / "elsewhere/a/1.jpg"
    assert opened.file("b/late.jpg") == own / "photos/b/late.jpg"
    # Added once more, they are the same photos; and indexing again keeps them.
    report = photo_index.add_images(
        [own / "elsewhere"], index, model, how, progress=False
    )
    assert (report.extracted, report.unchanged) == (0, 7)
    report = photo_index.make_index([own / "photos"], index, model, how, progress=False)
    assert (report.extracted, report.unchanged, report.removed) == (0, 7, 0)


def test_an_index_grown_photo_by_photo_answers_like_one_made_at_once(
    made, model, how, tmp_path
):
    photos = made / "photos"
    photo_index.make_index(
        [photos / "b"], tmp_path / "index", model, how, progress=False
    )
    with pytest.raises(InputError, match="--add"):
        photo_index.make_index([photos], tmp_path / "index", model, how, progress=False)
    shutil.rmtree(tmp_path / "index")
    # The folder of two files in unlike folders is the closest that holds both.
    first = [photos / "b/c/3.png", photos / "a/1.jpg"]
    photo_index.make_index(first, tmp_path / "index", model, how, progress=False)
    for name in ("a/2.jpg", "b/1.jpg"):
        path = [photos / name]
        photo_index.add_images(path, tmp_path / "index", model, how, progress=False)
    index = photo_index.open_index(tmp_path / "index")
    query = [photos / "a/1.jpg"]
    grown = list(search(index, query, model, how, top=0))
    at_once = ask(made, model, how, "photos/a/1.jpg", top=0)
    assert to_json(grown) == to_json(at_once)


def test_removed_photos_are_not_found(own, model, how):
    assert photo_index.remove_images(own / "index", ["a/1.jpg", "b/1.jpg"]) == 2
    (answer,) = ask(own, model, how, "photos/a/1.jpg", top=0)
    assert {r.image for r in answer.results} == {"a/2.jpg", "b/c/3.png"}
    with pytest.raises(InputError, match=r"nix\.jpg"):
        photo_index.remove_images(own / "index", ["a/2.jpg", "nix.jpg"])
    assert len(photo_index.open_index(own / "index").store) == 2


def test_a_removed_photo_from_elsewhere_frees_its_id(own, model, how):
    draw_photo(own / "elsewhere/fresh.jpg", 7)
    draw_photo(own / "third/fresh.jpg", 8)
    index = own / "index"
    photo_index.add_images(
        [own / "elsewhere/fresh.jpg"], index, model, how, progress=False
    )
    photo_index.remove_images(index, ["fresh.jpg"])
    photo_index.add_images([own / "third/fresh.jpg"], index, model, how, progress=False)
    assert photo_index.open_index(index).file("fresh.jpg") == own / "third/fresh.jpg"


def test_indexing_with_another_model_starts_afresh(own, model, how):
    other = model._replace(fingerprint="f" * 64, name="other")
    with pytest.raises(InputError, match="not by other"):
        ask(own, other, how, "photos/a/1.jpg")
    with pytest.raises(InputError, match="not by other"):
        photo_index.add_images(
            [own / "photos"], own / "index", other, how, progress=False
        )
    report = photo_index.make_index(
        [own / "photos"], own / "index", other, how, progress=False
    )
    assert report.extracted == len(NAMES)
    assert len(ask(own, other, how, "photos/a/1.jpg")) == 1
