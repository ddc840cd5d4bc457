import itertools
import json

import numpy as np
import pytest

from delf_jax import files, manifests
from delf_jax.features import features_per_region, whole_image
from delf_jax.files import InputError
from delf_jax.index import aggregation, inverted_builder, inverted_file
from delf_jax.index.codebook import save_codebook
from delf_jax.retrieval import similarity
from delf_jax.retrieval.aggregation import (
    Aggregated,
    aggregate_asmk,
    assign_words,
    binarize,
)
from delf_jax.retrieval.inverted import Rule
from delf_jax.store import feature_store
from tests.helpers.inverted_files import (
    DIMENSION,
    IDS,
    WORDS,
    aggregated_query,
    build,
    draw_words,
    fill_store,
    in_runs,
)
from tests.helpers.stores import add_features, with_descriptors


def brute_force(images, words, kind, query, rule=similarity.ASMK):
    """By comparing the query with one image after the other, in memory."""
    made = [aggregation.aggregate(each, words, kind, "") for each in images]
    return np.array(
        [
            similarity.asmk_similarity(query, image, rule, dimension=DIMENSION)
            for image in made
        ]
    )


@pytest.mark.parametrize("boxes", [False, True])
def test_vlad_is_compared_by_inner_products(words, tmp_path, boxes):
    """Of images whole, or R-VLAD with queries that are plain."""
    images = fill_store(tmp_path / "store", IDS, boxes=boxes)
    index = inverted_builder.inverted_file_of_index(
        tmp_path, images, tmp_path / "codebook", "vlad", progress=False
    )
    assert index.path == tmp_path / "vlad"
    query = aggregated_query(index)
    query.residuals[1::2] *= -1  # Inner products of either sign count.
    dense = np.zeros((WORDS, DIMENSION), np.float32)
    dense[query.visual_words] = query.residuals
    regional = words._replace(regional=boxes)
    vlads = [aggregation.aggregate_vlad(f, regional, True, "") for f in images]
    expected = [similarity.vlad_similarity(dense.ravel(), each) for each in vlads]
    assert min(expected) < -0.001 and np.linalg.norm(dense) == pytest.approx(1)
    found = inverted_file.similarities(index, query)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *itertools.product(("small", "dim12", "dim4"), ("vlad", "float_asmk")),
        ("small", "asmk"),  # Of 12 bits the original counts 16.
    ],
)
def test_an_index_compares_as_the_original(golden, tmp_path, case, kind):
    theirs = {"vlad": "VLAD", "float_asmk": "ASMK", "asmk": "ASMK_STAR"}[kind]
    values = json.loads((golden / "similarity.json").read_text())
    with np.load(golden / "aggregation.npz") as arrays:
        names = {"A": "", "B": "_B", "C": "_C"}
        images = {
            name: with_descriptors(arrays[f"{case}/features{suffix}"])
            for name, suffix in names.items()
        }
        centroids = arrays[f"{case}/codebook"]
    save_codebook(tmp_path / "codebook", centroids, {})
    index = inverted_builder.inverted_file_of_index(
        tmp_path,
        add_features(tmp_path / "store", images),
        tmp_path / "codebook",
        kind,
        progress=False,
    )
    for name, image in images.items():
        query = inverted_file.aggregate_query(index, image)
        found = inverted_file.similarities(index, query)
        for other, value in zip(images, found, strict=True):
            key = f"{case}|{theirs}|l2=True|alpha=3|tau=0|{name}{other}"
            if key in values:
                assert value == pytest.approx(values[key], rel=1e-4, abs=2e-6), key


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shards", [1, 12])
def test_similarities_are_those_of_brute_force(
    images, words, tmp_path, monkeypatch, binary, shards
):
    if shards > 1:
        in_runs(monkeypatch)
    _, index = build(images, words, tmp_path / "out", binary=binary)
    assert len(index.shards) == shards
    query = aggregated_query(index)
    kind = "asmk_star" if binary else "asmk"
    expected = brute_force(images, words, kind, query)
    assert np.count_nonzero(expected) > 5
    np.testing.assert_array_equal(inverted_file.similarities(index, query), expected)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(alpha=2.0, tau=0.2),
        Rule(tau=0.0, strict=False, normalize=False),
        Rule(alpha=0.5, tau=-1.0),
    ],
)
def test_the_rule_of_similarity_is_kept(images, words, tmp_path, rule):
    _, index = build(images, words, tmp_path / "out", rule=rule)
    query = aggregated_query(index)
    expected = brute_force(images, words, "asmk_star", query, rule)
    np.testing.assert_array_equal(inverted_file.similarities(index, query), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_images_are_aggregated_by_region_and_queries_are_not(words, tmp_path, binary):
    images = fill_store(tmp_path / "store", IDS, boxes=True)
    words = words._replace(regional=True)
    _, index = build(images, words, tmp_path / "out", binary=binary)
    assert index.info["regional"] and index.words.regional
    assert not index.rule.normalize
    asked = images[0]
    query = inverted_file.aggregate_query(index, asked)
    centroids, expected = words.codebook.centroids, []

    def made(local, counts):
        nearest = assign_words(local.descriptors, centroids)
        found = aggregate_asmk(
            local.descriptors, nearest, centroids, features_per_region=counts
        )
        return binarize(found) if binary else found

    whole = made(whole_image(asked).local, None)
    np.testing.assert_array_equal(query.visual_words, whole.visual_words)
    np.testing.assert_array_equal(query.residuals, whole.residuals)
    for features in images:
        image = made(features.local, features_per_region(features))
        expected.append(
            similarity.asmk_similarity(
                query, image, Rule(normalize=False), dimension=DIMENSION
            )
        )
    assert np.count_nonzero(expected) > 5
    np.testing.assert_array_equal(inverted_file.similarities(index, query), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_words_are_weighted_by_their_rarity(
    images, words, tmp_path, monkeypatch, binary
):
    in_runs(monkeypatch, 500)
    kind = "asmk_star" if binary else "asmk"
    _, index = build(
        images, words, tmp_path / "out", binary=binary, rule=Rule(idf=True)
    )
    assert len(index.shards) > 1
    query = aggregated_query(index)
    made = [aggregation.aggregate(each, words, kind, "") for each in images]
    having = np.bincount(
        np.concatenate([m.visual_words for m in made]), minlength=WORDS
    )
    idf = {w: np.log(len(images) / n) for w, n in enumerate(having) if n}
    expected = []
    for image in made:
        total = 0.0
        for word in np.intersect1d(query.visual_words, image.visual_words):
            one = _only(query, word), _only(image, word)
            total += idf[word] ** 2 * similarity.asmk_similarity(
                *one, Rule(normalize=False), dimension=DIMENSION
            )
        norms = [
            sum(idf.get(w, 0) ** 2 for w in side.visual_words.tolist())
            for side in (query, image)
        ]
        expected.append(total / np.sqrt(np.prod(norms)) if total else 0.0)
    found = inverted_file.similarities(index, query)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def _only(image, word):
    row = np.flatnonzero(image.visual_words == word)
    return Aggregated(image.visual_words[row], image.residuals[row])


def test_the_first_are_those_of_a_full_sort_and_ties_go_by_id(
    images, words, tmp_path, monkeypatch
):
    in_runs(monkeypatch, 400)
    _, index = build(images, words, tmp_path / "out", rule=Rule(tau=0.9))
    query = aggregated_query(index)
    every = inverted_file.similarities(index, query)
    assert len(np.unique(every)) < len(IDS)
    order = np.argsort(-every, kind="stable")
    for k in range(1, len(IDS) + 2):
        rows, values = inverted_file.search(index, query, k)
        np.testing.assert_array_equal(rows, order[:k])
        np.testing.assert_array_equal(values, every[order[:k]])
    assert index.ids == images.ids


def test_a_store_without_images_or_words_answers_with_nothing(words, tmp_path):
    images = fill_store(tmp_path / "store", ["c1", "c2"])
    for idf in (False, True):
        _, index = build(images, words, tmp_path / "out", rule=Rule(idf=idf))
        query = aggregated_query(index)
        assert inverted_file.similarities(index, query).tolist() == [0, 0]
        rows, values = inverted_file.search(index, query, 1)
        assert (rows.tolist(), values.tolist()) == ([0], [0])
    feature_store.remove_from_store(tmp_path / "store", ["c1", "c2"])
    _, index = build(
        feature_store.open_store(tmp_path / "store"), words, tmp_path / "out"
    )
    assert inverted_file.search(index, query, 5)[0].tolist() == []


def test_a_query_without_words_is_like_nothing(images, words, tmp_path):
    _, index = build(images, words, tmp_path / "out")
    query = aggregated_query(index)
    empty = query._replace(visual_words=query[0][:0], residuals=query[1][:0])
    assert not inverted_file.similarities(index, empty).any()


def test_what_is_not_an_inverted_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no inverted file here"):
        inverted_file.open_inverted_file(tmp_path)
    with pytest.raises(InputError, match="field 'format': expected 1, got 0"):
        files.write_json(tmp_path / "inverted.json", {"format": 0})
        inverted_file.open_inverted_file(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"words": "30"},
        {"words": 10**15},
        {"dimension": 2**62},
        {"assignments": 0},
        {"shards": None},
        {"shards": [{}]},
        {"rule": 3},
        {"rule": {"alpha": 3.0}},
        {"norms": "x"},
    ],
)
def test_a_damaged_manifest_is_named(images, words, tmp_path, change):
    build(images, words, tmp_path / "out")
    path = tmp_path / "out" / "inverted.json"
    files.write_json(path, files.read_json(path) | change)
    with pytest.raises(InputError, match=r"inverted\.json: .* checksum differs"):
        inverted_file.open_inverted_file(tmp_path / "out")
    manifests.write_manifest(path, files.read_json(path))
    with pytest.raises(InputError, match="field|not the codebook"):
        inverted_file.open_inverted_file(tmp_path / "out")
    path.unlink()
    report, _ = build(images, words, tmp_path / "out")
    assert report.extracted == len(IDS)


def test_another_codebook_in_its_place_is_noticed(images, words, tmp_path):
    build(images, words, tmp_path / "out")
    draw_words(tmp_path / "out" / "codebook", seed=1)
    with pytest.raises(InputError, match="not the codebook of this inverted file"):
        inverted_file.open_inverted_file(tmp_path / "out")
    build(images, words, tmp_path / "out")
