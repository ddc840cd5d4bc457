import json
import shutil

import numpy as np
import pytest
from PIL import Image

from delf_jax import (
    aggregating,
    fitting,
    global_descriptors,
    pairs,
    search,
    settings,
    weights,
)
from delf_jax.files import InputError
from delf_jax.retrieval import ranking, similarity

NAMES = ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/c/3.png")


def draw_photo(path, seed):
    """Coarse noise: of one size, so that a single program is compiled."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((128, 96), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def model(tiny_model):
    return weights.load_model(tiny_model)


@pytest.fixture(scope="module")
def how(model):
    return settings.settings_for(model, max_features=50)


@pytest.fixture(scope="module")
def made(tmp_path_factory, model, how):
    """A folder that holds photos/ and their index."""
    folder = tmp_path_factory.mktemp("search")
    for seed, name in enumerate(NAMES):
        draw_photo(folder / "photos" / name, seed)
    search.make_index([folder / "photos"], folder / "index", model, how, shown=False)
    return folder


@pytest.fixture
def own(made, tmp_path):
    """A copy of photos and index, to be changed."""
    for name in ("photos", "index"):
        shutil.copytree(made / name, tmp_path / name, copy_function=shutil.copy2)
    places = (tmp_path / "index" / "index.json").read_text()
    moved = places.replace(str(made), str(tmp_path))
    (tmp_path / "index" / "index.json").write_text(moved)
    return tmp_path


def ask(folder, model, how, *names, **kwargs):
    index = search.open_index(folder / "index")
    queries = [folder / name for name in names]
    return list(search.search(index, queries, model, how, **kwargs))


def test_a_photo_finds_itself_first(made, model, how):
    for name in NAMES:
        (answer,) = ask(made, model, how, f"photos/{name}")
        assert answer.results[0].image == name
        assert answer.results[0].similarity == pytest.approx(1, abs=1e-5)
        assert answer.results[0].inliers > 10


def test_zero_ranks_all_and_top_cuts(made, model, how):
    (everything,) = ask(made, model, how, "photos/a/1.jpg", top=0)
    assert sorted(r.image for r in everything.results) == sorted(NAMES)
    (two,) = ask(made, model, how, "photos/a/1.jpg", top=2)
    assert [r.image for r in two.results] == [r.image for r in everything.results[:2]]


def test_without_reranking_similarity_decides_and_nothing_is_verified(made, model, how):
    (answer,) = ask(made, model, how, "photos/b/1.jpg", top=0, rerank=False)
    similarities = [r.similarity for r in answer.results]
    assert similarities == sorted(similarities, reverse=True)
    assert {r.inliers for r in answer.results} == {None}


def test_the_ranking_is_that_of_rerank_on_the_best_candidates(
    made, model, how, monkeypatch
):
    inliers = {"a/1.jpg": 3, "a/2.jpg": 40, "b/1.jpg": 0, "b/c/3.png": 90}
    images = search.open_index(made / "index").store
    monkeypatch.setattr(
        search,
        "_verify_all",
        lambda images, query, rows, how: {
            row: (inliers[images.ids[row]], np.zeros((0, 4))) for row in rows
        },
    )
    monkeypatch.setattr(search, "CANDIDATES", 3)
    query = images[images.row("a/1.jpg")]
    similarities, rows = first_stage(images, query)
    found = search.rank(images, query, rows, similarities, how)
    expected = ranking.rerank(
        rows[:3],
        similarities[:3],
        np.int32([inliers[images.ids[row]] for row in rows[:3]]),
    )
    assert [r.image for r in found[:3]] == [images.ids[row] for row in expected]
    assert found[3].image == images.ids[rows[3]] and found[3].inliers is None


def first_stage(images, query, k=4):
    descriptors, _ = global_descriptors.open_descriptors(images)
    return (each[0] for each in search.find_first(descriptors, [query], k))


def test_the_query_itself_is_verified_and_costs_no_candidate_its_place(
    made, model, how, monkeypatch
):
    monkeypatch.setattr(search, "CANDIDATES", 2)
    images = search.open_index(made / "index").store
    own = images.row("b/1.jpg")
    query = images[own]
    similarities, rows = first_stage(images, query)
    arguments = (images, query, rows, similarities, how)
    counts = [
        sum(result.inliers is not None for result in search.rank(*arguments, own=row))
        for row in (-1, own)
    ]
    assert counts == [2, 3]
    (answer,) = ask(made, model, how, "photos/b/1.jpg", top=0)
    assert sum(result.inliers is not None for result in answer.results) == 3
    # A copy elsewhere is another photo, although it looks the same.
    copy = made / "copy.jpg"
    shutil.copy(made / "photos/b/1.jpg", copy)
    (answer,) = ask(made, model, how, "copy.jpg", top=0)
    assert sum(result.inliers is not None for result in answer.results) == 2


def test_the_first_stage_is_exact_and_finds_no_more_than_asked(made, model, how):
    images = search.open_index(made / "index").store
    query = images[2]
    similarities, rows = first_stage(images, query, 3)
    expected = images.global_descriptors @ query.global_descriptor
    np.testing.assert_array_equal(rows, ranking.top_k(expected, 3))
    np.testing.assert_allclose(similarities, expected[rows], atol=1e-6)
    (answer,) = ask(made, model, how, "photos/a/1.jpg", top=1)
    assert len(answer.results) == 1


def test_queries_are_searched_for_together_in_a_large_index(
    made, model, how, monkeypatch
):
    names = ["photos/a/1.jpg", "photos/none.jpg", "photos/b/1.jpg", "photos/a/2.jpg"]
    asked = []
    find = search.find_first
    monkeypatch.setattr(
        search,
        "find_first",
        lambda index, queries, k: asked.append(len(queries)) or find(index, queries, k),
    )
    alone = ask(made, model, how, *names)
    assert asked == [1, 0, 1, 1]
    monkeypatch.setattr(search, "_PHOTOS_PER_QUERY", 2)
    together = ask(made, model, how, *names)
    assert asked[4:] == [2, 1]
    assert isinstance(together[1], InputError)
    for each in (alone, together):
        del each[1]
    assert search.describe(together) == search.describe(alone)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_reduced_precision_answers_with_the_similarities_of_float32(
    own, model, how, precision
):
    index = search.open_index(own / "index")
    descriptors, _ = global_descriptors.open_descriptors(
        index.store, precision, shown=False
    )
    reduced = ask(own, model, how, "photos/a/1.jpg", top=0, descriptors=descriptors)
    assert search.describe(reduced) == search.describe(
        ask(own, model, how, "photos/a/1.jpg", top=0)
    )


def test_lines_lie_within_both_photos(made, model, how):
    (answer,) = ask(made, model, how, "photos/a/1.jpg")
    lines = answer.results[0].lines
    assert len(lines) == answer.results[0].inliers
    assert (lines >= 0).all() and (lines <= 1).all()
    np.testing.assert_allclose(lines[:, :2], lines[:, 2:], atol=1e-6)


def test_the_answer_is_the_same_alone_and_among_others(made, model, how):
    (alone,) = ask(made, model, how, "photos/b/1.jpg")
    others = ask(made, model, how, "photos/a/2.jpg", "photos/b/1.jpg", "photos/a/1.jpg")
    assert search.describe([others[1]]) == search.describe([alone])


def test_json_has_the_promised_form(made, model, how):
    answers = ask(made, model, how, "photos/a/1.jpg", top=1)
    described = json.loads(json.dumps(search.describe(answers)))
    (query,) = described["queries"]
    assert set(query) == {"image", "results"}
    assert query["image"] == str(made / "photos/a/1.jpg")
    (result,) = query["results"]
    assert set(result) == {"image", "similarity", "inliers"}
    assert result["image"] == "a/1.jpg"


def test_indexing_again_does_only_what_changed(own, model, how):
    photos, index = own / "photos", own / "index"
    draw_photo(photos / "new.jpg", 77)
    draw_photo(photos / "a/1.jpg", 78)
    (photos / "b/1.jpg").unlink()
    report = search.make_index([photos], index, model, how, shown=False)
    assert (report.extracted, report.unchanged, report.removed) == (2, 2, 1)
    expected = ["a/1.jpg", "a/2.jpg", "b/c/3.png", "new.jpg"]
    assert search.open_index(index).store.ids == expected


def test_added_photos_are_named_within_the_folder_or_as_short_as_is_unique(
    own, model, how
):
    draw_photo(own / "photos/b/late.jpg", 5)
    draw_photo(own / "elsewhere/a/1.jpg", 6)
    draw_photo(own / "elsewhere/fresh.jpg", 7)
    index = own / "index"
    search.add_images([own / "photos/b/late.jpg"], index, model, how, shown=False)
    report = search.add_images([own / "elsewhere"], index, model, how, shown=False)
    assert (report.extracted, report.unchanged, report.removed) == (2, 5, 0)
    opened = search.open_index(index)
    added = {"b/late.jpg", "elsewhere/a/1.jpg", "fresh.jpg"}
    assert set(opened.store.ids) == {*NAMES, *added}
    assert opened.file("elsewhere/a/1.jpg") == own / "elsewhere/a/1.jpg"
    assert opened.file("b/late.jpg") == own / "photos/b/late.jpg"
    # Added once more, they are the same photos; and indexing again keeps them.
    report = search.add_images([own / "elsewhere"], index, model, how, shown=False)
    assert (report.extracted, report.unchanged) == (0, 7)
    report = search.make_index([own / "photos"], index, model, how, shown=False)
    assert (report.extracted, report.unchanged, report.removed) == (0, 7, 0)


def test_an_index_grown_photo_by_photo_answers_like_one_made_at_once(
    made, model, how, tmp_path
):
    photos = made / "photos"
    search.make_index([photos / "b"], tmp_path / "index", model, how, shown=False)
    with pytest.raises(InputError, match="--add"):
        search.make_index([photos], tmp_path / "index", model, how, shown=False)
    shutil.rmtree(tmp_path / "index")
    # The folder of two files in unlike folders is the closest that holds both.
    first = [photos / "b/c/3.png", photos / "a/1.jpg"]
    search.make_index(first, tmp_path / "index", model, how, shown=False)
    for name in ("a/2.jpg", "b/1.jpg"):
        path = [photos / name]
        search.add_images(path, tmp_path / "index", model, how, shown=False)
    index = search.open_index(tmp_path / "index")
    query = [photos / "a/1.jpg"]
    grown = list(search.search(index, query, model, how, top=0))
    at_once = ask(made, model, how, "photos/a/1.jpg", top=0)
    assert search.describe(grown) == search.describe(at_once)


def test_removed_photos_are_not_found(own, model, how):
    assert search.remove_images(own / "index", ["a/1.jpg", "b/1.jpg"]) == 2
    (answer,) = ask(own, model, how, "photos/a/1.jpg", top=0)
    assert {r.image for r in answer.results} == {"a/2.jpg", "b/c/3.png"}
    with pytest.raises(InputError, match=r"nix\.jpg"):
        search.remove_images(own / "index", ["a/2.jpg", "nix.jpg"])
    assert len(search.open_index(own / "index").store) == 2


def test_a_removed_photo_from_elsewhere_frees_its_id(own, model, how):
    draw_photo(own / "elsewhere/fresh.jpg", 7)
    draw_photo(own / "third/fresh.jpg", 8)
    index = own / "index"
    search.add_images([own / "elsewhere/fresh.jpg"], index, model, how, shown=False)
    search.remove_images(index, ["fresh.jpg"])
    search.add_images([own / "third/fresh.jpg"], index, model, how, shown=False)
    assert search.open_index(index).file("fresh.jpg") == own / "third/fresh.jpg"


def test_an_index_that_is_empty_answers_with_nothing(own, model, how):
    search.remove_images(own / "index", list(NAMES))
    (answer,) = ask(own, model, how, "photos/a/1.jpg")
    assert answer.results == []


def test_other_settings_are_refused(made, model, how):
    with pytest.raises(InputError, match="settings"):
        ask(made, model, how._replace(max_features=20), "photos/a/1.jpg")


def test_indexing_with_another_model_starts_afresh(own, model, how):
    other = model._replace(fingerprint="f" * 64, name="other")
    with pytest.raises(InputError, match="not by other"):
        ask(own, other, how, "photos/a/1.jpg")
    with pytest.raises(InputError, match="not by other"):
        search.add_images([own / "photos"], own / "index", other, how, shown=False)
    report = search.make_index([own / "photos"], own / "index", other, how, shown=False)
    assert report.extracted == len(NAMES)
    assert len(ask(own, other, how, "photos/a/1.jpg")) == 1


def test_search_uses_the_comparison_that_match_uses(made, model, how):
    a, b = (made / "photos" / name for name in ("a/1.jpg", "a/2.jpg"))
    found = pairs.compare_photos(a, b, model, how)
    (answer,) = ask(made, model, how, "photos/a/1.jpg", top=0)
    result = next(r for r in answer.results if r.image == "a/2.jpg")
    assert result.inliers == found.inliers
    assert result.similarity == pytest.approx(found.similarity, abs=1e-6)


def test_a_model_without_local_features_ranks_by_similarity(made, global_model):
    model = weights.load_model(global_model)
    how = settings.settings_for(model)
    index = made / "global_index"
    search.make_index([made / "photos"], index, model, how, shown=False)
    query = made / "photos" / "b" / "1.jpg"
    (answer,) = search.search(search.open_index(index), [query], model, how)
    similarities = [result.similarity for result in answer.results]
    assert answer.results[0].image == "b/1.jpg"
    assert similarities == sorted(similarities, reverse=True)
    assert {result.inliers for result in answer.results} == {None}


@pytest.fixture(scope="module")
def codebook(made):
    """Visual words of the photos."""
    fit = {"words": 40, "iterations": 2, "shown": False}
    fitting.fit_codebook(made / "index" / "store", made / "codebook", **fit)
    return made / "codebook"


def test_by_a_codebook_photos_are_ranked_by_asmk(own, model, how, codebook):
    options = {"top": 0, "shown": False, "rerank": False}
    (answer,) = ask(own, model, how, "photos/b/1.jpg", codebook=codebook, **options)
    store = search.open_index(own / "index").store
    words = aggregating.load_words(codebook)
    made = [aggregating.aggregate(f, words, "asmk_star", "") for f in store]
    query = made[store.ids.index("b/1.jpg")]
    expected = similarity.asmk_similarities(
        query, similarity.postings_of(made), dimension=16
    )
    order = ranking.top_k(expected)
    assert [r.image for r in answer.results] == [store.ids[row] for row in order]
    found = [r.similarity for r in answer.results]
    assert found == expected[order].tolist()
    assert (answer.results[0].image, found[0]) == ("b/1.jpg", 1)


def test_without_global_descriptors_a_codebook_is_named_once(own, model, how, codebook):
    how = how._replace(global_scales=())
    photos, index = own / "photos", own / "local_index"
    search.make_index([photos], index, model, how, shown=False)
    query = [photos / "a/2.jpg"]

    def ask_local(**kwargs):
        opened = search.open_index(index)
        return list(search.search(opened, query, model, how, shown=False, **kwargs))

    with pytest.raises(InputError, match="no visual words: name a codebook"):
        ask_local()
    fitting.fit_codebook(index / "store", own / "words", words=40, shown=False)
    (first,) = ask_local(codebook=own / "words")
    assert first.results[0].image == "a/2.jpg"
    assert first.results[0].inliers > 10
    draw_photo(photos / "new.jpg", 77)
    search.make_index([photos], index, model, how, shown=False)
    (again,) = ask_local()
    assert {r.image for r in again.results} == {*NAMES, "new.jpg"}
