"""A network that teaches: its maps, and the units they are measured in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax import files
from delf_jax.data import teacher
from delf_jax.extraction import model_folder
from delf_jax.models.resnet import ResNet
from tests.helpers.random_models import random_variables

ARCHITECTURE = {
    "name": "global",
    "depth": 18,
    "width": 4,
    "layout": "v1.5",
    "global_dimension": 0,
}
PIXELS = {"pixel_mean": (120.0, 110.0, 100.0), "pixel_std": (60.0, 57.0, 56.0)}
DIMENSION = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder of a very small ResNet, which has no stages by number."""
    folder = tmp_path_factory.mktemp("teacher")
    variables = random_variables(ARCHITECTURE)
    extraction = {
        "max_features": 0,
        "image_scales": (1.0,),
        "global_scales": (0,),
        **PIXELS,
    }
    model_folder.save_model(folder, ARCHITECTURE, variables, extraction, {})
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return teacher.load_teacher(str(folder), ("block3", "block4"))


@pytest.fixture(scope="module")
def images():
    """Upright and lying ones, of several sizes, unlike one another."""
    rng = np.random.default_rng(0)
    sizes = [(30, 40), (40, 30), (64, 64)] * 3
    return [
        rng.integers(0, 256, (*size, 3), np.uint8) // (1 + i % 4)
        for i, size in enumerate(sizes)
    ]


def read_by(images):
    return [lambda image=image: image for image in images]


@pytest.fixture(scope="module")
def fitted(loaded, images, tmp_path_factory):
    """(targets, the file that keeps them)."""
    path = tmp_path_factory.mktemp("targets") / "teacher.npz"
    targets = teacher.fit_targets(*loaded, read_by(images), path, dimension=DIMENSION)
    return targets, path


def naive_maps(loaded, images):
    """block3 and block4 of each image, resized as a fit does, normalised by hand."""
    taught_by, variables = loaded
    network = jax.jit(ResNet(18, 4, "v1.5", "folded").apply)
    maps = []
    for image in images:
        pixels = np.asarray(teacher._resized(image), np.float32)
        mean, std = (np.float32(PIXELS[n]) for n in ("pixel_mean", "pixel_std"))
        found = network(variables, jnp.asarray((pixels - mean) / std)[None])
        maps.append({name: np.asarray(found[name][0]) for name in taught_by.stages})
    return maps


def test_a_teacher_sees_pixels_as_its_own_extraction_does(loaded, images):
    """And is its model's backbone, without BatchNorm."""
    taught_by, variables = loaded
    assert taught_by.backbone.normalization == "folded"
    assert taught_by.pixels == (PIXELS["pixel_mean"], PIXELS["pixel_std"])
    image = teacher._resized(images[0])
    (expected,) = naive_maps(loaded, images[:1])
    found = jax.jit(lambda v, x: teacher.maps_of(taught_by, v, x))(
        variables, jnp.asarray(image)[None]
    )
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name][0], value, atol=1e-5 * scale)


def test_targets_are_the_moments_and_half_whitening_of_all_images(
    loaded, images, fitted
):
    """An independent formula: the eigenvectors of the covariance of descriptors."""
    targets, _ = fitted
    maps = naive_maps(loaded, images)
    for stage in ("block3", "block4"):
        means = np.mean([m[stage].mean((0, 1)) for m in maps], 0)
        squares = np.mean([(m[stage] ** 2).mean((0, 1)) for m in maps], 0)
        rectified = min(m[stage].min() for m in maps) >= 0
        kept = 0 * means if rectified else means  # So will the student's map be.
        np.testing.assert_allclose(targets.means[stage], kept, rtol=1e-4, atol=1e-5)
        variances = np.maximum(squares - means**2, 1e-6)
        if rectified:  # One number for all: channels keep their weights.
            variances[:] = variances.mean()
        deviations = np.sqrt(variances)
        found = targets.deviations[stage]
        np.testing.assert_allclose(found, deviations, rtol=1e-3, atol=1e-3)

    descriptors = []
    for each in maps:
        pooled = np.mean(np.maximum(each["block4"], 1e-6) ** 3.0, (0, 1)) ** (1 / 3)
        descriptors.append(pooled / np.linalg.norm(pooled))
    centred = np.array(descriptors, np.float64) - np.mean(descriptors, 0)
    np.testing.assert_allclose(targets.centre, np.mean(descriptors, 0), rtol=1e-3)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1][:DIMENSION], vectors[:, ::-1][:, :DIMENSION]
    # A direction's gain is the root of how often the first one's deviation is larger.
    gains = (values[0] / values) ** 0.25
    found, expected = centred @ targets.projection, centred @ (vectors * gains)
    signs = np.sign((found * expected).sum(0))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected * signs, atol=5e-3 * scale)


def test_a_direction_of_noise_is_not_blown_up():
    rng = np.random.default_rng(0)
    spread = np.float64([1, 0.5, 1e-9])
    directions, _ = np.linalg.qr(rng.normal(size=(6, 3)))
    descriptors = rng.normal(size=(200, 3)) * spread @ directions.T
    gains = np.linalg.norm(teacher._half_whitening(descriptors, 3), axis=0)
    assert gains[0] == pytest.approx(1)
    assert gains[1] == pytest.approx(2**0.5, rel=0.1)
    assert gains[2] <= 1000**0.5 * 1.001


def test_half_whitened_deviations_are_the_roots_of_what_they_were():
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(5000, 3)) * [1, 0.25, 0.01] + 7
    projection = teacher._half_whitening(descriptors, 3)
    found = (descriptors - descriptors.mean(0)) @ projection
    deviations = found.std(0) / found[:, 0].std()
    np.testing.assert_allclose(deviations, [1, 0.5, 0.1], rtol=0.05)


def test_targets_are_computed_once_and_read_to_the_same_bits(loaded, images, fitted):
    targets, path = fitted

    def fail():
        raise AssertionError("read again")

    again = teacher.fit_targets(*loaded, [fail] * 9, path, dimension=DIMENSION)
    jax.tree.map(np.testing.assert_array_equal, again, targets)
    assert set(again.means) == set(again.deviations) == {"block3", "block4"}
    assert {x.dtype for x in jax.tree.leaves(again)} == {np.dtype(np.float32)}


def test_too_few_images_for_the_dimension_are_refused(loaded, images, tmp_path):
    path = tmp_path / "teacher.npz"
    with pytest.raises(files.InputError, match="teacher.dimension 10: only 9 images"):
        teacher.fit_targets(*loaded, read_by(images), path, dimension=10)
    assert not path.exists()


def test_a_stage_that_the_teacher_lacks_is_named_with_those_it_has(folder):
    message = rf"teacher.stages: {folder} has no stage2; it has .*block3, block4"
    with pytest.raises(files.InputError, match=message):
        teacher.load_teacher(str(folder), ("block4", "stage2"))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(files.InputError, match="nowhere: no such model folder"):
        teacher.load_teacher("nowhere", ("block4",))
    with pytest.raises(files.InputError, match="config.json: no such file"):
        teacher.load_teacher(str(tmp_path), ("block4",))


@pytest.mark.parametrize("damage", ["empty", "half", "text", "of another kind"])
def test_damaged_targets_are_named_with_what_to_do(fitted, tmp_path, damage):
    whole, path = fitted[1].read_bytes(), tmp_path / "teacher.npz"
    if damage == "of another kind":
        np.savez(path, centre=np.zeros(3))
    else:
        content = {"empty": b"", "half": whole[: len(whole) // 2], "text": b"no zip"}
        path.write_bytes(content[damage])
    message = f"{path}: not the targets of a teacher .*; remove it, and the next train"
    with pytest.raises(files.InputError, match=message):
        teacher.read_targets(path)


def test_a_byte_that_changed_is_refused_or_does_not_matter(fitted, tmp_path):
    """One after the other all over the file: never a traceback, never other numbers."""
    targets, path = fitted
    data, damaged = path.read_bytes(), tmp_path / "teacher.npz"
    refused = 0
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        damaged.write_bytes(changed)
        try:
            found = teacher.read_targets(damaged)
        except files.InputError as error:
            assert str(damaged) in str(error)
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, found, targets)
    assert refused > 100
