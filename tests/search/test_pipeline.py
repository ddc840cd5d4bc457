import numpy as np
import pytest

from delf_jax.evaluation import ranking
from delf_jax.files import InputError
from delf_jax.images import SizeBounds
from delf_jax.index import neighbour_graph
from delf_jax.retrieval import reranking
from delf_jax.retrieval.ranking import NOISE, rerank, top_k
from delf_jax.retrieval.verification import VERIFICATION
from delf_jax.search import matching, pipeline
from delf_jax.search.steps import STEPS
from tests.helpers.ranked_photos import (
    Store,
    make_features,
    make_inputs,
    protocol,
    rank_one,
    verify_as,
)


@pytest.fixture(autouse=True)
def graph(tmp_path, monkeypatch):
    """Where the graph of the store below is kept."""
    path = tmp_path / "neighbours.npz"
    monkeypatch.setattr(neighbour_graph, "graph_path", lambda store: path)
    return path


def test_pipelines_are_steps_joined_by_plus():
    found = pipeline.parse_pipelines(
        "global, alpha_qe+verification,global+superglobal,global"
    )
    assert found == [("global",), ("alpha_qe", "verification"), ("superglobal",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "expected steps of global, asmk, .*, average_qe, .*; got 'magic'"),
        ("", "got ''"),
        ("verification+alpha_qe", "verification last"),
        ("alpha_qe+global", "global, asmk, float_asmk, vlad come first"),
        ("asmk+vlad", "global, asmk, float_asmk, vlad come first"),
    ],
)
def test_other_pipelines_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        pipeline.parse_pipelines(text)


def test_an_option_may_allow_one_pipeline_of_some_steps():
    allowed = ("global", "verification")
    found = pipeline.parse_pipeline("global+verification", "--with", allowed)
    assert found == ("verification",)
    with pytest.raises(InputError, match="^--with: expected steps of global, verif"):
        pipeline.parse_pipeline("asmk", "--with", allowed)
    with pytest.raises(InputError, match="^--with=.*: expected one pipeline"):
        pipeline.parse_pipeline("global,verification", "--with", allowed)


def test_global_ranks_by_similarity_in_the_order_of_the_dataset(rng):
    inputs, rows = make_inputs(rng)
    expected = np.argsort(-rows.similarities, axis=1)
    np.testing.assert_array_equal(rank_one(inputs, ("global",)), expected)


def test_descriptors_read_in_chunks_rank_as_when_read_at_once(rng, monkeypatch):
    inputs, _ = make_inputs(rng)
    whole = [rank_one(inputs, steps) for steps in (("global",), ("alpha_qe",))]
    monkeypatch.setattr(pipeline, "_CHUNK", 5)
    chunks = [rank_one(inputs, steps) for steps in (("global",), ("alpha_qe",))]
    np.testing.assert_array_equal(chunks, whole)


def test_a_query_that_is_no_answer_to_itself_comes_last(rng):
    inputs, _ = make_inputs(rng, own=[3, -1])
    for step in ("global", *STEPS):
        ranked = rank_one(inputs, (step,))
        assert ranked[0, -1] == 3
        assert [sorted(row) for row in ranked.tolist()] == [list(range(12))] * 2


def test_junk_gives_way_before_the_candidates_are_chosen(rng, monkeypatch):
    inputs, rows = make_inputs(rng, queries=1)
    three = VERIFICATION["default"]._replace(candidates=3)
    inliers = rng.permutation(12) * 10
    verify_as(monkeypatch, inliers)
    order = np.argsort(-rows.similarities[0])
    junk = order[[0, 2]]
    found = rank_one(inputs, ("verification",), junk=(junk,), verification=three)[0]
    candidates = order[[1, 3, 4]].astype(np.int32)
    similarities = rows.similarities[0][candidates]
    best = rerank(candidates, similarities, inliers[candidates])
    expected = [*best, *(place for place in order if place not in candidates)]
    np.testing.assert_array_equal(found, expected)


def test_each_pair_is_verified_once_for_all_pipelines_and_protocols(rng, monkeypatch):
    inputs, rows = make_inputs(rng)
    four = VERIFICATION["default"]._replace(candidates=4)
    pairs = verify_as(monkeypatch, np.arange(12))
    best = np.argsort(-rows.similarities, axis=1)
    protocols = {"medium": protocol(), "hard": protocol(best[:, :2])}
    pipelines = [("verification",), ("alpha_qe", "verification"), ("global",)]
    ranking.rank(inputs, pipelines, protocols, verification=four, progress=False)
    assert len(pairs) == len(set(pairs))
    for query, row in zip(rows.queries, best, strict=True):
        assert {(query.tobytes(), place) for place in row[:6]} <= set(pairs)


def test_photos_without_local_features_have_no_inliers(rng):
    inputs, _ = make_inputs(rng)
    ids = [np.int32([0, 5]), np.int32([])]
    found = matching.verify(inputs.queries, ids, inputs.image, SizeBounds(100))
    assert [{id: each.inliers for id, each in of.items()} for of in found] == [
        {0: 0, 5: 0},
        {},
    ]
    found = rank_one(inputs, ("verification",))
    np.testing.assert_array_equal(found, rank_one(inputs, ("global",)))


def test_queries_without_candidates_need_no_local_features(rng):
    inputs, _ = make_inputs(rng)
    queries = [query._replace(local=None) for query in inputs.queries]
    nothing = [np.zeros(0, np.int32) for _ in queries]
    assert list(matching.verify(queries, nothing, inputs.image, SizeBounds(100))) == [
        {},
        {},
    ]
    found = rank_one(inputs._replace(queries=queries), ("global",))
    np.testing.assert_array_equal(found, rank_one(inputs, ("global",)))


def test_pipelines_may_start_from_aggregated_descriptors(rng):
    inputs, rows = make_inputs(rng, own=[3, -1])
    asmk, vlad = rng.random((2, 2, 12))
    before = asmk.copy()
    inputs = inputs._replace(aggregated={"vlad": vlad, "asmk": asmk})
    expected = asmk.copy()
    expected[0, 3] = -np.inf
    np.testing.assert_array_equal(rank_one(inputs, ("vlad",))[1], np.argsort(-vlad[1]))
    found = rank_one(inputs, ("asmk",))
    np.testing.assert_array_equal(found, np.argsort(-expected, axis=1))
    np.testing.assert_array_equal(asmk, before)
    # What follows expands the global descriptors by those that ASMK found.
    best = top_k(expected, 3)
    expanded = reranking.expand_queries(rows.queries, rows.images, best, alpha=0.0)
    expected = np.argsort(-(expanded @ rows.images.T)[1])
    found = rank_one(inputs, ("asmk", "average_qe"))[1]
    np.testing.assert_array_equal(found, expected)


def test_asmk_alone_takes_no_global_descriptors(rng):
    inputs, _ = make_inputs(rng)
    eye = {"asmk": np.eye(2, 12)}
    expected = rank_one(inputs._replace(aggregated=eye), ("asmk",))
    queries = [make_features(None) for _ in inputs.queries]
    store = Store([None] * 12)
    inputs = inputs._replace(aggregated=eye, queries=queries, store=store)
    np.testing.assert_array_equal(rank_one(inputs, ("asmk",)), expected)
    assert not pipeline.needs_global(("asmk", "verification"))
    assert not pipeline.needs_global(("vlad",))
    assert pipeline.needs_global(("asmk", "diffusion"))
    assert pipeline.needs_global(("verification",))


def naive_order(values, ids):
    """By descending value; equals as given."""
    return [ids[k] for k in sorted(range(len(ids)), key=lambda k: -values[ids[k]])]


@pytest.mark.parametrize("step", ["global", *STEPS])
def test_reranking_permutes_the_candidates_and_sees_no_others(rng, step):
    inputs, rows = make_inputs(rng)
    candidates = [np.int32([7, 2, 9, 4]), np.int32([5]), np.int32([])][:2]
    found = pipeline.rerank(inputs, (step,), candidates, progress=False)
    for ids, given in zip(found, candidates, strict=True):
        assert sorted(ids.tolist()) == sorted(given.tolist())
    # Whatever the others look like, unless a step learns from all of the photos.
    if step not in ("augmentation", "diffusion"):
        others = np.setdiff1d(np.arange(12), candidates[0])
        rows = inputs.store.global_descriptors
        rows[inputs.rows[others]] = -rows[inputs.rows[others]]
        again = pipeline.rerank(inputs, (step,), candidates, progress=False)
        np.testing.assert_array_equal(again[0], found[0])


@pytest.mark.parametrize("step", ["global", *STEPS])
def test_all_photos_as_candidates_are_ranked_as_by_rank(rng, step):
    inputs, _ = make_inputs(rng)
    everything = [np.arange(12, dtype=np.int32)] * 2
    found = pipeline.rerank(inputs, (step,), everything, progress=False)
    np.testing.assert_array_equal(np.stack(found), rank_one(inputs, (step,)))


def test_no_candidates_are_no_error(rng):
    inputs, _ = make_inputs(rng)
    none = [np.zeros(0, np.int32)] * 2
    for steps in (("global",), *((step,) for step in STEPS), ("verification",)):
        found = pipeline.rerank(inputs, steps, none, progress=False)
        assert [len(ids) for ids in found] == [0, 0]


def test_blocks_of_queries_rerank_as_all_together(rng, monkeypatch):
    inputs, _ = make_inputs(rng, queries=5)
    candidates = [rng.permutation(12)[:6].astype(np.int32) for _ in range(5)]
    whole = pipeline.rerank(inputs, ("alpha_qe",), candidates, progress=False)
    monkeypatch.setattr(pipeline, "_BLOCK", 24)
    blocks = pipeline.rerank(inputs, ("alpha_qe",), candidates, progress=False)
    np.testing.assert_array_equal(blocks, whole)


@pytest.mark.parametrize("weight", [2.0, np.inf])
def test_verification_of_candidates_looks_at_the_first_given(rng, monkeypatch, weight):
    inputs, rows = make_inputs(rng, queries=1)
    inliers = np.array([0, 0, 9, 0, 40, 0, 0, 9, 0, 0, 99, 0])
    pairs = verify_as(monkeypatch, inliers)
    given = np.int32([7, 2, 9, 4, 10])
    four = VERIFICATION["default"]._replace(candidates=4, weight=weight)
    (found,) = pipeline.rerank(
        inputs, ("verification",), [given], verification=four, progress=False
    )
    assert [place for _, place in pairs] == [7, 2, 9, 4]
    if np.isinf(weight):
        expected = [4, 7, 2, 9]  # by inliers; 7 and 2 have as many: as given.
    else:
        evidence = 2 * np.log2(1 + inliers / NOISE)
        expected = naive_order(rows.similarities[0] + evidence, [7, 2, 9, 4])
    assert found.tolist() == [*expected, 10]


def test_candidates_without_global_descriptors_are_verified_alone(rng, monkeypatch):
    inputs, _ = make_inputs(rng, queries=1)
    inliers = np.zeros(12, int)
    inliers[[8, 1, 5]] = 3, 20, 3
    verify_as(monkeypatch, inliers)
    bare = inputs._replace(queries=[inputs.queries[0]._replace(global_descriptor=None)])
    given = [np.int32([8, 1, 5])]
    (found,) = pipeline.rerank(bare, ("verification",), given, progress=False)
    assert found.tolist() == [1, 8, 5]
    with pytest.raises(InputError, match="superglobal needs global descriptors"):
        pipeline.rerank(bare, ("superglobal",), given, progress=False)
