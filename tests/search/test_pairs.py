import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.search import pairs
from delf_jax.store import feature_store
from tests.helpers.stores import add_features, draw_store, with_descriptors


@pytest.fixture
def store(tmp_path):
    return feature_store.open_store(draw_store(tmp_path / "store"))


def read(tmp_path, store, text):
    (tmp_path / "pairs.txt").write_text(text)
    return pairs.read_pairs(tmp_path / "pairs.txt", store)


def test_pairs_are_read_once_either_way_round(tmp_path, store):
    text = "a/0.jpg b/0.jpg\n\n b/0.jpg  a/0.jpg\na/0.jpg a/1.png\n"
    expected = [("a/0.jpg", "b/0.jpg"), ("a/0.jpg", "a/1.png")]
    assert read(tmp_path, store, text) == expected


def test_names_in_pairs_meet_ids_as_everywhere(tmp_path, store):
    text = "photos/a/0.JPG b/0\nb/0.jpg a/0.png\n"
    assert read(tmp_path, store, text) == [("a/0.jpg", "b/0.jpg")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/0.jpg\n", "line 1.*expected two images"),
        ("a/0.jpg b/0.jpg 0.9\n", "line 1.*expected two images"),
        ("a/0.jpg a/0.jpg\n", "line 1.*expected two images"),
        ("a/0.jpg b/0.jpg\na/0.jpg x.jpg\n", "line 2: 'x.jpg' not found in .*store"),
        ("a/0.jpg 0\n", "line 1: '0' fits 2 photos in .*store; add its"),
        ("\n", "no pairs; list one a line"),
    ],
)
def test_what_is_no_pair_of_the_store_is_refused(tmp_path, store, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, store, text)


def test_matches_are_mutual_nearest_with_the_cosines_of_their_descriptors(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(20, 8)).astype(np.float32)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    images = {"a.jpg": with_descriptors(a), "b.jpg": with_descriptors(a[::-1].copy())}
    store = add_features(tmp_path / "store", images)
    (found,) = pairs.match_pairs(store, [("a.jpg", "b.jpg")], progress=False)
    assert found.images == ("a.jpg", "b.jpg") and found.features == 20
    np.testing.assert_array_equal(found.matches[:, 1], 19 - found.matches[:, 0])
    assert len(found.matches) == 20
    np.testing.assert_allclose(found.cosines, 1, rtol=1e-6)


def test_a_store_without_local_features_has_no_matches(tmp_path):
    store = feature_store.open_store(draw_store(tmp_path / "global", local=0))
    with pytest.raises(InputError, match="no local features to match by"):
        list(pairs.match_pairs(store, [("a/0.jpg", "b/0.jpg")], progress=False))
