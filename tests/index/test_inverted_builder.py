import shutil

import numpy as np
import pytest

from delf_jax.features import whole_image
from delf_jax.files import InputError
from delf_jax.index import aggregation, inverted_builder, inverted_file
from delf_jax.index.codebook import save_codebook
from delf_jax.retrieval import similarity
from delf_jax.retrieval.inverted import Rule
from delf_jax.store import feature_store
from tests.campaign.contents import contents
from tests.helpers.clusters import in_this_process
from tests.helpers.inverted_files import (
    DIMENSION,
    IDS,
    MODEL,
    aggregated_query,
    build,
    fill_store,
    in_runs,
)


@pytest.mark.parametrize("idf", [False, True])
def test_a_grown_file_answers_like_one_built_at_once(words, tmp_path, monkeypatch, idf):
    in_runs(monkeypatch, 300)
    rule, path, out = Rule(idf=idf), tmp_path / "store", tmp_path / "grown"
    images = fill_store(path, IDS[4:])
    build(images, words, out, rule=rule)
    images = fill_store(path, [*IDS[:4], "k.jpg"], sequence=2, seed=9)
    report, _ = build(images, words, out, rule=rule)
    assert (report.extracted, report.unchanged, report.removed) == (5, 7, 0)
    feature_store.remove_from_store(path, ["b.jpg", "f.jpg", "g.jpg"])
    images = feature_store.open_store(path)
    report, grown = build(images, words, out, rule=rule)
    assert (report.extracted, report.unchanged, report.removed) == (0, 9, 3)
    _, at_once = build(images, words, tmp_path / "at_once", rule=rule)
    assert grown.ids == at_once.ids == images.ids
    query = aggregated_query(grown)
    np.testing.assert_array_equal(
        inverted_file.similarities(grown, query),
        inverted_file.similarities(at_once, query),
    )


def test_nothing_is_done_twice(images, words, tmp_path):
    build(images, words, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/shards").iterdir()}
    report, _ = build(images, words, tmp_path / "out")
    assert (report.extracted, report.unchanged) == (0, 12)
    assert before == {
        p: p.stat().st_mtime_ns for p in (tmp_path / "out/shards").iterdir()
    }


def test_other_options_rebuild_all(images, words, tmp_path, capsys):
    build(images, words, tmp_path / "out")
    inverted_builder.update_inverted_file(images, words, tmp_path / "out", binary=False)
    assert "rebuilding all" in capsys.readouterr().out
    index = inverted_file.open_inverted_file(tmp_path / "out")
    assert not index.info["binary"]
    assert len(list((tmp_path / "out/shards").iterdir())) == 2


def test_a_build_that_is_killed_resumes(images, words, tmp_path, monkeypatch):
    in_runs(monkeypatch)
    aggregate, done = aggregation.aggregate, []

    def until_killed(*args):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(args)
        return aggregate(*args)

    monkeypatch.setattr(aggregation, "aggregate", until_killed)
    with pytest.raises(KeyboardInterrupt):
        build(images, words, tmp_path / "out")
    with pytest.raises(InputError, match="not finished"):
        inverted_file.open_inverted_file(tmp_path / "out")
    monkeypatch.setattr(aggregation, "aggregate", aggregate)
    report, index = build(images, words, tmp_path / "out")
    assert (report.extracted, report.unchanged) == (5, 7)
    assert index.ids == images.ids


def test_a_codebook_of_other_descriptors_is_refused(images, words, tmp_path, rng):
    others = rng.normal(size=(5, DIMENSION + 1)).astype(np.float32)
    save_codebook(tmp_path / "wide", others, {"model": MODEL})
    with pytest.raises(InputError, match="of 13 dimensions does not fit descriptors"):
        build(images, aggregation.load_words(tmp_path / "wide"), tmp_path / "out")
    model = {"name": "other", "fingerprint": "e" * 64}
    save_codebook(tmp_path / "other", others[:, 1:], {"model": model})
    with pytest.raises(InputError, match="of the model other, not of drawn"):
        build(images, aggregation.load_words(tmp_path / "other"), tmp_path / "out")
    with pytest.raises(InputError, match=r"--assignments=31: .* has 30 words"):
        aggregation.load_words(tmp_path / "codebook", 31)


def test_an_index_keeps_its_inverted_file_up_to_date(
    images, words, tmp_path, monkeypatch
):
    def of_index(images, codebook):
        return inverted_builder.inverted_file_of_index(
            tmp_path, images, codebook, progress=False
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
    monkeypatch.setattr(inverted_builder, "update_inverted_file", None)
    index = of_index(images, None)
    assert (index.info["binary"], index.rule.alpha) == (False, 2.0)


def test_an_index_rebuilds_only_a_deleted_shard(images, words, tmp_path, monkeypatch):
    in_runs(monkeypatch, 500)
    given = tmp_path, images, tmp_path / "codebook"
    made = inverted_builder.inverted_file_of_index(*given, progress=False)
    kept, broken = made.shards[0], made.shards[-1]
    broken.path.unlink()
    again = inverted_builder.inverted_file_of_index(
        tmp_path, images, None, progress=False
    )
    names = {shard.entry["name"] for shard in again.shards}
    assert kept.entry["name"] in names
    assert broken.entry["name"] not in names
    query = aggregated_query(again)
    np.testing.assert_array_equal(
        inverted_file.similarities(again, query),
        inverted_file.similarities(made, query),
    )


def test_an_index_with_boxes_is_of_regions_and_without_them_is_not(words, tmp_path):
    def of_index(images):
        codebook = tmp_path / "codebook"
        given = tmp_path, images, codebook
        return inverted_builder.inverted_file_of_index(*given, progress=False)

    plain = of_index(fill_store(tmp_path / "store", IDS))
    with_boxes = fill_store(tmp_path / "boxes", IDS, boxes=True)
    regional = of_index(with_boxes)
    assert plain.info["key"] != regional.info["key"]
    assert (plain.words.regional, regional.words.regional) == (False, True)
    assert (plain.rule.normalize, regional.rule.normalize) == (True, False)
    assert of_index(with_boxes).rule == regional.rule
    # What is not asked to be regional takes the whole images alone.
    _, whole = build(with_boxes, words, tmp_path / "out")
    assert whole.rule.normalize and "regional" not in whole.info
    query = aggregated_query(whole)
    first = aggregation.aggregate(whole_image(with_boxes[0]), words, "asmk_star", "")
    expected = similarity.asmk_similarity(query, first, dimension=DIMENSION)
    assert inverted_file.similarities(whole, query)[0] == expected


def test_small_shards_are_merged(images, words, tmp_path, monkeypatch):
    monkeypatch.setattr(inverted_builder, "RUN_BYTES", 1)
    monkeypatch.setattr(inverted_builder, "SMALL_SHARDS", 3)
    monkeypatch.setattr(inverted_builder, "SHARD_BYTES", 700)
    _, index = build(images, words, tmp_path / "out")
    assert 1 < len(index.shards) < 7
    names = {path.stem for path in (tmp_path / "out/shards").iterdir()}
    assert names == {shard.entry["name"] for shard in index.shards}
    _, one = build(images, words, tmp_path / "one")
    query = aggregated_query(index)
    np.testing.assert_array_equal(
        inverted_file.similarities(index, query),
        inverted_file.similarities(one, query),
    )


@pytest.mark.parametrize("regional", [False, True])
def test_a_cluster_builds_the_file_that_one_process_would(
    words, tmp_path, monkeypatch, regional
):
    images = fill_store(tmp_path / "store", IDS, boxes=regional)
    words = words._replace(regional=regional)
    one, many = tmp_path / "one" / "file", tmp_path / "many" / "file"
    report, _ = build(images, words, one)
    in_this_process(monkeypatch, times=2)
    assert build(images, words, many, ray="")[0] == report
    assert contents(many.parent) == contents(one.parent)
    # Of shares that were done twice nothing is left over.
    entries = inverted_file.read_manifest(many)["shards"]
    files = {p.stem for p in (many / "shards").iterdir()}
    assert files == {entry["name"] for entry in entries} and len(entries) == 8


def test_images_of_a_share_that_fails_are_listed_and_aggregated_later(
    images, words, tmp_path, monkeypatch
):
    in_this_process(monkeypatch, fails=lambda item: item[0] == IDS[3])
    report, _ = build(images, words, tmp_path / "many", ray="")
    lost = len(report.failed)
    assert IDS[3] in report.failed and report.extracted == len(IDS) - lost
    report, _ = build(images, words, tmp_path / "many")
    assert (report.extracted, report.unchanged) == (lost, len(IDS) - lost)
