import shutil

import pytest

from delf_jax.files import InputError
from delf_jax.index import photo_index
from delf_jax.search.query import search, to_json
from tests.helpers.indexed_photos import (
    NAMES,
    ask,
    draw_photo,
)


def test_indexing_again_does_only_what_changed(copied, model, settings):
    photos, index = copied / "photos", copied / "index"
    draw_photo(photos / "new.jpg", 77)
    draw_photo(photos / "a/1.jpg", 78)
    (photos / "b/1.jpg").unlink()
    report = photo_index.make_index([photos], index, model, settings, progress=False)
    assert (report.extracted, report.unchanged, report.removed) == (2, 2, 1)
    expected = ["a/1.jpg", "a/2.jpg", "b/c/3.png", "new.jpg"]
    assert photo_index.open_index(index).store.ids == expected


def test_added_photos_are_named_within_the_folder_or_as_short_as_is_unique(
    copied, model, settings
):
    draw_photo(copied / "photos/b/late.jpg", 5)
    draw_photo(copied / "elsewhere/a/1.jpg", 6)
    draw_photo(copied / "elsewhere/fresh.jpg", 7)
    index = copied / "index"
    photo_index.add_images(
        [copied / "photos/b/late.jpg"], index, model, settings, progress=False
    )
    report = photo_index.add_images(
        [copied / "elsewhere"], index, model, settings, progress=False
    )
    assert (report.extracted, report.unchanged, report.removed) == (2, 5, 0)
    opened = photo_index.open_index(index)
    added = {"b/late.jpg", "elsewhere/a/1.jpg", "fresh.jpg"}
    assert set(opened.store.ids) == {*NAMES, *added}
    assert opened.file("elsewhere/a/1.jpg") == copied / "elsewhere/a/1.jpg"
    assert opened.file("b/late.jpg") == copied / "photos/b/late.jpg"
    # Added once more, they are the same photos; and indexing again keeps them.
    report = photo_index.add_images(
        [copied / "elsewhere"], index, model, settings, progress=False
    )
    assert (report.extracted, report.unchanged) == (0, 7)
    report = photo_index.make_index(
        [copied / "photos"], index, model, settings, progress=False
    )
    assert (report.extracted, report.unchanged, report.removed) == (0, 7, 0)


def test_an_index_grown_photo_by_photo_answers_like_one_made_at_once(
    indexed, model, settings, tmp_path
):
    photos = indexed / "photos"
    photo_index.make_index(
        [photos / "b"], tmp_path / "index", model, settings, progress=False
    )
    with pytest.raises(InputError, match="--add"):
        photo_index.make_index(
            [photos], tmp_path / "index", model, settings, progress=False
        )
    shutil.rmtree(tmp_path / "index")
    # The folder of two files in unlike folders is the closest that holds both.
    first = [photos / "b/c/3.png", photos / "a/1.jpg"]
    photo_index.make_index(first, tmp_path / "index", model, settings, progress=False)
    for name in ("a/2.jpg", "b/1.jpg"):
        path = [photos / name]
        photo_index.add_images(
            path, tmp_path / "index", model, settings, progress=False
        )
    index = photo_index.open_index(tmp_path / "index")
    query = [photos / "a/1.jpg"]
    grown = list(search(index, query, model, settings, top=0))
    at_once = ask(indexed, model, settings, "photos/a/1.jpg", top=0)
    assert to_json(grown) == to_json(at_once)


def test_removed_photos_are_not_found(copied, model, settings):
    assert photo_index.remove_images(copied / "index", ["a/1.jpg", "b/1.jpg"]) == 2
    (answer,) = ask(copied, model, settings, "photos/a/1.jpg", top=0)
    assert {r.image for r in answer.results} == {"a/2.jpg", "b/c/3.png"}
    with pytest.raises(InputError, match=r"nix\.jpg"):
        photo_index.remove_images(copied / "index", ["a/2.jpg", "nix.jpg"])
    assert len(photo_index.open_index(copied / "index").store) == 2


def test_a_removed_photo_from_elsewhere_frees_its_id(copied, model, settings):
    draw_photo(copied / "elsewhere/fresh.jpg", 7)
    draw_photo(copied / "third/fresh.jpg", 8)
    index = copied / "index"
    photo_index.add_images(
        [copied / "elsewhere/fresh.jpg"], index, model, settings, progress=False
    )
    photo_index.remove_images(index, ["fresh.jpg"])
    photo_index.add_images(
        [copied / "third/fresh.jpg"], index, model, settings, progress=False
    )
    assert photo_index.open_index(index).file("fresh.jpg") == copied / "third/fresh.jpg"


def test_indexing_with_another_model_starts_afresh(copied, model, settings):
    other = model._replace(fingerprint="f" * 64, name="other")
    with pytest.raises(InputError, match="not by other"):
        ask(copied, other, settings, "photos/a/1.jpg")
    with pytest.raises(InputError, match="not by other"):
        photo_index.add_images(
            [copied / "photos"], copied / "index", other, settings, progress=False
        )
    report = photo_index.make_index(
        [copied / "photos"], copied / "index", other, settings, progress=False
    )
    assert report.extracted == len(NAMES)
    assert len(ask(copied, other, settings, "photos/a/1.jpg")) == 1
