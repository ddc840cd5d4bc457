import json
import shutil

import numpy as np
import pytest

from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.files import InputError
from delf_jax.index import aggregation, fit_codebook, global_index, photo_index
from delf_jax.retrieval import ranking, similarity
from delf_jax.search import matching
from delf_jax.search import query as search
from tests.helpers.indexed_photos import (
    NAMES,
    ask,
    draw_photo,
)
from tests.helpers.ranked_photos import verify_as


def test_a_photo_finds_itself_first(indexed, model, settings):
    for name in NAMES:
        (answer,) = ask(indexed, model, settings, f"photos/{name}")
        assert answer.results[0].image == name
        assert answer.results[0].similarity == pytest.approx(1, abs=1e-5)
        assert answer.results[0].inliers > 10


def test_zero_ranks_all_and_top_cuts(indexed, model, settings):
    (everything,) = ask(indexed, model, settings, "photos/a/1.jpg", top=0)
    assert sorted(r.image for r in everything.results) == sorted(NAMES)
    (two,) = ask(indexed, model, settings, "photos/a/1.jpg", top=2)
    assert [r.image for r in two.results] == [r.image for r in everything.results[:2]]


def test_without_reranking_similarity_decides_and_nothing_is_verified(
    indexed, model, settings
):
    (answer,) = ask(indexed, model, settings, "photos/b/1.jpg", top=0, rerank=False)
    similarities = [r.similarity for r in answer.results]
    assert similarities == sorted(similarities, reverse=True)
    assert {r.inliers for r in answer.results} == {None}


def test_the_ranking_is_that_of_rerank_on_the_best_candidates(
    indexed, model, settings, monkeypatch
):
    images = photo_index.open_index(indexed / "index").store
    by_name = {"a/1.jpg": 3, "a/2.jpg": 40, "b/1.jpg": 0, "b/c/3.png": 90}
    inliers = [by_name[id] for id in images.ids]
    verify_as(monkeypatch, inliers)
    monkeypatch.setattr(search, "CANDIDATES", 3)
    query = images[images.row("a/1.jpg")]
    similarities, rows = first_stage(images, query)
    found = search.rank(images, query, rows, similarities, settings)
    expected = ranking.rerank(
        rows[:3],
        similarities[:3],
        np.int32([inliers[row] for row in rows[:3]]),
    )
    assert [r.image for r in found[:3]] == [images.ids[row] for row in expected]
    assert found[3].image == images.ids[rows[3]] and found[3].inliers is None


def first_stage(images, query, k=4):
    descriptors, _ = global_index.open_descriptors(images)
    return (each[0] for each in search.find_first(descriptors, [query], k))


def test_the_query_itself_is_verified_and_costs_no_candidate_its_place(
    indexed, model, settings, monkeypatch
):
    monkeypatch.setattr(search, "CANDIDATES", 2)
    images = photo_index.open_index(indexed / "index").store
    own = images.row("b/1.jpg")
    query = images[own]
    similarities, rows = first_stage(images, query)
    arguments = (images, query, rows, similarities, settings)
    counts = [
        sum(result.inliers is not None for result in search.rank(*arguments, own=row))
        for row in (-1, own)
    ]
    assert counts == [2, 3]
    (answer,) = ask(indexed, model, settings, "photos/b/1.jpg", top=0)
    assert sum(result.inliers is not None for result in answer.results) == 3
    # A copy elsewhere is another photo, although it looks the same.
    copy = indexed / "copy.jpg"
    shutil.copy(indexed / "photos/b/1.jpg", copy)
    (answer,) = ask(indexed, model, settings, "copy.jpg", top=0)
    assert sum(result.inliers is not None for result in answer.results) == 2


def test_the_first_stage_is_exact_and_finds_no_more_than_asked(
    indexed, model, settings
):
    images = photo_index.open_index(indexed / "index").store
    query = images[2]
    similarities, rows = first_stage(images, query, 3)
    expected = images.global_descriptors @ query.global_descriptor
    np.testing.assert_array_equal(rows, ranking.top_k(expected, 3))
    np.testing.assert_allclose(similarities, expected[rows], atol=1e-6)
    (answer,) = ask(indexed, model, settings, "photos/a/1.jpg", top=1)
    assert len(answer.results) == 1


def test_queries_are_searched_for_together_in_a_large_index(
    indexed, model, settings, monkeypatch
):
    names = ["photos/a/1.jpg", "photos/none.jpg", "photos/b/1.jpg", "photos/a/2.jpg"]
    sizes = []
    find = search.find_first
    monkeypatch.setattr(
        search,
        "find_first",
        lambda index, queries, k: sizes.append(len(queries)) or find(index, queries, k),
    )
    alone = ask(indexed, model, settings, *names)
    assert sizes == [1, 0, 1, 1]
    monkeypatch.setattr(search, "_PHOTOS_PER_QUERY", 2)
    together = ask(indexed, model, settings, *names)
    assert sizes[4:] == [2, 1]
    assert isinstance(together[1], InputError)
    for each in (alone, together):
        del each[1]
    assert search.to_json(together) == search.to_json(alone)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_reduced_precision_answers_with_the_similarities_of_float32(
    copied, model, settings, precision
):
    index = photo_index.open_index(copied / "index")
    descriptors, _ = global_index.open_descriptors(
        index.store, precision, progress=False
    )
    reduced = ask(
        copied, model, settings, "photos/a/1.jpg", top=0, descriptors=descriptors
    )
    assert search.to_json(reduced) == search.to_json(
        ask(copied, model, settings, "photos/a/1.jpg", top=0)
    )


def test_lines_lie_within_both_photos(indexed, model, settings):
    (answer,) = ask(indexed, model, settings, "photos/a/1.jpg")
    lines = answer.results[0].lines
    assert len(lines) == answer.results[0].inliers
    assert (lines >= 0).all() and (lines <= 1).all()
    np.testing.assert_allclose(lines[:, :2], lines[:, 2:], atol=1e-6)


def test_the_answer_is_the_same_alone_and_among_others(indexed, model, settings):
    (alone,) = ask(indexed, model, settings, "photos/b/1.jpg")
    others = ask(
        indexed, model, settings, "photos/a/2.jpg", "photos/b/1.jpg", "photos/a/1.jpg"
    )
    assert search.to_json([others[1]]) == search.to_json([alone])


def test_json_has_the_promised_form(indexed, model, settings):
    answers = ask(indexed, model, settings, "photos/a/1.jpg", top=1)
    described = json.loads(json.dumps(search.to_json(answers)))
    (query,) = described["queries"]
    assert set(query) == {"image", "confident", "inliers_by_chance", "results"}
    assert query["image"] == str(indexed / "photos/a/1.jpg")
    (result,) = query["results"]
    assert set(result) == {"image", "similarity", "inliers", "confident"}
    assert result["image"] == "a/1.jpg"


def test_an_index_that_is_empty_answers_with_nothing(copied, model, settings):
    photo_index.remove_images(copied / "index", list(NAMES))
    (answer,) = ask(copied, model, settings, "photos/a/1.jpg")
    assert answer.results == []


def test_other_settings_are_refused(indexed, model, settings):
    with pytest.raises(InputError, match="settings"):
        ask(indexed, model, settings._replace(max_features=20), "photos/a/1.jpg")


def test_search_uses_the_comparison_that_match_uses(indexed, model, settings):
    a, b = (indexed / "photos" / name for name in ("a/1.jpg", "a/2.jpg"))
    found = matching.compare_photos(a, b, model, settings)
    (answer,) = ask(indexed, model, settings, "photos/a/1.jpg", top=0)
    result = next(r for r in answer.results if r.image == "a/2.jpg")
    assert result.inliers == found.inliers
    assert result.similarity == pytest.approx(found.similarity, abs=1e-6)


def test_a_model_without_local_features_ranks_by_similarity(indexed, global_model):
    model = model_folder.load_model(global_model)
    settings = settings_for(model)
    index = indexed / "global_index"
    photo_index.make_index([indexed / "photos"], index, model, settings, progress=False)
    query = indexed / "photos" / "b" / "1.jpg"
    (answer,) = search.search(photo_index.open_index(index), [query], model, settings)
    similarities = [result.similarity for result in answer.results]
    assert answer.results[0].image == "b/1.jpg"
    assert similarities == sorted(similarities, reverse=True)
    assert {result.inliers for result in answer.results} == {None}


@pytest.fixture(scope="module")
def codebook(indexed):
    """Visual words of the photos."""
    fit = {"words": 40, "iterations": 2, "progress": False}
    fit_codebook.fit_codebook(indexed / "index" / "store", indexed / "codebook", **fit)
    return indexed / "codebook"


def test_by_a_codebook_photos_are_ranked_by_asmk(copied, model, settings, codebook):
    options = {"top": 0, "progress": False, "rerank": False}
    (answer,) = ask(
        copied, model, settings, "photos/b/1.jpg", codebook=codebook, **options
    )
    store = photo_index.open_index(copied / "index").store
    words = aggregation.load_words(codebook)
    images = [aggregation.aggregate(f, words, "asmk_star", "") for f in store]
    query = images[store.ids.index("b/1.jpg")]
    expected = similarity.asmk_similarities(
        query, similarity.postings_of(images), dimension=16
    )
    order = ranking.top_k(expected)
    assert [r.image for r in answer.results] == [store.ids[row] for row in order]
    found = [r.similarity for r in answer.results]
    assert found == expected[order].tolist()
    assert (answer.results[0].image, found[0]) == ("b/1.jpg", 1)


@pytest.mark.parametrize("kind", ["float_asmk", "vlad"])
def test_photos_are_ranked_by_other_aggregated_descriptors(
    copied, model, settings, codebook, kind
):
    options = {"top": 0, "progress": False, "rerank": False, "aggregation": kind}
    words = {"codebook": codebook}
    (answer,) = ask(copied, model, settings, "photos/b/1.jpg", **words, **options)
    store = photo_index.open_index(copied / "index").store
    words = aggregation.load_words(codebook)
    if kind == "vlad":
        images = [aggregation.aggregate_vlad(f, words, True, "") for f in store]
        compare = similarity.vlad_similarity
    else:
        images = [aggregation.aggregate(f, words, "asmk", "") for f in store]
        compare = similarity.asmk_similarity
    query = images[store.ids.index("b/1.jpg")]
    expected = np.array([compare(query, image) for image in images])
    order = ranking.top_k(expected)
    assert [r.image for r in answer.results] == [store.ids[row] for row in order]
    found = [r.similarity for r in answer.results]
    np.testing.assert_allclose(found, expected[order], atol=1e-6)
    # The index has its words; those of ASMK* are others.
    (again,) = ask(copied, model, settings, "photos/b/1.jpg", **options)
    assert [(r.image, r.similarity) for r in again.results] == [
        (r.image, r.similarity) for r in answer.results
    ]
    with pytest.raises(InputError, match="name a codebook"):
        options["aggregation"] = "asmk"
        ask(copied, model, settings, "photos/b/1.jpg", **options)


def test_without_global_descriptors_a_codebook_is_named_once(
    copied, model, settings, codebook
):
    settings = settings._replace(global_scales=())
    photos, index = copied / "photos", copied / "local_index"
    photo_index.make_index([photos], index, model, settings, progress=False)
    query = [photos / "a/2.jpg"]

    def ask_local(**kwargs):
        opened = photo_index.open_index(index)
        return list(
            search.search(opened, query, model, settings, progress=False, **kwargs)
        )

    with pytest.raises(InputError, match="no visual words: name a codebook"):
        ask_local()
    fit_codebook.fit_codebook(
        index / "store", copied / "words", words=40, progress=False
    )
    (first,) = ask_local(codebook=copied / "words")
    assert first.results[0].image == "a/2.jpg"
    assert first.results[0].inliers > 10
    draw_photo(photos / "new.jpg", 77)
    photo_index.make_index([photos], index, model, settings, progress=False)
    (again,) = ask_local()
    assert {r.image for r in again.results} == {*NAMES, "new.jpg"}
