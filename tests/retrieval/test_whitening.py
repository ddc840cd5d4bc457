import numpy as np
import pytest

from delf_jax.retrieval import whitening


def draw(rng, count=500, dimension=6):
    mixing = rng.normal(size=(dimension, dimension))
    return rng.normal(size=(count, dimension)) @ mixing + rng.normal(size=dimension)


@pytest.mark.parametrize("dimension", [1, 4, 6])
def test_pca_is_that_of_the_centred_matrix(rng, dimension):
    x = draw(rng)
    mean, projection, variances = whitening.fit_pca(whitening.moments_of(x), dimension)
    _, values, vectors = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(variances, values[:dimension] ** 2 / len(x), rtol=1e-8)
    np.testing.assert_allclose(
        np.abs(projection), np.abs(vectors[:dimension]), atol=1e-8
    )
    assert (projection.max(axis=1) >= -projection.min(axis=1)).all()


def test_moments_of_parts_add_up(rng):
    x = draw(rng)
    parts = [whitening.moments_of(part) for part in np.split(x, [100, 350])]
    total = whitening.add_moments(whitening.add_moments(*parts[:2]), parts[2])
    for found, expected in zip(total, whitening.moments_of(x), strict=True):
        np.testing.assert_allclose(found, expected)


def test_more_components_than_dimensions_are_refused(rng):
    with pytest.raises(ValueError, match="7 components of 500 descriptors of 6 dim"):
        whitening.fit_pca(whitening.moments_of(draw(rng)), 7)
    with pytest.raises(ValueError, match="2 components of 0 descriptors"):
        whitening.fit_pca(whitening.moments_of(np.zeros((0, 6))), 2)


def test_learned_whitening_makes_the_differences_of_pairs_white(rng):
    x = draw(rng)
    query, positive = np.arange(0, 400, 2), np.arange(1, 400, 2)
    mean, projection = whitening.learn_whitening(x, query, positive)
    np.testing.assert_allclose(mean, x[query].mean(axis=0))
    differences = (x[query] - x[positive]) @ projection.T
    np.testing.assert_allclose(
        differences.T @ differences / len(query), np.eye(6), atol=1e-8
    )
    centred = (x - mean) @ projection.T
    scatter = centred.T @ centred
    variances = np.diag(scatter)
    np.testing.assert_allclose(scatter, np.diag(variances), atol=1e-6 * variances[0])
    assert (np.diff(variances) <= 0).all()


def test_whitened_descriptors_have_unit_length(rng):
    x = draw(rng)
    mean, projection = whitening.learn_whitening(x, np.arange(9), np.arange(9, 18))
    for dimension in (None, 3):
        white = whitening.apply_whitening(x, mean, projection, dimension)
        expected = [projection[:dimension] @ (row - mean) for row in x]
        expected = [row / (np.linalg.norm(row) + 1e-6) for row in expected]
        np.testing.assert_allclose(white, expected)
    assert not whitening.apply_whitening(mean[None], mean, projection).any()


@pytest.mark.parametrize(
    "matrix", [[[np.nan, 0.0], [0.0, 1.0]], [[-1e9, 0], [0, -1e9]]]
)
def test_what_has_no_factor_is_refused(matrix):
    with pytest.raises(ValueError, match="no Cholesky factor"):
        whitening.robust_cholesky(np.array(matrix))


@pytest.fixture(scope="module")
def original(golden):
    with np.load(golden / "whitening.npz") as arrays:
        return dict(arrays)


@pytest.mark.golden
def test_whitening_learned_is_the_originals_but_for_signs(original):
    x = original["descriptors"].T
    pairs = original["query_index"], original["positive_index"]
    mean, projection = whitening.learn_whitening(x, *pairs)
    np.testing.assert_allclose(mean, original["mean"][:, 0], atol=1e-7)
    expected = original["projection"]
    signs = np.sign(np.sum(projection * expected, axis=1, keepdims=True))
    largest = np.abs(expected).max()
    np.testing.assert_allclose(projection, signs * expected, atol=1e-6 * largest)
    for dimension, name in ((None, "applied"), (8, "applied_dim8")):
        found = whitening.apply_whitening(x, mean, projection, dimension)
        expected = signs[:dimension].T * original[name].T
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.golden
def test_whitening_learned_from_few_pairs_is_the_originals_but_for_signs(original):
    count = int(original["rank_deficient_pairs"])
    mean, projection = whitening.learn_whitening(
        original["descriptors"].T,
        original["query_index"][:count],
        original["positive_index"][:count],
    )
    np.testing.assert_allclose(mean, original["rank_deficient_mean"][:, 0], atol=1e-7)
    expected = original["rank_deficient_projection"]
    norms = [np.linalg.norm(rows, axis=1) for rows in (projection, expected)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    cosines = np.sum(projection * expected, axis=1) / np.prod(norms, axis=0)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-5)


@pytest.mark.golden
def test_cholesky_factors_are_the_originals(original):
    for name in ("cholesky", "cholesky_pd"):
        found = whitening.robust_cholesky(original[f"{name}_input"])
        np.testing.assert_allclose(found, original[f"{name}_output"], atol=1e-6)
