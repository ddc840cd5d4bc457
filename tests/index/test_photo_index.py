import errno
import itertools
import pathlib
import shutil

import pytest

from delf_jax.extraction.model_folder import load_model
from delf_jax.extraction.settings import settings_for
from delf_jax.files import InputError, read_json
from delf_jax.index import photo_index
from delf_jax.index.vectors import record
from delf_jax.index.vectors.update import Wanted
from delf_jax.search import photo_search
from delf_jax.search.query import search, to_json
from delf_jax.store import extraction, feature_store, shards, writer
from tests.campaign.contents import contents
from tests.helpers.clusters import in_this_process
from tests.helpers.indexed_photos import (
    NAMES,
    ask,
    draw_photo,
)
from tests.helpers.kills import killed_at
from tests.helpers.vectors import use_file_engine


def test_indexing_again_does_only_what_changed(copied, model, settings):
    photos, index = copied / "photos", copied / "index"
    draw_photo(photos / "new.jpg", 77)
    draw_photo(photos / "a/1.jpg", 78)
    (photos / "b/1.jpg").unlink()
    report = photo_index.make_index([photos], index, model, settings, progress=False)
    assert (report.extracted, report.unchanged, report.kept) == (2, 2, 1)
    assert photo_index.absent_images(index) == (["b/1.jpg"], [])
    assert photo_index.remove_images(index, ["b/1.jpg"]) == 4
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


@pytest.fixture
def add(copied, model, settings):
    """Adds photos to the copied index: the report."""

    def add(*names, index="index"):
        paths = [copied / name for name in names]
        return photo_index.add_images(
            paths, copied / index, model, settings, progress=False
        )

    return add


def ids_of(folder):
    return photo_index.open_index(folder / "index").store.ids


@pytest.mark.parametrize("mount_point", [False, True])
def test_photos_of_a_drive_that_is_away_stay(copied, add, mount_point):
    draw_photo(copied / "drive/x/1.jpg", 5)
    draw_photo(copied / "drive/y/2.jpg", 6)
    draw_photo(copied / "new.jpg", 7)
    add("drive")
    for folder in ("photos", "drive/x"):
        (copied / folder).rename(copied / f"{folder} away")
        if mount_point:
            (copied / folder).mkdir()
    report = add("new.jpg")
    assert (report.extracted, report.unchanged, report.kept) == (1, 1, 5)
    assert len(ids_of(copied)) == 7
    gone, away = photo_index.absent_images(copied / "index")
    assert (gone, len(away)) == ([], 5)


def test_only_what_a_folder_that_is_there_lacks_is_gone(copied, add):
    for seed, name in enumerate(("x/1.jpg", "x/2.jpg", "y/3.jpg")):
        draw_photo(copied / "drive" / name, seed)
    add("drive")
    shutil.rmtree(copied / "photos/a")
    shutil.rmtree(copied / "drive/y")
    (copied / "drive/x/2.jpg").unlink()
    gone, away = photo_index.absent_images(copied / "index")
    assert gone == ["a/1.jpg", "a/2.jpg", "x/2.jpg"] and away == ["y/3.jpg"]


def test_a_file_that_cannot_be_looked_at_is_not_absent(copied, add, monkeypatch):
    draw_photo(copied / "new.jpg", 7)
    real = pathlib.Path.stat

    def stat(path, **options):
        if path.name == "1.jpg":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(pathlib.Path, "stat", stat)
    report = add("new.jpg")
    assert (report.extracted, report.unchanged, report.kept) == (1, 2, 0)
    assert (
        "cannot be read (Permission denied); its features are kept"
        in (report.failed["a/1.jpg"])
    )
    assert photo_index.absent_images(copied / "index") == ([], [])
    assert set(ids_of(copied)) == {*NAMES, "new.jpg"}


def test_a_folder_that_was_moved_is_named_anew(copied, model, settings, add):
    index, elsewhere = copied / "index", copied / "elsewhere"
    # As other programs copy it, with times of now.
    shutil.copytree(copied / "photos", elsewhere, copy_function=shutil.copyfile)
    shutil.rmtree(copied / "photos")
    with pytest.raises(InputError, match=f"say so with --root={elsewhere}"):
        photo_index.make_index([elsewhere], index, model, settings, progress=False)
    draw_photo(copied / "wrong/a/9.jpg", 3)
    with pytest.raises(InputError, match="none of the 4 photos of .* found there"):
        photo_index.move_root(index, copied / "wrong")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        photo_index.move_root(index, copied / "nowhere")
    (elsewhere / "b/1.jpg").unlink()
    assert photo_index.move_root(index, elsewhere) == (3, 4)
    report = photo_index.make_index([elsewhere], index, model, settings, progress=False)
    assert (report.extracted, report.unchanged, report.kept) == (0, 3, 1)
    assert photo_index.open_index(index).file("a/2.jpg") == elsewhere / "a/2.jpg"


def test_a_photo_of_the_folder_whose_path_was_taken_moves_with_it(copied, add):
    draw_photo(copied / "x/1.jpg", 20)
    add("x")
    draw_photo(copied / "photos/1.jpg", 21)
    add("photos/1.jpg")
    (copied / "photos").rename(copied / "elsewhere")
    assert photo_index.move_root(copied / "index", copied / "elsewhere") == (5, 5)
    assert photo_index.absent_images(copied / "index") == ([], [])
    index = photo_index.open_index(copied / "index")
    assert len({index.file(id) for id in index.store.ids}) == len(NAMES) + 2
    assert index.file("1.jpg") == copied / "x/1.jpg"


def test_photos_of_one_name_are_all_there_whatever_is_added_when(copied, add):
    for seed, name in enumerate(
        ("x/1.jpg", "B/1.jpg", "B/B/1.jpg", "C/B/1.jpg", "photos/fresh/1.jpg")
    ):
        draw_photo(copied / name, seed + 20)
    shutil.copytree(copied / "index", copied / "other", copy_function=shutil.copy2)
    add("x")
    add("B", "C")
    assert add("photos/fresh").extracted == 1
    draw_photo(copied / "photos/1.jpg", 44)
    assert add("photos/1.jpg").extracted == 1
    index = photo_index.open_index(copied / "index")
    assert len(index.store) == len(NAMES) + 6
    assert len({index.file(id) for id in index.store.ids}) == len(NAMES) + 6
    assert add("photos", "B", "x", "C")[:3] == (0, len(NAMES) + 6, 0)
    # The order in which they are named changes no id.
    add("x", index="other")
    add("C", "B", index="other")
    other = photo_index.open_index(copied / "other")
    for name in ("B/1.jpg", "B/B/1.jpg", "C/B/1.jpg"):
        places = index.places.outside, other.places.outside
        one, two = ({p: id for id, p in each.items()} for each in places)
        assert one[copied / name] == two[copied / name]


def test_photos_that_two_processes_add_at_once_are_all_there(copied, add, monkeypatch):
    for seed, name in enumerate(("x/1.jpg", "y/1.jpg")):
        draw_photo(copied / name, seed + 20)
    real = photo_index.find_images

    def meanwhile(paths):
        monkeypatch.undo()
        add("x")
        return real(paths)

    monkeypatch.setattr(photo_index, "find_images", meanwhile)
    add("y")
    index = photo_index.open_index(copied / "index")
    assert {*index.places.outside.values()} == {copied / "x/1.jpg", copied / "y/1.jpg"}
    assert len(index.store) == len(NAMES) + 2


def test_a_photo_of_an_absent_folder_keeps_its_id(copied, add):
    (copied / "photos").rename(copied / "away")
    draw_photo(copied / "x/1.jpg", 5)
    draw_photo(copied / "x/a/1.jpg", 6)
    assert add("x").extracted == 2
    assert set(ids_of(copied)) > set(NAMES) and len(ids_of(copied)) == 6


def test_a_removal_that_is_killed_has_removed_all_or_nothing(
    copied, add, model, settings
):
    for seed in range(3):
        draw_photo(copied / f"elsewhere/{seed}.jpg", seed + 10)
    draw_photo(copied / "last.jpg", 9)
    add("elsewhere")
    before, names = ids_of(copied), ["0.jpg", "2.jpg", "a/1.jpg"]
    after = sorted({*before} - {*names})
    shutil.copytree(copied / "index", copied / "kept", copy_function=shutil.copy2)
    seen = []
    for number in itertools.count():
        shutil.rmtree(copied / "index")
        shutil.copytree(copied / "kept", copied / "index", copy_function=shutil.copy2)
        with killed_at(number) as died:
            photo_index.remove_images(copied / "index", names)
        seen.append(ids_of(copied))
        assert seen[-1] in (before, after)
        assert add("last.jpg").extracted == 1
        assert ids_of(copied) == sorted([*seen[-1], "last.jpg"])
        if not died:
            break
    assert before in seen and seen.count(after) > 2


def test_an_index_is_never_taken_for_whole_that_is_not(copied, model, settings):
    index = copied / "killed"
    for number in itertools.count():
        shutil.rmtree(index, ignore_errors=True)
        with killed_at(number) as died:
            photo_index.make_index(
                [copied / "photos"], index, model, settings, progress=False
            )
        if not died:
            break
        if (index / "store/manifest.json").exists():
            found = photo_index.open_index(index)
            assert len(found.store) == len(NAMES) or found.shortfall
        report = photo_index.make_index(
            [copied / "photos"], index, model, settings, progress=False
        )
        assert report.extracted + report.unchanged == len(NAMES)
        assert photo_index.open_index(index).shortfall == ""
    assert number > 2


@pytest.fixture
def interrupted(copied, model, settings, monkeypatch):
    """A folder whose index was interrupted after two of five photos, one damaged."""
    (copied / "photos/0.jpg").write_bytes(b"\xff\xd8\xff cut")
    real = extraction.extract_features

    def extract(*arguments, **options):
        yield from itertools.islice(real(*arguments, **options), 2)
        raise KeyboardInterrupt

    shutil.rmtree(copied / "index")
    monkeypatch.setattr(extraction, "extract_features", extract)
    with pytest.raises(KeyboardInterrupt):
        photo_index.make_index(
            [copied / "photos"], copied / "index", model, settings, progress=False
        )
    monkeypatch.undo()
    return copied


def test_an_interrupted_index_says_so_until_a_later_run_has_done_the_rest(
    interrupted, add
):
    index = photo_index.open_index(interrupted / "index")
    assert (len(index.store), len(index.store.failed)) == (1, 1)
    assert (
        "incomplete, 3 of 5 images are not extracted yet; finish it with: index "
        in (index.shortfall)
    )
    assert "1 photo, incomplete, 3 of 5" in str(index)
    # A removed photo is not missed, and a photo of elsewhere does not make up for it.
    photo_index.remove_images(interrupted / "index", ["b/1.jpg"])
    found = photo_index.open_index(interrupted / "index").store
    assert found.pending == ["a/2.jpg", "b/c/3.png"]
    draw_photo(interrupted / "new.jpg", 7)
    assert add("new.jpg").extracted == 3
    assert ids_of(interrupted) == ["a/1.jpg", "a/2.jpg", "b/c/3.png", "new.jpg"]
    assert photo_index.open_index(interrupted / "index").shortfall == ""


def test_photos_from_outside_of_the_folder_are_named(copied, add):
    draw_photo(copied / "private/1.jpg", 5)
    add("private")
    index = photo_index.open_index(copied / "index")
    said = f"1 photo from outside of {copied / 'photos'}: {copied / 'private/1.jpg'}"
    assert index.outsiders(["1.jpg", "a/1.jpg"]) == said
    assert index.outsiders(["a/1.jpg"]) == ""
    forged = index.places._replace(outside={"a/1.jpg": copied / "photos/../new.jpg"})
    assert "new.jpg" in index._replace(places=forged).outsiders(["a/1.jpg"])


@pytest.mark.parametrize("id", ["../new.jpg", "a/../../new.jpg", "/etc/x.jpg", "a\0b"])
def test_an_id_that_leaves_the_folder_is_refused(copied, model, id):
    store = feature_store.open_store(copied / "index/store")
    found = writer.Writer(store.path, store.manifest["key"], store.records.values())
    found.add(shards.Record(id, found.sequence, "extracted"), store[0])
    found.flush()
    with pytest.raises(InputError, match="is not a path within a folder"):
        photo_index.open_index(copied / "index")


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
    whole = (copied / "photos/b/1.jpg").read_bytes()
    (copied / "photos/b/1.jpg").unlink()
    with pytest.raises(InputError, match="would lose 1 image, such as 'b/1.jpg'"):
        photo_index.make_index(
            [copied / "photos"], copied / "index", other, settings, progress=False
        )
    assert len(ask(copied, model, settings, "photos/a/1.jpg")[0].results) == len(NAMES)
    (copied / "photos/b/1.jpg").write_bytes(whole)
    report = photo_index.make_index(
        [copied / "photos"], copied / "index", other, settings, progress=False
    )
    assert report.extracted == len(NAMES)
    assert len(ask(copied, other, settings, "photos/a/1.jpg")) == 1


@pytest.fixture
def paired(copied, tiny_model, global_model):
    """A folder of photos/, of their index/ by two models, and of these."""
    shutil.rmtree(copied / "index")
    for name, folder in (("tiny", tiny_model), ("global", global_model)):
        shutil.copytree(folder, copied / name)
    pair = load_model(copied / "tiny", copied / "global")
    reindex(copied, pair)
    return copied


def reindex(folder, model):
    settings = settings_for(model, max_features=50)
    paths, index = [folder / "photos"], folder / "index"
    return photo_index.make_index(paths, index, model, settings, progress=False)


def test_an_index_says_which_two_models_made_it(paired, tiny_model, global_model):
    known = photo_index.open_index(paired / "index").store.manifest
    local, other = load_model(tiny_model), load_model(global_model)
    expected = {"name": "tiny", "fingerprint": local.fingerprint}
    assert known["model"] == expected | {"path": str(paired / "tiny")}
    assert known["global_model"]["fingerprint"] == other.fingerprint
    assert known["global_model"]["settings"]["global_scales"] == [0, 1]
    model = photo_index.model_of(paired / "index")
    assert reindex(paired, model).unchanged == len(NAMES)
    settings = settings_for(model, max_features=50)
    (answer,) = ask(paired, model, settings, "photos/a/1.jpg")
    assert answer.results[0].image == "a/1.jpg"
    assert answer.results[0].similarity == pytest.approx(1, abs=1e-5)


def test_an_index_keeps_how_its_descriptors_were_pooled(paired):
    model, folder = photo_index.model_of(paired / "index"), paired / "pooled"
    pooled = settings_for(model, max_features=50, gem_power=4.6, scale_power=0.0)
    photo_index.make_index([paired / "photos"], folder, model, pooled, progress=False)
    index = photo_index.open_index(folder)
    manifest = index.store.manifest
    for known in (manifest["settings"], manifest["global_model"]["settings"]):
        assert known["gem_power"] == 4.6 and known["scale_power"] == 0
        assert "gem_region" not in known
    photo_index.check_model(index, model, pooled)
    with pytest.raises(InputError, match="with other settings; pass the same --config"):
        photo_index.check_model(index, model, pooled._replace(scale_power=1.0))
    opened = photo_search.open_index(folder)
    assert opened.settings.gem_power == 4.6 and opened.settings.scale_power == 0


def test_an_index_takes_no_other_global_model(paired, tiny_model, settings):
    pair = load_model(tiny_model, paired / "global")
    other = pair.global_model._replace(fingerprint="f" * 64, name="other")
    pairs = pair._replace(global_model=other), load_model(tiny_model)
    for model, name in zip(pairs, ("other", "tiny"), strict=True):
        reason = f"has global descriptors of model global .*, not of {name} .*; name "
        with pytest.raises(InputError, match=f"{reason}that one with --global_model"):
            reindex(paired, model)
        with pytest.raises(InputError, match=reason):
            ask(paired, model, settings_for(model, max_features=50), "photos/a/1.jpg")
    assert reindex(paired, pair).unchanged == len(NAMES)


def test_an_index_of_one_model_takes_no_global_model(copied, tiny_model, global_model):
    pair = load_model(tiny_model, global_model)
    reason = "of model tiny .*, not of global .*; leave out --global_model"
    with pytest.raises(InputError, match=reason):
        reindex(copied, pair)
    assert len(photo_index.open_index(copied / "index").store) == len(NAMES)


def test_a_model_that_has_moved_is_named_once(paired):
    for name, folder in (("global_model", "global"), ("model", "tiny")):
        (paired / folder).rename(paired / "away")
        reason = f"{paired / folder} any more; name its folder with --{name}$"
        with pytest.raises(InputError, match=reason):
            photo_index.model_of(paired / "index")
        (paired / "away").rename(paired / folder)
    (paired / "global").rename(paired / "global 2")
    model = load_model(paired / "tiny", paired / "global 2")
    assert reindex(paired, model).unchanged == len(NAMES)
    found = photo_index.recorded_model(paired / "index", "global_model")
    assert found == str(paired / "global 2")


def test_an_index_that_says_no_model_leaves_it_to_be_named(copied):
    for folder in (copied / "index", copied / "nowhere"):
        for name in ("model", "global_model"):
            assert photo_index.recorded_model(folder, name) is None


def test_a_cluster_fills_index_and_table_as_one_process_would(
    copied, model, settings, monkeypatch
):
    use_file_engine(monkeypatch)
    worked = in_this_process(monkeypatch, times=2)
    photos, wanted = [copied / "photos"], Wanted("file")
    for name, ray in (("one", None), ("many", "")):
        report = photo_index.make_index(
            photos,
            copied / name / "index",
            model,
            settings,
            vectors=wanted,
            ray=ray,
            progress=False,
        )
        assert (report.extracted, report.failed) == (len(NAMES), {})
    assert len(worked) == len(NAMES)
    one, many = (
        read_json(copied / name / "index" / f"{record.FOLDER}-table.json")
        for name in ("one", "many")
    )
    assert one["rows"] == many["rows"] and {*one["rows"]} == {*NAMES}
    stores = (contents(copied / name / "index", "store") for name in ("one", "many"))
    assert next(stores) == next(stores)
