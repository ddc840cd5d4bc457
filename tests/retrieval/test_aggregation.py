import json

import numpy as np
import pytest

from delf_jax.retrieval import aggregation

# The released code's own unit test: five words, three features, a fourth in a region.
WORDS = np.array([[0.5, 0.5], [0, 0], [1, 0], [-0.5, -0.5], [0, 1]], np.float32)
FEATURES = np.array([[1, 0], [-1, 0], [1, 2], [0, 2]], np.float32)
ROOT = 0.70710678


def naive_words(descriptors, codebook, assignments):
    """Nearest words in float64, one descriptor after the other."""
    codebook = codebook.astype(np.float64)
    rows = [
        np.argsort(((d - codebook) ** 2).sum(1), kind="stable")[:assignments]
        for d in descriptors.astype(np.float64)
    ]
    return np.array(rows, np.int32).reshape(-1, assignments)


def naive_vlad(descriptors, codebook, assignments, regions=None):
    """Dense sums in float64; of regions, the mean of the normalised ones."""
    dense = np.zeros(codebook.shape)
    if regions is None:
        words = naive_words(descriptors, codebook, assignments)
        for descriptor, nearest in zip(descriptors, words, strict=True):
            for word in nearest:
                dense[word] += descriptor.astype(np.float64) - codebook[word]
        return dense
    start = 0
    for count in regions:
        vlad = naive_vlad(descriptors[start : start + count], codebook, assignments)
        dense += vlad / max(np.linalg.norm(vlad), 1e-6) / len(regions)
        start += count
    return dense


def draw(rng, features=70, words=40, dimension=12):
    codebook = rng.normal(size=(words, dimension)).astype(np.float32)
    near = codebook[rng.integers(0, words, features)]
    noise = 0.4 * rng.normal(size=(features, dimension))
    return (near + noise).astype(np.float32), codebook


@pytest.mark.parametrize("words", [1, 3, 255, 256, 257, 700])
@pytest.mark.parametrize("assignments", [1, 3])
def test_words_are_the_nearest_in_float64(rng, words, assignments):
    if assignments > words:
        return
    descriptors, codebook = draw(rng, 130, words)
    found = aggregation.assign_words(descriptors, codebook, assignments)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(
        found, naive_words(descriptors, codebook, assignments)
    )


@pytest.mark.parametrize("words", [9, 31, 32, 33, 65, 300])
def test_all_words_can_be_asked_for(rng, words):
    descriptors, codebook = draw(rng, 20, words)
    for count in {words // 2, words - 1, words}:
        found = aggregation.assign_words(descriptors, codebook, count)
        np.testing.assert_array_equal(found, naive_words(descriptors, codebook, count))


def test_the_nearest_words_may_all_be_in_one_group(rng):
    descriptors, codebook = draw(rng, 40, 600)
    # Of 64 words in a row 40 are near all descriptors.
    codebook[70:110] = 1e-3 * rng.normal(size=(40, 12)) + descriptors.mean(axis=0)
    codebook[:70] += 50
    codebook[110:] += 50
    found = aggregation.assign_words(descriptors, codebook, 7)
    assert found.min() >= 70 and found.max() < 110
    # As exact as float32 is: the distances are those of the nearest.
    x, c = descriptors.astype(np.float64), codebook.astype(np.float64)
    squares = ((x[:, None] - c[None]) ** 2).sum(axis=2)
    expected = np.sort(squares, axis=1)[:, :7]
    found = np.take_along_axis(squares, found, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_descriptors_that_are_no_numbers_have_some_words(rng):
    descriptors, codebook = draw(rng, 5, 300)
    descriptors[2] = np.nan
    found = aggregation.assign_words(descriptors, codebook, 3)
    assert (found >= 0).all() and (found < 300).all()


def test_of_equal_words_the_lower_id_is_taken(rng):
    descriptors, codebook = draw(rng, 50, 300)
    twice = np.concatenate([codebook, codebook, codebook])
    once = aggregation.assign_words(descriptors, codebook)
    found = aggregation.assign_words(descriptors, twice, 3)
    np.testing.assert_array_equal(found, once + np.array([[0, 300, 600]]))


@pytest.mark.parametrize("features", [1, 64, 65, 257, 600])
def test_any_number_of_descriptors_is_assigned(rng, features):
    descriptors, codebook = draw(rng, features)
    found = aggregation.assign_words(descriptors, codebook)
    np.testing.assert_array_equal(found, naive_words(descriptors, codebook, 1))


def test_more_descriptors_than_a_chunk_are_assigned_alike(rng, monkeypatch):
    descriptors, codebook = draw(rng, 200, 30)
    whole = aggregation.assign_words(descriptors, codebook, 2)
    monkeypatch.setattr(aggregation, "_ROWS", 64)
    np.testing.assert_array_equal(
        aggregation.assign_words(descriptors, codebook, 2), whole
    )


def test_no_descriptors_have_no_words(rng):
    _, codebook = draw(rng)
    none = np.zeros((0, 12), np.float32)
    words = aggregation.assign_words(none, codebook, 2)
    assert words.shape == (0, 2)
    for regions in (None, [], [0, 0]):
        kept = {"features_per_region": regions}
        asmk = aggregation.aggregate_asmk(none, words, codebook, **kept)
        assert asmk.visual_words.shape == (0,) and asmk.residuals.shape == (0, 12)
        assert aggregation.binarize(asmk).residuals.shape == (0, 2)
        assert not aggregation.aggregate_vlad(none, words, codebook, **kept).any()


@pytest.mark.parametrize("assignments", [1, 3])
@pytest.mark.parametrize("regions", [None, [70], [30, 0, 25, 15]])
@pytest.mark.parametrize("normalize", [False, True])
def test_vlad_is_what_a_loop_gives(rng, assignments, regions, normalize):
    descriptors, codebook = draw(rng)
    expected = naive_vlad(descriptors, codebook, assignments, regions).reshape(-1)
    if normalize:
        expected /= np.linalg.norm(expected)
    found = aggregation.aggregate_vlad(
        descriptors,
        aggregation.assign_words(descriptors, codebook, assignments),
        codebook,
        features_per_region=regions,
        normalize=normalize,
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-6)


@pytest.mark.parametrize("assignments", [1, 3])
@pytest.mark.parametrize("regions", [None, [70], [30, 0, 25, 15]])
def test_asmk_is_what_a_loop_gives(rng, assignments, regions):
    descriptors, codebook = draw(rng)
    vlad = naive_vlad(descriptors, codebook, assignments, regions)
    norms = np.linalg.norm(vlad, axis=1)
    present = np.flatnonzero(norms > 1e-6)
    words = aggregation.assign_words(descriptors, codebook, assignments)
    found = aggregation.aggregate_asmk(
        descriptors, words, codebook, features_per_region=regions
    )
    expected = vlad[present] / norms[present, None]
    np.testing.assert_array_equal(found.visual_words, present)
    np.testing.assert_allclose(found.residuals, expected, atol=2e-6)
    bits = aggregation.binarize(found)
    assert bits.residuals.dtype == np.uint8
    signs = np.unpackbits(bits.residuals, axis=1)[:, :12].astype(bool)
    np.testing.assert_array_equal(signs, found.residuals > 0)


def test_words_whose_residual_vanishes_are_dropped(rng):
    _, codebook = draw(rng)
    descriptors = codebook[[4, 4, 7]] + np.float32([[0], [0], [0.25]])
    words = aggregation.assign_words(descriptors, codebook)
    found = aggregation.aggregate_asmk(descriptors, words, codebook)
    assert found.visual_words.tolist() == [7]


def test_vlad_and_asmk_of_the_released_unit_test():
    words = {m: aggregation.assign_words(FEATURES[:3], WORDS, m) for m in (1, 3)}
    raw, unit = (
        aggregation.aggregate_vlad(FEATURES[:3], words[1], WORDS, normalize=n)
        for n in (False, True)
    )
    np.testing.assert_allclose(raw, [0] * 6 + [-0.5, 0.5, 1, 1])
    tail = [-0.316228, 0.316228, 0.632456, 0.632456]
    np.testing.assert_allclose(unit, [0] * 6 + tail, atol=1e-6)
    raw = aggregation.aggregate_vlad(FEATURES[:3], words[3], WORDS, normalize=False)
    np.testing.assert_allclose(raw, [1, 1, 0, 0, 0, 2, -0.5, 0.5, 0, 0])
    asmk = aggregation.aggregate_asmk(FEATURES[:3], words[1], WORDS)
    assert asmk.visual_words.tolist() == [3, 4]
    np.testing.assert_allclose(asmk.residuals, [[-ROOT, ROOT], [ROOT, ROOT]])
    assert aggregation.binarize(asmk).residuals.tolist() == [[64], [192]]
    asmk = aggregation.aggregate_asmk(FEATURES[:3], words[3], WORDS)
    assert asmk.visual_words.tolist() == [0, 2, 3]
    np.testing.assert_allclose(
        asmk.residuals, [[ROOT, ROOT], [0, 1], [-ROOT, ROOT]], atol=1e-6
    )


def test_regional_forms_of_the_released_unit_test():
    words = aggregation.assign_words(FEATURES, WORDS)
    expected = {
        ((3, 1), False): [-0.158114, 0.158114, 0.316228, 0.816228],
        ((3, 1), True): [-0.175011, 0.175011, 0.350021, 0.903453],
        ((0, 3, 0, 1), False): [-0.079057, 0.079057, 0.158114, 0.408114],
    }
    for (regions, normalize), tail in expected.items():
        found = aggregation.aggregate_vlad(
            FEATURES, words, WORDS, features_per_region=regions, normalize=normalize
        )
        np.testing.assert_allclose(found, [0] * 6 + tail, atol=1e-6)
    asmk = aggregation.aggregate_asmk(
        FEATURES, words, WORDS, features_per_region=[3, 1]
    )
    np.testing.assert_allclose(
        asmk.residuals, [[-ROOT, ROOT], [0.361261, 0.932465]], atol=1e-6
    )
    assert aggregation.binarize(asmk).residuals.tolist() == [[64], [192]]


def test_what_does_not_fit_is_refused(rng):
    descriptors, codebook = draw(rng)
    words = aggregation.assign_words(descriptors, codebook)
    with pytest.raises(ValueError, match="expected 60 features, .* got 70"):
        aggregation.aggregate_asmk(
            descriptors, words, codebook, features_per_region=[60]
        )
    with pytest.raises(ValueError, match="expected .* those of the regions"):
        aggregation.aggregate_asmk(
            descriptors, words, codebook, features_per_region=[80, -10]
        )
    with pytest.raises(ValueError, match="12 dimensions and the codebook 11"):
        aggregation.assign_words(descriptors, codebook[:, :11])
    with pytest.raises(ValueError, match="41 assignments to a codebook of 40 words"):
        aggregation.assign_words(descriptors, codebook, 41)


CASES = ["small", "large", "dim12", "dim4"]


@pytest.fixture(scope="module")
def original(golden):
    """(arrays, tolerances, info) of the original's aggregation."""
    with np.load(golden / "aggregation.npz") as arrays:
        arrays = dict(arrays)
    tolerances = json.loads((golden / "tolerances.json").read_text())
    info = json.loads((golden / "aggregation_info.json").read_text())
    return arrays, tolerances["aggregation.npz"], info


def _of_image(arrays, case, image, assignments, regional):
    """(descriptors, visual words, codebook), and the regions if asked for."""
    features, codebook = arrays[f"{case}/features{image}"], arrays[f"{case}/codebook"]
    regions = arrays[f"{case}/num_features_per_region{image}"].tolist()
    words = aggregation.assign_words(features, codebook, assignments)
    return (features, words, codebook), {
        "features_per_region": regions if regional else None
    }


def _close(found, expected, tolerances, key):
    # Where the file's cross-check did not look at a case, ten roundings of float32.
    least = 1e-6 * max(1, np.abs(expected).max(initial=0))
    atol = max(tolerances[key]["atol"], least)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("assignments", [1, 3])
@pytest.mark.parametrize("regional", ["", "R"])
@pytest.mark.parametrize("normalize", [False, True])
def test_vlad_is_the_originals(original, case, assignments, regional, normalize):
    arrays, tolerances, _ = original
    key = f"{case}/{regional}VLAD_m{assignments}_{'l2' if normalize else 'raw'}"
    image, regions = _of_image(arrays, case, "", assignments, regional)
    found = aggregation.aggregate_vlad(*image, **regions, normalize=normalize)
    if case != "large":
        return _close(found, arrays[f"{key}/descriptor"], tolerances, key)
    rows = found.reshape(arrays["large/codebook"].shape)
    present = np.flatnonzero(rows.any(axis=1))
    np.testing.assert_array_equal(present, arrays[f"{key}/nonzero_words"])
    if assignments == 1:
        return _close(rows[present], arrays[f"{key}/rows"], tolerances, key)
    norms = np.linalg.norm(rows[present], axis=1)
    _close(norms, arrays[f"{key}/rows_norm"], tolerances, key)
    sums = rows[present].sum(axis=1)
    np.testing.assert_allclose(sums, arrays[f"{key}/rows_sum"], rtol=1e-4, atol=2e-5)


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("assignments", "image"), [(1, ""), (1, "_B"), (1, "_C"), (3, "")]
)
@pytest.mark.parametrize("regional", ["", "R"])
def test_asmk_is_the_originals(original, case, assignments, image, regional):
    arrays, tolerances, _ = original
    given, regions = _of_image(arrays, case, image, assignments, regional)
    asmk = aggregation.aggregate_asmk(*given, **regions)
    key = f"{case}/{regional}ASMK_m{assignments}"
    np.testing.assert_array_equal(asmk.visual_words, arrays[f"{key}/words{image}"])
    expected = arrays[f"{key}/descriptor{image}"].reshape(asmk.residuals.shape)
    _close(asmk.residuals, expected, tolerances, key)
    key = f"{case}/{regional}ASMK_STAR_m{assignments}"
    bits = aggregation.binarize(asmk)
    np.testing.assert_array_equal(bits.visual_words, arrays[f"{key}/words{image}"])
    expected = arrays[f"{key}/descriptor{image}"]
    np.testing.assert_array_equal(bits.residuals.reshape(-1), expected)


@pytest.mark.golden
def test_an_image_without_features_is_the_originals(original):
    arrays, _, info = original
    for key, expected in info["empty_image"].items():
        case, kind = key.split("/")
        codebook = arrays[f"{case}/codebook"]
        features = np.zeros((0, codebook.shape[1]), np.float32)
        words = aggregation.assign_words(features, codebook)
        if "VLAD" in kind:
            found = aggregation.aggregate_vlad(features, words, codebook)
        else:
            found = aggregation.aggregate_asmk(features, words, codebook)
            assert list(found.visual_words.shape) == expected["words_shape"]
            found = aggregation.binarize(found) if "STAR" in kind else found
            found = found.residuals.reshape(-1)
        assert list(found.shape) == expected["descriptor_shape"]
        assert str(found.dtype) == expected["dtype"]
        assert not found.any()
