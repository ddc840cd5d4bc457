import numpy as np
import pytest

from delf_jax.retrieval import kmeans


def draw(rng, count=300, clusters=7, dimension=5):
    centres = 10 * rng.normal(size=(clusters, dimension))
    x = centres[rng.integers(0, clusters, count)] + rng.normal(size=(count, dimension))
    return x.astype(np.float32)


def draw_centroids(x, words, rng):
    return x[np.sort(rng.choice(len(x), words, replace=False))]


def naive_pass(x, codebook):
    """(means, counts, inertia) in float64, one descriptor after the other."""
    sums, counts = np.zeros(codebook.shape), np.zeros(len(codebook), int)
    inertia = 0.0
    for row in x.astype(np.float64):
        distances = ((row - codebook) ** 2).sum(axis=1)
        word = np.argmin(distances)
        sums[word] += row
        counts[word] += 1
        inertia += distances[word]
    return sums, counts, inertia


def test_a_pass_is_what_a_loop_gives(rng):
    x = draw(rng)
    codebook = draw_centroids(x, 9, rng)
    found = kmeans.lloyd_pass(x, codebook, rng)
    sums, counts, inertia = naive_pass(x, codebook)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.sums, sums, rtol=1e-12)
    assert found.inertia == pytest.approx(inertia, rel=1e-5)
    move = kmeans.move_centroids(found, codebook)
    np.testing.assert_allclose(move.codebook, sums / counts[:, None], rtol=1e-5)
    assert (move.empty, move.reseeded) == (0, 0)


def test_chunks_add_up_to_the_whole(rng):
    x = draw(rng)
    codebook = draw_centroids(x, 9, rng)
    a, b = (kmeans.lloyd_pass(part, codebook, rng) for part in np.split(x, [123]))
    both, whole = kmeans.add_sums(a, b), kmeans.lloyd_pass(x, codebook, rng)
    np.testing.assert_array_equal(both.counts, whole.counts)
    np.testing.assert_allclose(both.sums, whole.sums)
    assert both.inertia == pytest.approx(whole.inertia)
    assert (np.diff(both.spare_keys) >= 0).all()
    assert len(both.spares) == len(whole.spares) == len(x) - 9


def test_inertia_never_rises(rng):
    x = draw(rng)
    codebook = draw_centroids(x, 12, rng)
    inertia = []
    for _ in range(8):
        found = kmeans.lloyd_pass(x, codebook, rng)
        inertia.append(found.inertia)
        codebook = kmeans.move_centroids(found, codebook).codebook
    assert (np.diff(inertia) <= 1e-6 * inertia[0]).all()


def test_a_start_is_of_different_descriptors(rng):
    x = draw(rng)
    codebook = kmeans.kmeans_plus_plus(x, 50, rng)
    rows = {tuple(row) for row in x.tolist()}
    assert codebook.dtype == np.float32
    assert len({tuple(row) for row in codebook.tolist()} & rows) == 50
    once, again = (
        kmeans.kmeans_plus_plus(x, 50, np.random.default_rng(3)) for _ in range(2)
    )
    np.testing.assert_array_equal(once, again)


def test_kmeans_plus_plus_finds_clusters_that_are_far_apart(rng):
    centres = 1000 * np.eye(6, dtype=np.float32)
    x = np.repeat(centres, [200, 1, 50, 3, 20, 2], axis=0)
    found = kmeans.kmeans_plus_plus(x, 6, rng)
    np.testing.assert_array_equal(found[np.argsort(-found.argmax(1))][::-1], centres)


def test_kmeans_plus_plus_draws_by_the_squared_distance(rng):
    x = np.float32([[0], [1], [3]])
    drawn = [kmeans.kmeans_plus_plus(x, 2, rng).reshape(-1) for _ in range(3000)]
    second = np.array([b for a, b in drawn if a == 0])
    assert np.mean(second == 3) == pytest.approx(0.9, abs=0.04)


def test_too_few_descriptors_are_refused(rng):
    x = draw(rng, count=4)
    with pytest.raises(ValueError, match="5 words from 4 descriptors"):
        kmeans.kmeans_plus_plus(x, 5, rng)
    same = np.repeat(x[:2], 10, axis=0)
    with pytest.raises(ValueError, match="only 2 different descriptors for 5 words"):
        kmeans.kmeans_plus_plus(same, 5, rng)


def test_an_empty_cluster_takes_a_descriptor_far_from_its_centroid(rng):
    x = np.concatenate([np.zeros((50, 2)), np.full((1, 2), 9)]).astype(np.float32)
    codebook = np.float32([[0, 0], [500, 500], [700, 0]])
    found = kmeans.lloyd_pass(x, codebook, rng)
    move = kmeans.move_centroids(found, codebook)
    assert (move.empty, move.reseeded) == (2, 1)
    np.testing.assert_array_equal(move.codebook[1:], [[9, 9], [700, 0]])


def test_centroids_of_batches_are_the_means_of_all_they_have_seen(rng):
    x = draw(rng)
    codebook, weights = draw_centroids(x, 9, rng), np.zeros(9, np.int64)
    expected, counts = codebook.astype(np.float64), np.zeros(9)
    for batch in np.split(x, 5):
        found = kmeans.lloyd_pass(batch, codebook, rng)
        words = ((batch[:, None] - codebook[None]) ** 2).sum(axis=2).argmin(axis=1)
        for row, word in zip(batch.astype(np.float64), words, strict=True):
            counts[word] += 1
            expected[word] += (row - expected[word]) / counts[word]
        codebook, weights = kmeans.average_in(found, codebook, weights)
    np.testing.assert_array_equal(weights, counts)
    np.testing.assert_allclose(codebook, expected, rtol=1e-5, atol=1e-5)


def test_a_centroid_that_is_seeded_again_is_the_mean_of_one(rng):
    x = np.concatenate([np.zeros((50, 2)), np.full((1, 2), 9)]).astype(np.float32)
    codebook = np.float32([[0, 0], [500, 500], [700, 0]])
    found = kmeans.lloyd_pass(x, codebook, rng)
    move, weights = kmeans.seed_again(found, codebook, np.array([70, 80, 90]))
    assert (move.empty, move.reseeded) == (2, 1)
    np.testing.assert_array_equal(move.codebook, [[0, 0], [9, 9], [700, 0]])
    assert weights.tolist() == [70, 1, 90]


def test_spares_are_bounded(rng, monkeypatch):
    monkeypatch.setattr(kmeans, "SPARES", 20)
    x = draw(rng)
    found = kmeans.lloyd_pass(x, x[:3], rng)
    found = kmeans.add_sums(found, kmeans.lloyd_pass(x, x[:3], rng))
    assert found.spares.shape == (20, 5)


def test_imbalance_is_one_of_equal_clusters_and_their_number_of_a_collapse():
    assert kmeans.imbalance(np.array([5, 5, 5, 5])) == pytest.approx(1)
    assert kmeans.imbalance(np.array([20, 0, 0, 0])) == pytest.approx(4)
    assert kmeans.imbalance(np.array([0, 0])) == 0
