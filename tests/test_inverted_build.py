import shutil

import numpy as np
import pytest

from delf_jax import (
    aggregating,
    codebooks,
    files,
    inverted_build,
    inverted_file,
    inverted_shards,
    inverted_writer,
    store,
    store_files,
)
from delf_jax.files import InputError
from delf_jax.ops import Features, LocalFeatures
from delf_jax.retrieval import aggregation, similarity
from delf_jax.retrieval.inverted import Rule
from delf_jax.shards import FORMAT, Record

MODEL = {"name": "drawn", "fingerprint": "f" * 64}
WORDS, DIMENSION = 30, 12
IDS = [f"{name}.jpg" for name in "abcdefghijkl"]


def fill_store(out, ids, *, sequence=1, seed=0, dimension=DIMENSION):
    """A store with random local features of these images; the third has none."""
    manifest = {"format": FORMAT, "key": "drawn", "model": MODEL, "settings": {}}
    store_files.begin(out, manifest)
    known = store_files.current_records(store_files.read_shards(out, "drawn"))
    writer = store_files.Writer(out, "drawn", known.values())
    for id in ids:
        rng = np.random.default_rng([seed, *id.encode()])
        count = 0 if id.startswith("c") else int(rng.integers(5, 40))
        shapes = (count, 2), count, (count, dimension), count
        local = LocalFeatures(*(rng.normal(size=s).astype(np.float32) for s in shapes))
        record = Record(id, sequence, "extracted")
        writer.add(record, Features(local, None, (40, 60)))
    writer.flush()
    store_files.finish(out, writer, alone=True)
    return store.open_store(out)


@pytest.fixture
def images(tmp_path):
    return fill_store(tmp_path / "store", IDS)


@pytest.fixture
def words(tmp_path, rng):
    centroids = rng.normal(size=(WORDS, DIMENSION)).astype(np.float32)
    codebooks.save_codebook(tmp_path / "codebook", centroids, {"model": MODEL})
    return aggregating.load_words(tmp_path / "codebook")


def build(images, words, out, **options):
    report = inverted_build.update_inverted_file(
        images, words, out, shown=False, **options
    )
    return report, inverted_file.open_inverted_file(out)


def in_runs(monkeypatch, count=1):
    """Shards of a few images, which are never merged."""
    monkeypatch.setattr(inverted_writer, "RUN_BYTES", count)
    monkeypatch.setattr(inverted_writer, "SMALL_SHARDS", 1000)


def brute_force(images, words, kind, query, **options):
    """By comparing the query with one image after the other, in memory."""
    made = [aggregating.aggregate(each, words, kind, "") for each in images]
    return np.array(
        [
            similarity.asmk_similarity(query, image, dimension=DIMENSION, **options)
            for image in made
        ]
    )


def aggregated_query(index, seed=5):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(60, DIMENSION)).astype(np.float32)
    shapes = (60, 2), 60, 60
    locations, scales, attention = (np.zeros(s, np.float32) for s in shapes)
    local = LocalFeatures(locations, scales, descriptors, attention)
    return inverted_file.aggregate_query(index, Features(local, None, (1, 1)))


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
    options = {k: v for k, v in rule._asdict().items() if k != "idf"}
    expected = brute_force(images, words, "asmk_star", query, **options)
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
    made = [aggregating.aggregate(each, words, kind, "") for each in images]
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
                *one, dimension=DIMENSION, normalize=False
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
    return aggregation.Aggregated(image.visual_words[row], image.residuals[row])


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


@pytest.mark.parametrize("idf", [False, True])
def test_a_grown_file_answers_like_one_built_at_once(words, tmp_path, monkeypatch, idf):
    in_runs(monkeypatch, 300)
    rule, path, out = Rule(idf=idf), tmp_path / "store", tmp_path / "grown"
    images = fill_store(path, IDS[4:])
    build(images, words, out, rule=rule)
    images = fill_store(path, [*IDS[:4], "k.jpg"], sequence=2, seed=9)
    report, _ = build(images, words, out, rule=rule)
    assert (report.extracted, report.unchanged, report.removed) == (5, 7, 0)
    store.remove_from_store(path, ["b.jpg", "f.jpg", "g.jpg"])
    images = store.open_store(path)
    report, grown = build(images, words, out, rule=rule)
    assert (report.extracted, report.unchanged, report.removed) == (0, 9, 3)
    _, at_once = build(images, words, tmp_path / "at_once", rule=rule)
    assert grown.ids == at_once.ids == images.ids
    query = aggregated_query(grown)
    np.testing.assert_array_equal(
        inverted_file.similarities(grown, query),
        inverted_file.similarities(at_once, query),
    )


def test_small_shards_are_merged(images, words, tmp_path, monkeypatch):
    monkeypatch.setattr(inverted_writer, "RUN_BYTES", 1)
    monkeypatch.setattr(inverted_writer, "SMALL_SHARDS", 3)
    monkeypatch.setattr(inverted_writer, "SHARD_BYTES", 700)
    _, index = build(images, words, tmp_path / "out")
    assert 1 < len(index.shards) < 7
    names = {path.stem for path in (tmp_path / "out/shards").iterdir()}
    assert names == {shard.described["name"] for shard in index.shards}
    _, one = build(images, words, tmp_path / "one")
    query = aggregated_query(index)
    np.testing.assert_array_equal(
        inverted_file.similarities(index, query),
        inverted_file.similarities(one, query),
    )


def test_nothing_is_done_twice(images, words, tmp_path):
    build(images, words, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/shards").iterdir()}
    report, _ = build(images, words, tmp_path / "out")
    assert (report.extracted, report.unchanged) == (0, 12)
    assert before == {
        p: p.stat().st_mtime_ns for p in (tmp_path / "out/shards").iterdir()
    }


def test_other_options_make_all_anew(images, words, tmp_path, capsys):
    build(images, words, tmp_path / "out")
    inverted_build.update_inverted_file(images, words, tmp_path / "out", binary=False)
    assert "all is made anew" in capsys.readouterr().out
    index = inverted_file.open_inverted_file(tmp_path / "out")
    assert not index.info["binary"]
    assert len(list((tmp_path / "out/shards").iterdir())) == 2


def test_a_build_that_is_killed_goes_on(images, words, tmp_path, monkeypatch):
    in_runs(monkeypatch)
    aggregate, done = aggregating.aggregate, []

    def until_killed(*args):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(args)
        return aggregate(*args)

    monkeypatch.setattr(aggregating, "aggregate", until_killed)
    with pytest.raises(KeyboardInterrupt):
        build(images, words, tmp_path / "out")
    with pytest.raises(InputError, match="not finished"):
        inverted_file.open_inverted_file(tmp_path / "out")
    monkeypatch.setattr(aggregating, "aggregate", aggregate)
    report, index = build(images, words, tmp_path / "out")
    assert (report.extracted, report.unchanged) == (5, 7)
    assert index.ids == images.ids


def spoil(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[:-8])
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("how", ["truncated", "missing", "corrupt"])
@pytest.mark.parametrize("kind", [inverted_shards.POSTINGS, inverted_shards.TENSORS])
def test_a_damaged_shard_is_named_and_only_its_images_are_made_anew(
    images, words, tmp_path, monkeypatch, how, kind
):
    in_runs(monkeypatch, 500)
    _, index = build(images, words, tmp_path / "out")
    query = aggregated_query(index)
    expected = inverted_file.similarities(index, query)
    broken = next(s for s in index.shards if s.described["postings"])
    path = broken.path.with_suffix(kind)
    spoil(path, how)
    with pytest.raises(InputError, match=rf"{path}: is .*; run `aggregate` again"):
        opened = inverted_file.open_inverted_file(tmp_path / "out")
        last = np.flatnonzero(broken.lists.counts)[-1]
        inverted_file.similarities(
            opened,
            query._replace(visual_words=np.int32([last]), residuals=query[1][:1]),
        )
    report, index = build(images, words, tmp_path / "out")
    assert report.extracted == len(broken.images)
    assert report.damaged == 1
    np.testing.assert_array_equal(inverted_file.similarities(index, query), expected)


def test_a_codebook_of_other_descriptors_is_refused(images, words, tmp_path, rng):
    others = rng.normal(size=(5, DIMENSION + 1)).astype(np.float32)
    codebooks.save_codebook(tmp_path / "wide", others, {"model": MODEL})
    with pytest.raises(InputError, match="of 13 dimensions does not fit descriptors"):
        build(images, aggregating.load_words(tmp_path / "wide"), tmp_path / "out")
    model = {"name": "other", "fingerprint": "e" * 64}
    codebooks.save_codebook(tmp_path / "other", others[:, 1:], {"model": model})
    with pytest.raises(InputError, match="of the model other, not of drawn"):
        build(images, aggregating.load_words(tmp_path / "other"), tmp_path / "out")
    with pytest.raises(InputError, match=r"--assignments=31: .* has 30 words"):
        aggregating.load_words(tmp_path / "codebook", 31)


def test_a_store_without_images_or_words_answers_with_nothing(words, tmp_path):
    images = fill_store(tmp_path / "store", ["c1", "c2"])
    for idf in (False, True):
        _, index = build(images, words, tmp_path / "out", rule=Rule(idf=idf))
        query = aggregated_query(index)
        assert inverted_file.similarities(index, query).tolist() == [0, 0]
        rows, values = inverted_file.search(index, query, 1)
        assert (rows.tolist(), values.tolist()) == ([0], [0])
    store.remove_from_store(tmp_path / "store", ["c1", "c2"])
    _, index = build(store.open_store(tmp_path / "store"), words, tmp_path / "out")
    assert inverted_file.search(index, query, 5)[0].tolist() == []


def test_a_query_without_words_is_like_nothing(images, words, tmp_path):
    _, index = build(images, words, tmp_path / "out")
    query = aggregated_query(index)
    empty = query._replace(visual_words=query[0][:0], residuals=query[1][:0])
    assert not inverted_file.similarities(index, empty).any()


def test_an_index_keeps_its_inverted_file_up_to_date(
    images, words, tmp_path, monkeypatch
):
    def of_index(images, codebook):
        return inverted_build.inverted_file_of_index(
            tmp_path, images, codebook, shown=False
        )

    with pytest.raises(InputError, match="no visual words: name a codebook"):
        of_index(images, None)
    first = of_index(images, tmp_path / "codebook")
    assert first.path == tmp_path / "asmk"
    images = fill_store(tmp_path / "store", ["z.jpg"], sequence=2)
    shutil.rmtree(tmp_path / "codebook")
    assert of_index(images, None).ids == [*IDS, "z.jpg"]
    # Options that it was built with are kept.
    build(images, words, tmp_path / "asmk", binary=False, rule=Rule(alpha=2.0))
    monkeypatch.setattr(inverted_build, "update_inverted_file", None)
    index = of_index(images, None)
    assert (index.info["binary"], index.rule.alpha) == (False, 2.0)


def test_what_is_no_inverted_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no inverted file here"):
        inverted_file.open_inverted_file(tmp_path)
    with pytest.raises(InputError, match="not of an inverted file of format"):
        files.write_json(tmp_path / "inverted.json", {"format": 0})
        inverted_file.open_inverted_file(tmp_path)
