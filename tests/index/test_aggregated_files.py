import json

import numpy as np
import pytest

from delf_jax.features import features_per_region, whole_image
from delf_jax.files import InputError
from delf_jax.formats.delf import datum
from delf_jax.index import aggregated_files, aggregation, codebook
from delf_jax.retrieval import similarity
from delf_jax.retrieval.aggregation import (
    aggregate_asmk,
    aggregate_vlad,
    assign_words,
    binarize,
)
from tests.helpers.clusters import in_this_process
from tests.helpers.inverted_files import DIMENSION, IDS, WORDS, fill_store
from tests.helpers.stores import add_features, with_descriptors


@pytest.fixture
def images(tmp_path):
    return fill_store(tmp_path / "store", ["deep/a.b.jpg", *IDS[1:5]])


def write(images, words, out, kind, **options):
    return aggregated_files.write_aggregated(
        images, words, out, kind, progress=False, **options
    )


@pytest.mark.parametrize("kind", ["asmk", "asmk_star"])
def test_a_file_holds_residuals_and_visual_words(images, words, tmp_path, kind):
    report = write(images, words, tmp_path / "out", kind)
    assert (report.extracted, report.unchanged) == (5, 0)
    for id, features in zip(images.ids, images, strict=True):
        name = id.removesuffix(".jpg")
        found = datum.read_datum_pair(tmp_path / "out" / f"{name}.{kind}")
        expected = aggregation.aggregate(features, words, kind, "")
        np.testing.assert_array_equal(found[0], expected.residuals.reshape(-1))
        np.testing.assert_array_equal(found[1], expected.visual_words)
        assert found[0].dtype == (np.float32 if kind == "asmk" else np.uint32)
        assert found[1].dtype == np.uint32


@pytest.mark.parametrize("normalize", [True, False])
def test_a_file_of_vlad_holds_one_array(images, words, tmp_path, normalize):
    write(images, words, tmp_path, "vlad", normalize=normalize)
    found = datum.read_datum(tmp_path / "deep" / "a.b.vlad")
    assert found.shape == (WORDS * DIMENSION,)
    unit = np.linalg.norm(found) == pytest.approx(1)
    assert unit == normalize
    assert not datum.read_datum(tmp_path / "c.vlad").any()


@pytest.mark.parametrize("regional", [True, False])
def test_features_of_boxes_are_regions_or_left_out(words, tmp_path, regional):
    images = fill_store(tmp_path / "store", IDS[:5], boxes=True)
    words, r = words._replace(regional=regional), "r" * regional
    for kind in ("vlad", "asmk", "asmk_star"):
        write(images, words, tmp_path / "out", kind)
    for id, features in zip(images.ids, images, strict=True):
        counts = features_per_region(features) if regional else None
        local = features.local if regional else whole_image(features).local
        centroids = words.codebook.centroids
        nearest = assign_words(local.descriptors, centroids)
        given = local.descriptors, nearest, centroids
        name = tmp_path / "out" / id.removesuffix(".jpg")
        vlad = aggregate_vlad(*given, features_per_region=counts)
        found = datum.read_datum(f"{name}.{r}vlad")
        np.testing.assert_array_equal(found, vlad)
        asmk = aggregate_asmk(*given, features_per_region=counts)
        for kind, made in (("asmk", asmk), ("asmk_star", binarize(asmk))):
            residuals, known = datum.read_datum_pair(f"{name}.{r}{kind}")
            np.testing.assert_array_equal(residuals, made.residuals.reshape(-1))
            np.testing.assert_array_equal(known, made.visual_words)


def test_regional_aggregation_needs_a_store_with_boxes(images, words, tmp_path):
    with pytest.raises(InputError, match=r"needs features of regions.*--boxes"):
        write(images, words._replace(regional=True), tmp_path / "out", "asmk")


def test_only_what_is_new_or_changed_is_aggregated(images, words, tmp_path):
    out, path = tmp_path / "out", tmp_path / "store"
    write(images, words, out, "asmk_star")
    images = fill_store(path, ["d.jpg", "new.jpg"], sequence=2, seed=4)
    (out / "b.asmk_star").unlink()
    report = write(images, words, out, "asmk_star")
    assert (report.extracted, report.unchanged) == (3, 3)
    again = write(images, words, tmp_path / "again", "asmk_star")
    assert again.extracted == 6
    for file in (tmp_path / "again").rglob("*.asmk_star"):
        relative = file.relative_to(tmp_path / "again")
        assert (out / relative).read_bytes() == file.read_bytes()
    assert write(images, words, out, "asmk").extracted == 6


def test_what_was_written_before_a_job_was_killed_is_kept(
    images, words, tmp_path, monkeypatch
):
    aggregate, done = aggregation.aggregate, []

    def until_killed(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return aggregate(*args)

    monkeypatch.setattr(aggregation, "aggregate", until_killed)
    with pytest.raises(KeyboardInterrupt):
        write(images, words, tmp_path / "out", "asmk")
    monkeypatch.setattr(aggregation, "aggregate", aggregate)
    report = write(images, words, tmp_path / "out", "asmk")
    assert (report.extracted, report.unchanged) == (3, 2)


def test_a_damaged_list_of_what_was_written_is_named(images, words, tmp_path):
    (tmp_path / "aggregated.json").write_text("[]")
    with pytest.raises(InputError, match=r"aggregated\.json: .*; remove it"):
        write(images, words, tmp_path, "asmk")


@pytest.mark.golden
@pytest.mark.parametrize("case", ["small", "dim12", "dim4"])
def test_files_hold_what_the_original_aggregates(golden, tmp_path, case):
    with np.load(golden / "aggregation.npz") as arrays:
        arrays = {k: v for k, v in arrays.items() if k.startswith(f"{case}/")}
    names = {"a": "", "b": "_B", "c": "_C"}
    features = {
        name: with_descriptors(arrays[f"{case}/features{suffix}"])
        for name, suffix in names.items()
    }
    images = add_features(tmp_path / "store", features)
    codebook.save_codebook(tmp_path / "codebook", arrays[f"{case}/codebook"], {})
    words = aggregation.load_words(tmp_path / "codebook")
    for kind in ("vlad", "asmk", "asmk_star"):
        write(images, words, tmp_path / kind, kind)
    vlad = datum.read_datum(tmp_path / "vlad" / "a.vlad")
    expected = arrays[f"{case}/VLAD_m1_l2/descriptor"]
    np.testing.assert_allclose(vlad, expected, atol=1e-6)
    for name, suffix in names.items():
        asmk = arrays[f"{case}/ASMK_m1/descriptor{suffix}"]
        expected_words = arrays[f"{case}/ASMK_m1/words{suffix}"]
        residuals, found = datum.read_datum_pair(tmp_path / "asmk" / f"{name}.asmk")
        np.testing.assert_array_equal(found, expected_words)
        np.testing.assert_allclose(residuals, asmk, atol=1e-5)
        file = tmp_path / "asmk_star" / f"{name}.asmk_star"
        bits, found = datum.read_datum_pair(file)
        np.testing.assert_array_equal(found, expected_words)
        packed = arrays[f"{case}/ASMK_STAR_m1/descriptor{suffix}"]
        shape = len(found), -1
        differ = np.unpackbits(
            (bits.astype(np.uint8) ^ packed.astype(np.uint8)).reshape(shape), axis=1
        )[:, : vlad.size // len(arrays[f"{case}/codebook"])]
        # A bit may differ where the value is next to nothing.
        assert not (differ.astype(bool) & (np.abs(asmk.reshape(shape)) > 1e-5)).any()


@pytest.mark.parametrize("kind", aggregated_files.KINDS)
def test_files_are_compared_as_the_images_that_they_hold(words, tmp_path, kind):
    images = fill_store(tmp_path / "store", IDS[:5], boxes=True)
    write(images, words._replace(regional=True), tmp_path / "index", kind)
    write(images, words, tmp_path / "queries", kind)
    folders = [
        aggregated_files.open_aggregated(tmp_path / name)
        for name in ("queries", "index")
    ]
    assert [folder.suffix for folder in folders] == [f".{kind}", f".r{kind}"]
    assert folders[0].names == ["a", "b", "c", "d", "e"]
    files = [[folder.file(place) for place in range(5)] for folder in folders]
    rule = similarity.Rule(alpha=2.0, tau=0.1, normalize=False)
    found = aggregated_files.similarities_of_files(
        *files, kind, rule, dimension=DIMENSION, progress=False
    )
    for q, x in np.ndindex(5, 5):
        sides = [
            aggregated(images[place], words._replace(regional=regional), kind)
            for place, regional in ((q, False), (x, True))
        ]
        if kind == "vlad":
            expected = similarity.vlad_similarity(*sides)
        else:
            options = {"dimension": DIMENSION, **similarity.RELEASED_RULES}
            expected = similarity.asmk_similarity(*sides, rule, **options)
        assert found[q, x] == pytest.approx(expected, abs=1e-6), (q, x)
    if kind != "vlad":  # The third image has no features.
        assert (found[2] == -1).all() and (found[:, 2] == -1).all()


def aggregated(features, words, kind):
    if kind == "vlad":
        return aggregation.aggregate_vlad(features, words, True, "")
    return aggregation.aggregate(features, words, kind, "")


@pytest.mark.golden
def test_files_of_the_originals_arrays_have_its_similarities(golden, tmp_path):
    expected = json.loads((golden / "similarity.json").read_text())
    with np.load(golden / "aggregation.npz") as stored:
        arrays = dict(stored)
    compared = 0
    for key, value in expected.items():
        case, kind, l2, alpha, tau, pair = key.split("|")
        numbers = case, alpha, tau
        if numbers != ("small", "alpha=3", "tau=0.2") or "VLAD" in kind or "E" in pair:
            continue
        files = []
        for name in pair:
            stem = f"{case}/{kind}_m1/{{}}" + ("" if name == "A" else f"_{name}")
            path = tmp_path / f"{kind}_{name}.datum"
            residuals = arrays[stem.format("descriptor")]
            numbers = arrays[stem.format("words")].astype(np.uint32)
            datum.write_datum_pair(path, residuals, numbers)
            files.append(path)
        rule = similarity.Rule(
            float(alpha[6:]), float(tau[4:]), normalize=l2 == "l2=True"
        )
        of = "asmk_star" if "STAR" in kind else "asmk"
        (query, image) = files
        found = aggregated_files.similarities_of_files(
            [query], [image], of, rule, progress=False
        )
        assert found[0, 0] == pytest.approx(value, rel=1e-4, abs=2e-6), key
        compared += 1
    assert compared > 40


@pytest.mark.parametrize(
    ("flat", "numbers", "message"),
    [
        (
            np.zeros(9),
            [1, 2],
            "has 9 numbers, expected 4: it is damaged, or of another",
        ),
        (np.zeros(4), [1, 1], "damaged: no asmk_star of an image"),
        (np.full(4, 256), [1, 2], "damaged: no asmk_star of an image"),
    ],
)
def test_a_file_of_other_words_or_damaged_is_named(tmp_path, flat, numbers, message):
    good, bad = tmp_path / "good.asmk_star", tmp_path / "bad.asmk_star"
    words = np.array([1, 5], np.uint32)
    datum.write_datum_pair(good, np.zeros(4, np.uint32), words)
    datum.write_datum_pair(bad, flat.astype(np.uint32), np.array(numbers, np.uint32))
    with pytest.raises(InputError, match=rf"bad.asmk_star: {message}"):
        aggregated_files.similarities_of_files(
            [good], [bad], "asmk_star", similarity.ASMK, progress=False
        )


def test_a_folder_of_two_kinds_or_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no aggregated images; name a folder"):
        aggregated_files.open_aggregated(tmp_path)
    for suffix in ("asmk", "rasmk"):
        (tmp_path / f"a.{suffix}").touch()
    with pytest.raises(InputError, match=r"has several kinds, \.asmk, \.rasmk; name"):
        aggregated_files.open_aggregated(tmp_path)
    with pytest.raises(InputError, match="no such folder of aggregated images"):
        aggregated_files.open_aggregated(tmp_path / "gone")


@pytest.mark.parametrize("kind", ["vlad", "asmk", "asmk_star"])
def test_a_cluster_writes_the_files_that_one_process_would(
    images, words, tmp_path, monkeypatch, kind
):
    report = write(images, words, tmp_path / "one", kind)
    in_this_process(monkeypatch, times=2)
    assert write(images, words, tmp_path / "many", kind, ray="") == report
    one, many = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "one", tmp_path / "many")
    )
    assert one == many
    assert write(images, words, tmp_path / "many", kind, ray="").unchanged == 5


def test_files_of_a_share_that_fails_are_listed_and_written_later(
    images, words, tmp_path, monkeypatch
):
    in_this_process(monkeypatch, fails=lambda item: item[0] == IDS[1])
    report = write(images, words, tmp_path, "vlad", ray="")
    assert (report.extracted, [*report.failed]) == (4, [IDS[1]])
    report = write(images, words, tmp_path, "vlad")
    assert (report.extracted, report.unchanged, report.failed) == (1, 4, {})
