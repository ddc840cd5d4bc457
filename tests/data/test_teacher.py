import numpy as np
import pytest

from delf_jax import files, manifests
from delf_jax.data import teacher


def small_maps(levels, dimension=3):
    cells = np.concatenate(
        [
            np.full((h * w, dimension), i + 1, np.float16)
            for i, (h, w, _) in enumerate(levels)
        ]
    )
    identity = np.eye(dimension, dtype=np.float32)
    zeros, ones = np.zeros(dimension, np.float32), np.ones(dimension, np.float32)
    return teacher.TeacherMaps(
        cells, {"a": levels}, zeros, identity, ones, zeros, identity
    )


@pytest.mark.parametrize(
    ("resolution", "level"), [(100.0, 1), (250.0, 1), (420.0, 2), (9e9, 2)]
)
def test_the_level_nearest_in_scale_answers(resolution, level):
    maps = small_maps([[8, 16, 0], [16, 32, 128]])
    features, valid = teacher.sample(maps, "a", np.array([[0.5, 0.5]]), resolution)
    assert valid.all()
    np.testing.assert_array_equal(features, np.full((1, 3), level))


def test_points_outside_the_map_are_invalid():
    maps = small_maps([[8, 16, 0]])
    points = np.array([[0.5, 0.5], [-0.2, 0.5], [0.5, 1.3]])
    _, valid = teacher.sample(maps, "a", points, 256.0)
    np.testing.assert_array_equal(valid, [True, False, False])


def test_global_target_is_the_generalised_mean():
    maps = small_maps([[2, 2, 0]])
    features = np.array([[1.0, 0, 0], [0, 2, 0]], np.float32)
    expected = np.mean(np.maximum(features, 1e-6) ** 3, 0) ** (1 / 3)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(
        teacher.global_target(maps, features), expected, rtol=1e-5
    )


@pytest.fixture
def stored(tmp_path):
    """A folder of maps, as `build_maps` leaves it."""
    np.save(tmp_path / "maps.npy", np.ones((4, 3), np.float16))
    fields = teacher.TeacherMaps._fields[2:]
    np.savez(tmp_path / "basis.npz", **dict.fromkeys(fields, np.ones(3, np.float32)))
    sums = {n: files.sha256_of(tmp_path / n) for n in ("maps.npy", "basis.npz")}
    content = {"format": 1, "levels": {"s/a.jpg": [[2, 2, 0]]}, "sha256": sums}
    manifests.write_manifest(tmp_path / "maps.json", content)
    return tmp_path


@pytest.mark.parametrize("name", ["maps.npy", "basis.npz", "maps.json"])
def test_damaged_maps_are_named_with_what_to_do(stored, name):
    assert teacher.open_maps(str(stored)).levels == {"s/a.jpg": [[2, 2, 0]]}
    data = bytearray((stored / name).read_bytes())
    data[len(data) // 2] ^= 1
    (stored / name).write_bytes(data)
    message = f"{stored / name}.*; remove {stored}, and the next training computes"
    with pytest.raises(files.InputError, match=message):
        teacher.open_maps(str(stored))


def test_maps_of_an_older_version_open_and_their_damage_is_no_traceback(stored):
    files.write_json(stored / "maps.json", {"s/a.jpg": [[2, 2, 0]]})
    assert teacher.open_maps(str(stored)).levels == {"s/a.jpg": [[2, 2, 0]]}
    (stored / "basis.npz").write_bytes(b"PK\3\4")
    with pytest.raises(files.InputError, match=f"{stored}: not teacher maps"):
        teacher.open_maps(str(stored))
    (stored / "basis.npz").unlink()
    with pytest.raises(files.InputError, match="basis.npz: no such file"):
        teacher.open_maps(str(stored))


def test_a_file_that_is_no_teacher_is_named(tmp_path):
    path = tmp_path / "teacher.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(files.InputError, match="teacher.npz"):
        teacher.load_teacher(str(path))


@pytest.mark.slow
def test_forward_agrees_with_plain_numpy(photos):
    """The numpy forward pass beside the weights is the oracle."""
    weights = photos.parent / "weights"
    if not (weights / "forward.py").exists():
        pytest.skip("the teacher's weights are not here")
    namespace = {"__file__": str(weights / "forward.py"), "__name__": "oracle"}
    exec((weights / "forward.py").read_text(), namespace)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (64, 96, 3)).astype(np.float32)
    path = weights / "resnet101v2_imagenet_to_conv4_fp16.npz"
    actual = teacher.load_teacher(str(path))(image)
    expected = namespace["resnet101v2"]((image + 1).transpose(2, 0, 1) / 2)
    np.testing.assert_allclose(actual, expected.transpose(1, 2, 0), atol=1e-4)
