import numpy as np
import pytest

from delf_jax.features import features_per_region, whole_image
from delf_jax.files import InputError
from delf_jax.formats.delf import datum
from delf_jax.index import aggregated_files, aggregation, codebook
from delf_jax.retrieval.aggregation import (
    aggregate_asmk,
    aggregate_vlad,
    assign_words,
    binarize,
)
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
