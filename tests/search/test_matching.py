import json

import numpy as np
import pytest

from delf_jax.extraction import model_folder, settings
from delf_jax.features import Features, LocalFeatures
from delf_jax.files import InputError
from delf_jax.images import SizeBounds
from delf_jax.retrieval import verification
from delf_jax.search import matching

COUNT = 60
SIZES = SizeBounds(1024)


def features_of(locations, image_size, descriptors, global_descriptor=None):
    local = LocalFeatures(
        np.float32(locations),
        np.ones(len(locations), np.float32),
        descriptors,
        np.ones(len(locations), np.float32),
    )
    return Features(local, global_descriptor, image_size)


@pytest.fixture
def scene():
    """Points of a scene and a descriptor for each."""
    rng = np.random.default_rng(0)
    points = rng.uniform(20, [700, 1000], (COUNT, 2))
    descriptors = rng.normal(size=(COUNT, 16)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return points, descriptors


def test_the_map_between_photos_of_unlike_sizes_is_in_their_own_pixels(scene):
    points, descriptors = scene
    small = features_of(points, (768, 1024), descriptors)
    # The same scene four times as large: pixel centres at integers.
    large = features_of((points + 0.5) * 4 - 0.5, (3072, 4096), descriptors)
    found = matching.compare_features(small, large, SIZES)
    assert found.inliers > COUNT / 2
    shift = 0.5 * 0.25 - 0.5
    expected = [[0.25, 0, shift], [0, 0.25, shift]]
    np.testing.assert_allclose(found.pair.affine, expected, atol=1e-3)


def test_the_size_of_the_files_does_not_change_what_is_an_inlier(scene):
    points, descriptors = scene
    noise = np.random.default_rng(1).normal(scale=6, size=points.shape)
    query = features_of(points, (768, 1024), descriptors)
    index = features_of(points + noise, (768, 1024), descriptors)
    larger = [
        features_of(
            (np.asarray(x.local.locations, np.float64) + 0.5) * 5 - 0.5,
            (3840, 5120),
            descriptors,
        )
        for x in (query, index)
    ]
    count = matching.compare_features(query, index, SIZES).inliers
    assert count > COUNT / 2
    assert matching.compare_features(*larger, SIZES).inliers == count
    assert matching.compare_features(*larger, SizeBounds()).inliers < count


def test_photos_enlarged_for_extraction_are_verified_in_their_enlarged_pixels(scene):
    points, descriptors = scene
    noise = np.random.default_rng(1).normal(scale=6, size=points.shape)
    query = features_of(points, (768, 1024), descriptors)
    index = features_of(points + noise, (768, 1024), descriptors)
    smaller = [
        features_of(
            (np.asarray(x.local.locations, np.float64) + 0.5) / 4 - 0.5,
            (192, 256),
            descriptors,
        )
        for x in (query, index)
    ]
    found = matching.compare_features(query, index, SIZES)
    enlarged = SizeBounds(1024, 1024)
    again = matching.compare_features(*smaller, enlarged)
    assert again.inliers == found.inliers > COUNT / 2
    linear = found.pair.affine[:, :2]
    np.testing.assert_allclose(again.pair.affine[:, :2], linear, atol=1e-3)
    # In pixels of the files the tolerance would be a tenth of the photo.
    assert matching.compare_features(*smaller, SIZES).inliers != found.inliers


def test_lines_join_the_inliers_of_both_photos(scene):
    points, descriptors = scene
    query = features_of(points, (768, 1024), descriptors)
    index = features_of(points[::-1] + 7, (768, 1024), descriptors[::-1].copy())
    found = matching.compare_features(query, index, SIZES)
    lines = matching.inlier_lines(found)
    assert len(lines) == found.inliers > COUNT / 2
    np.testing.assert_allclose(lines[:, 2:], lines[:, :2] + 7, atol=1e-3)


def test_similarity_is_the_cosine_of_global_descriptors_or_absent(scene):
    points, descriptors = scene
    a, b = np.float32([0.6, 0.8]), np.float32([1, 0])
    with_global = [features_of(points, (768, 1024), descriptors, g) for g in (a, b)]
    found = matching.compare_features(*with_global, SIZES)
    assert found.similarity == pytest.approx(0.6)
    without = features_of(points, (768, 1024), descriptors)
    assert matching.compare_features(without, with_global[0], SIZES).similarity is None


def test_photos_without_anything_in_common_describe_themselves_in_json(scene):
    points, descriptors = scene
    one = features_of(points[:1], (768, 1024), descriptors[:1])
    found = matching.compare_features(one, one, SIZES)
    described = json.loads(json.dumps(matching.to_json(found, ["a", "b"])))
    assert described["inliers"] == 0
    assert described["affine"] is None
    assert described["inlier_locations"] == []


def test_a_model_without_local_features_matches_nothing(global_model, tiny_model):
    model = model_folder.load_model(global_model)
    photo = np.zeros((64, 64, 3), np.uint8)
    for how in ({}, {"max_features": 1000}):
        chosen = settings.settings_for(model, **how)
        with pytest.raises(InputError, match="model global has no local features"):
            matching.compare_photos(photo, photo, model, chosen)
    model = model_folder.load_model(tiny_model)
    chosen = settings.settings_for(model, max_features=0)
    with pytest.raises(InputError, match="no local features"):
        matching.compare_photos(photo, photo, model, chosen)


def test_comparing_photos_names_the_unusable_one(tiny_model, tmp_path):
    model = model_folder.load_model(tiny_model)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    photo = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match=r"broken\.jpg"):
        matching.compare_photos(photo, broken, model, settings.settings_for(model))


def drawn(rng, count=80):
    """A photo like none other: features anywhere."""
    descriptors = rng.normal(size=(count, 16)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return features_of(rng.uniform(0, 700, (count, 2)), (768, 1024), descriptors)


@pytest.mark.parametrize("name", verification.VERIFICATION)
def test_a_pair_comes_out_the_same_whatever_it_stands_among(scene, rng, name):
    points, descriptors = scene
    query = features_of(points, (768, 1024), descriptors)
    same = features_of(points + 7, (768, 1024), descriptors)
    candidates = [drawn(rng), same, drawn(rng, 0), drawn(rng, 3), drawn(rng)]
    how = verification.VERIFICATION[name]
    together = matching.verify_candidates(query, iter(candidates), SIZES, how)
    for image, found in zip(candidates, together, strict=True):
        alone = matching.compare_features(query, image, SIZES, how)
        for a, b in zip(found.pair, alone.pair, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.golden
@pytest.mark.parametrize("threshold", [10.0, 20.0])
def test_the_settings_of_the_original_score_as_it_does(golden, threshold):
    arrays = np.load(golden / "matching.npz")
    expected = json.loads((golden / "matching.json").read_text())
    how = verification.VERIFICATION["d2r"]
    assert how.threshold == 10.0
    query, index = (
        features_of(
            arrays[f"{side}_locations"], (4000, 4000), arrays[f"{side}_descriptors"]
        )
        for side in ("query", "index")
    )
    found = matching.compare_features(
        query, index, SIZES, how._replace(threshold=threshold)
    )
    rule = f"putative_distance_{how.max_distance}"
    np.testing.assert_array_equal(found.pair.matches, expected[rule])
    key = f"{rule}/original_MatchFeatures_score_seed0_residual{threshold:.0f}"
    assert found.inliers >= 0.95 * expected[key]


def test_three_matches_are_no_evidence_for_the_original(scene):
    points, descriptors = scene
    chosen = np.argsort(points[:, 0])[[0, 30, 59]]
    three = features_of(points[chosen], (768, 1024), descriptors[chosen])
    assert matching.compare_features(three, three, SIZES).inliers == 3
    for name in ("delg", "d2r"):
        how = verification.VERIFICATION[name]
        assert matching.compare_features(three, three, SIZES, how).inliers == 0


def test_for_the_original_all_inliers_count_in_pixels_of_the_files(scene):
    points, descriptors = scene
    query = features_of(np.tile(points[:20], (3, 1)), (3072, 4096), descriptors)
    how = verification.VERIFICATION["d2r"]
    assert matching.compare_features(query, query, SIZES, how).inliers == COUNT
    assert matching.compare_features(query, query, SIZES).inliers <= 20
    noise = np.random.default_rng(1).normal(scale=12, size=points.shape)
    moved = query._replace(
        local=query.local._replace(locations=np.float32(query.local.locations + noise))
    )
    inliers = matching.compare_features(query, moved, SIZES, how).inliers
    assert inliers < COUNT * 0.7


def test_unknown_settings_of_verification_are_refused():
    with pytest.raises(
        InputError, match="expected one of default, delg, d2r; got 'magic'"
    ):
        matching.verification_settings("magic")
