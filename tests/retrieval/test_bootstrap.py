import numpy as np
import pytest

from delf_jax.retrieval import bootstrap


def test_means_are_those_of_queries_drawn_with_replacement(rng):
    values = rng.random((2, 5))
    found = bootstrap.resampled_means(values, np.random.default_rng(3), samples=50)
    drawn = np.random.default_rng(3).multinomial(5, np.full(5, 0.2), size=50)
    for sample, counts in enumerate(drawn):
        again = np.repeat(values, counts, axis=1)
        np.testing.assert_allclose(found[:, sample], again.mean(axis=1))


def test_a_constant_advantage_has_no_spread(rng):
    values = rng.random(20)
    means = bootstrap.resampled_means(
        np.stack([values, values + 0.1]), rng, samples=100
    )
    assert bootstrap.interval(means[1] - means[0]) == pytest.approx((0.1, 0.1))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        means = bootstrap.resampled_means(rng.random((1, 50)), rng, samples=300)
        low, high = bootstrap.interval(means[0])
        hits += low < 0.5 < high
    assert 180 <= hits <= 198


def test_queries_without_positives_are_left_out(rng):
    values = np.array([[0.5, np.nan, 0.5]])
    means = bootstrap.resampled_means(values, rng, samples=10)
    np.testing.assert_allclose(means, 0.5)
    nothing = bootstrap.resampled_means(np.full((1, 3), np.nan), rng, samples=10)
    assert np.isnan(nothing).all()
    assert np.isnan(bootstrap.interval(nothing[0])).all()


def test_the_first_has_an_interval_and_the_others_a_paired_gain(rng):
    values = rng.random((2, 20))
    drawn = bootstrap.resampled_means(values, rng, samples=100)
    first, second = bootstrap.estimates(values.mean(axis=1).tolist(), drawn)
    assert (first.value, first.gain) == (values[0].mean(), None)
    assert second.interval == bootstrap.interval(drawn[1])
    assert second.gain == bootstrap.interval(drawn[1] - drawn[0])
