import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.index import aggregation
from delf_jax.retrieval.aggregation import (
    aggregate_asmk,
    aggregate_vlad,
    assign_words,
    binarize,
)
from tests.helpers.inverted_files import DIMENSION, IDS, fill_store


@pytest.fixture
def features(tmp_path):
    return fill_store(tmp_path / "store", IDS)[0]


@pytest.mark.parametrize("assignments", [1, 3])
def test_features_are_aggregated_by_their_nearest_words(
    words, features, tmp_path, assignments
):
    words = aggregation.load_words(tmp_path / "codebook", assignments)
    centroids = words.codebook.centroids
    nearest = assign_words(features.local[2], centroids, assignments)
    given = features.local[2], nearest, centroids
    asmk = aggregate_asmk(*given)
    for kind, expected in (("asmk", asmk), ("asmk_star", binarize(asmk))):
        found = aggregation.aggregate(features, words, kind, "")
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for normalize in (True, False):
        found = aggregation.aggregate_vlad(features, words, normalize, "")
        expected = aggregate_vlad(*given, normalize=normalize)
        np.testing.assert_array_equal(found, expected)


def _with(features, descriptors):
    return features._replace(local=features.local._replace(descriptors=descriptors))


def test_features_that_cannot_be_aggregated_are_named(words, features):
    for wrong, reason in (
        (features._replace(local=None), "photo 7: has no local descriptors"),
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
            aggregation.aggregate(wrong, words, "asmk", "photo 7")
