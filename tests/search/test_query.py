import json
import shutil

import numpy as np
import pytest

from delf_jax.extraction import model_folder, settings
from delf_jax.files import InputError
from delf_jax.index import aggregation, fit_codebook, global_index, photo_index
from delf_jax.retrieval import ranking, similarity
from delf_jax.search import matching
from delf_jax.search import query as search
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
    images = photo_index.open_index(made / "index").store
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
    descriptors, _ = global_index.open_descriptors(images)
    return (each[0] for each in search.find_first(descriptors, [query], k))


def test_the_query_itself_is_verified_and_costs_no_candidate_its_place(
    made, model, how, monkeypatch
):
    monkeypatch.setattr(search, "CANDIDATES", 2)
    images = photo_index.open_index(made / "index").store
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
    images = photo_index.open_index(made / "index").store
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
    assert search.to_json(together) == search.to_json(alone)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_reduced_precision_answers_with_the_similarities_of_float32(
    own, model, how, precision
):
    index = photo_index.open_index(own / "index")
    descriptors, _ = global_index.open_descriptors(
        index.store, precision, progress=False
    )
    reduced = ask(own, model, how, "photos/a/1.jpg", top=0, descriptors=descriptors)
    assert search.to_json(reduced) == search.to_json(
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
    assert search.to_json([others[1]]) == search.to_json([alone])


def test_json_has_the_promised_form(made, model, how):
    answers = ask(made, model, how, "photos/a/1.jpg", top=1)
    described = json.loads(json.dumps(search.to_json(answers)))
    (query,) = described["queries"]
    assert set(query) == {"image", "results"}
    assert query["image"] == str(made / "photos/a/1.jpg")
    (result,) = query["results"]
    assert set(result) == {"image", "similarity", "inliers"}
    assert result["image"] == "a/1.jpg"


def test_an_index_that_is_empty_answers_with_nothing(own, model, how):
    photo_index.remove_images(own / "index", list(NAMES))
    (answer,) = ask(own, model, how, "photos/a/1.jpg")
    assert answer.results == []


def test_other_settings_are_refused(made, model, how):
    with pytest.raises(InputError, match="settings"):
        ask(made, model, how._replace(max_features=20), "photos/a/1.jpg")


def test_search_uses_the_comparison_that_match_uses(made, model, how):
    a, b = (made / "photos" / name for name in ("a/1.jpg", "a/2.jpg"))
    found = matching.compare_photos(a, b, model, how)
    (answer,) = ask(made, model, how, "photos/a/1.jpg", top=0)
    result = next(r for r in answer.results if r.image == "a/2.jpg")
    assert result.inliers == found.inliers
    assert result.similarity == pytest.approx(found.similarity, abs=1e-6)


def test_a_model_without_local_features_ranks_by_similarity(made, global_model):
    model = model_folder.load_model(global_model)
    how = settings.settings_for(model)
    index = made / "global_index"
    photo_index.make_index([made / "photos"], index, model, how, progress=False)
    query = made / "photos" / "b" / "1.jpg"
    (answer,) = search.search(photo_index.open_index(index), [query], model, how)
    similarities = [result.similarity for result in answer.results]
    assert answer.results[0].image == "b/1.jpg"
    assert similarities == sorted(similarities, reverse=True)
    assert {result.inliers for result in answer.results} == {None}


@pytest.fixture(scope="module")
def codebook(made):
    """Visual words of the photos."""
    fit = {"words": 40, "iterations": 2, "progress": False}
    fit_codebook.fit_codebook(made / "index" / "store", made / "codebook", **fit)
    return made / "codebook"


def test_by_a_codebook_photos_are_ranked_by_asmk(own, model, how, codebook):
    options = {"top": 0, "progress": False, "rerank": False}
    (answer,) = ask(own, model, how, "photos/b/1.jpg", codebook=codebook, **options)
    store = photo_index.open_index(own / "index").store
    words = aggregation.load_words(codebook)
    made = [aggregation.aggregate(f, words, "asmk_star", "") for f in store]
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
    photo_index.make_index([photos], index, model, how, progress=False)
    query = [photos / "a/2.jpg"]

    def ask_local(**kwargs):
        opened = photo_index.open_index(index)
        return list(search.search(opened, query, model, how, progress=False, **kwargs))

    with pytest.raises(InputError, match="no visual words: name a codebook"):
        ask_local()
    fit_codebook.fit_codebook(index / "store", own / "words", words=40, progress=False)
    (first,) = ask_local(codebook=own / "words")
    assert first.results[0].image == "a/2.jpg"
    assert first.results[0].inliers > 10
    draw_photo(photos / "new.jpg", 77)
    photo_index.make_index([photos], index, model, how, progress=False)
    (again,) = ask_local()
    assert {r.image for r in again.results} == {*NAMES, "new.jpg"}
