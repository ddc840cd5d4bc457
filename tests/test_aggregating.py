import numpy as np
import pytest
from inverted_files import DIMENSION, IDS, draw_words, fill_store

from delf_jax import aggregating
from delf_jax.files import InputError
from delf_jax.retrieval import aggregation


@pytest.fixture
def words(tmp_path):
    return draw_words(tmp_path / "codebook")


@pytest.fixture
def features(tmp_path):
    return fill_store(tmp_path / "store", IDS)[0]


@pytest.mark.parametrize("assignments", [1, 3])
def test_features_are_aggregated_by_their_nearest_words(
    words, features, tmp_path, assignments
):
    words = aggregating.load_words(tmp_path / "codebook", assignments)
    centroids = words.codebook.centroids
    nearest = aggregation.assign_words(features.local[2], centroids, assignments)
    given = features.local[2], nearest, centroids
    asmk = aggregation.aggregate_asmk(*given)
    for kind, expected in (("asmk", asmk), ("asmk_star", aggregation.binarize(asmk))):
        found = aggregating.aggregate(features, words, kind, "")
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for normalize in (True, False):
        found = aggregating.aggregate_vlad(features, words, normalize, "")
        expected = aggregation.aggregate_vlad(*given, normalize=normalize)
        np.testing.assert_array_equal(found, expected)


def _with(features, descriptors):
    return features._replace(local=features.local._replace(descriptors=descriptors))


def test_features_that_cannot_be_aggregated_are_named(words, features):
    for wrong, reason in (
        (features._replace(local=None), "photo 7: holds no local descriptors"),
        (
            _with(features, features.local.descriptors[:, 1:]),
            f"photo 7: descriptors of {DIMENSION - 1} dimensions do not fit a codebook",
        ),
        (
            _with(features, features.local.descriptors * np.nan),
            "photo 7: .* not finite",
        ),
    ):
        with pytest.raises(InputError, match=reason):
            aggregating.aggregate(wrong, words, "asmk", "photo 7")
