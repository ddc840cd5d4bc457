import numpy as np
import pytest

from delf_jax import cli
from delf_jax.features import Features, LocalFeatures
from delf_jax.files import InputError
from delf_jax.formats import confirmed_pairs
from delf_jax.search import confirm_pairs
from tests.helpers.stores import add_features

SCENE = 60
# (y, x) of a counterpart from (y, x, 1) of a photo, in pixels.
MOVED = np.array([[0.9, 0.1, 40.0], [-0.1, 0.9, 130.0]])


def photo(points, descriptors, seen):
    local = LocalFeatures(
        np.float32(points),
        np.ones(len(points), np.float32),
        descriptors,
        np.ones(len(points), np.float32),
    )
    return Features(local, np.float32(seen) / np.linalg.norm(seen), (768, 1024))


@pytest.fixture
def store(tmp_path, rng):
    """Two photos of one place, and one of another that looks alike globally."""

    def descriptors():
        x = rng.normal(size=(SCENE, 32)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    points, shown = rng.uniform([100, 200], [600, 800], (SCENE, 2)), descriptors()
    there = points @ MOVED[:, :2].T + MOVED[:, 2]
    images = {
        "a/1.jpg": photo(points, shown, [1, 0.1]),
        "a/2.jpg": photo(there, shown, [1, 0.2]),
        "b/1.jpg": photo(points, descriptors(), [1, 0.15]),
    }
    settings = {"max_image_size": 1024}
    return add_features(tmp_path / "store", images, settings=settings)


def test_a_pair_is_found_once_with_its_map_and_its_region(store, tmp_path):
    (pair,) = confirm_pairs.confirm_pairs(
        store.path, tmp_path / "pairs.csv", candidates=2, progress=False
    )
    assert (pair.image, pair.counterpart) == ("a/1.jpg", "a/2.jpg")
    assert SCENE / 2 < pair.inliers <= SCENE
    size = np.array([768, 1024])
    linear = np.array([[pair.yy, pair.yx], [pair.xy, pair.xx]])
    middle = np.array([384, 512])
    found = linear @ ((middle + 0.5) / size) + [pair.y0, pair.x0]
    expected = MOVED[:, :2] @ middle + MOVED[:, 2]
    np.testing.assert_allclose(found * size - 0.5, expected, atol=0.5)
    low, high = np.array([100, 200]) / size, np.array([600, 800]) / size
    assert (low <= [pair.y_min, pair.x_min]).all()
    assert ([pair.y_max, pair.x_max] <= high + 0.001).all()
    assert confirmed_pairs.read_pairs(tmp_path / "pairs.csv") == [pair]


def test_the_command_says_how_many_there_are(store, tmp_path, capsys):
    out = tmp_path / "pairs.csv"
    assert cli.main(["fit", "pairs", str(store.path), f"--out={out}"]) == 0
    assert capsys.readouterr().out.endswith(
        f"{out}: 1 pair that share 20 inliers or more\n"
    )


def test_a_store_without_local_features_is_refused(tmp_path):
    images = {f"{n}.jpg": Features(None, np.float32([1, 0]), (9, 9)) for n in range(2)}
    store = add_features(tmp_path / "store", images)
    with pytest.raises(InputError, match="has no local features to verify by"):
        confirm_pairs.confirm_pairs(
            store.path, tmp_path / "pairs.csv", candidates=1, progress=False
        )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,b,20,1,0,0,0,1,0,0.5,0,0.5,1", "'a' and 'b': the region has no extent"),
        ("a,b,20,1,0,0,0,1,0,0,0,1.5,1", "the region has no extent or leaves"),
        ("a,b,20,1,0,nan,0,1,0,0,0,1,1", "line 2.*y0"),
        ("", "no pairs are listed"),
    ],
)
def test_files_of_pairs_that_are_wrong_are_refused(tmp_path, row, message):
    path = tmp_path / "pairs.csv"
    header = ",".join(confirmed_pairs.ConfirmedPair._fields)
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(InputError, match=message):
        confirmed_pairs.read_pairs(path)
