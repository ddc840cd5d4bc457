"""Extraction: the original's numbers, and independence of canvas, batch and order."""

import functools
import io
import json
import re
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from delf_jax.extraction import canvases, extract, model_folder
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import build_module
from delf_jax.extraction.pca import Whitening
from delf_jax.extraction.settings import ExtractionSettings, settings_for
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.images import normalize_pixels, resize_bilinear
from delf_jax.models.architecture import fold_batch_norm
from delf_jax.models.global_net import GlobalNet
from delf_jax.models.pooling import GeMChanges, changed_gem


@pytest.fixture(scope="module")
def model(tiny_model) -> model_folder.Model:
    return model_folder.load_model(tiny_model)


@pytest.fixture(scope="module")
def model_of(model) -> Callable[[str], model_folder.Model]:
    """layout -> a very small network."""
    return lambda layout: model if layout == "v1.5" else _small_model(layout)


@functools.cache
def _small_model(layout: str) -> model_folder.Model:
    """In these layouts what a canvas must do depends on whether sides are odd."""
    architecture = {
        "name": "delg",
        "depth": 26,
        "width": 4,
        "layout": layout,
        "block3_strides": layout == "slim",
        "attention_width": 8,
        "reduced_dimension": 8,
        "global_dimension": 16,
    }
    module = build_module(architecture)
    image = np.zeros((1, 64, 64, 3), np.float32)
    variables = jax.jit(module.init)(jax.random.key(1), image)
    module, variables = fold_batch_norm(module, variables)
    return model_folder.Model(module, variables, {"extraction": {}}, "0" * 64, layout)


def _photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    large = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-20, 20, (height, width, 3))
    return np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)


def _extract(model, images, settings, **changes) -> list[Features | InputError]:
    return list(
        extract_features(model, images, settings._replace(**changes), threads=2)
    )


def _assert_same(a: Features, b: Features, **tolerance) -> None:
    """Equal, where features of nearly equal attention may have changed places."""
    assert a.image_size == b.image_size
    np.testing.assert_allclose(a.global_descriptor, b.global_descriptor, **tolerance)
    np.testing.assert_allclose(a.local.attention, b.local.attention, **tolerance)
    first, second = (
        np.lexsort(np.c_[f.local.locations, f.local.scales].T) for f in (a, b)
    )
    for name in ("locations", "scales", "descriptors"):
        ours, theirs = getattr(a.local, name)[first], getattr(b.local, name)[second]
        np.testing.assert_allclose(ours, theirs, err_msg=name, **tolerance)


SETTINGS = ExtractionSettings(
    image_scales=(0.5, 1.0), global_scales=(1,), max_image_size=160, grid=32
)
CLOSE = {"rtol": 1e-4, "atol": 2e-6}


@pytest.mark.parametrize("size", [(97, 60), (64, 64), (33, 90)])
@pytest.mark.parametrize("layout", ["v1.5", "keras", "slim"])
def test_the_canvas_does_not_change_the_features(model_of, layout, size):
    chosen = model_of(layout)
    photo = _photo(*size)
    (small,) = _extract(chosen, [photo], SETTINGS, grid=32)
    (large,) = _extract(chosen, [photo], SETTINGS, grid=128)
    _assert_same(small, large, **CLOSE)
    # And they are those of the image without any canvas.
    level = normalize_pixels(photo)[None]
    maps = jax.jit(chosen.module.apply)(chosen.variables, level)
    expected = maps["global_descriptor"][0]
    expected = expected / np.linalg.norm(expected)
    np.testing.assert_allclose(small.global_descriptor, expected, **CLOSE)
    ours = small.local.attention[np.isclose(small.local.scales, 1)]
    expected = np.sort(np.ravel(maps["attention"]))[::-1]
    np.testing.assert_allclose(ours, expected, **CLOSE)


def test_pooling_changes_as_the_settings_say_on_any_canvas(model):
    chosen = SETTINGS._replace(max_features=0, image_scales=(1.0,), global_scales=(0,))
    photo = _photo(97, 60)
    level = jnp.asarray(normalize_pixels(photo))[None]
    variables = {"params": model.variables["params"]["backbone"]}
    block4 = model.module.backbone.apply(variables, level)["block4"]
    changes = {"gem_power": 4.6, "gem_region": 3, "gem_floor": 0.01}
    pooled = changed_gem(block4, 3.0, None, GeMChanges(*changes.values()))
    whitening = model.variables["params"]["whitening"]
    expected = pooled[0] @ whitening["kernel"] + whitening["bias"]
    expected = np.asarray(expected / jnp.linalg.norm(expected))
    (plain,) = _extract(model, [photo], chosen)
    for grid in (32, 128):
        (found,) = _extract(model, [photo], chosen, grid=grid, **changes)
        np.testing.assert_allclose(found.global_descriptor, expected, **CLOSE)
    assert np.abs(expected - plain.global_descriptor).max() > 1e-3


def test_scales_are_pooled_as_the_settings_say(model):
    chosen = SETTINGS._replace(max_features=0)
    photo = _photo(64, 80)
    first, second = (
        _extract(model, [photo], chosen, global_scales=(n,))[0].global_descriptor
        for n in (0, 1)
    )
    (found,) = _extract(model, [photo], chosen, global_scales=(0, 1), scale_power=0.0)
    expected = np.maximum(first, second)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(found.global_descriptor, expected, **CLOSE)


def test_pooling_settings_leave_local_features_alone(model):
    photo = _photo(64, 80)
    changes = {"gem_power": 5.0, "gem_region": 3, "gem_floor": 0.1, "scale_power": 0.0}
    (plain,) = _extract(model, [photo], SETTINGS)
    (changed,) = _extract(model, [photo], SETTINGS, **changes)
    for ours, theirs in zip(changed.local, plain.local, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_a_model_that_does_not_pool_by_gem_refuses_to_change_it(model):
    pooling = GlobalNet(model.module.backbone, "mac", global_dimension=0)
    mac = model._replace(module=pooling, name="mac")
    chosen = SETTINGS._replace(max_features=0)
    with pytest.raises(InputError, match="mac pools by mac, .*gem_region must be 0"):
        _extract(mac, [_photo(64, 80)], chosen, gem_region=3)


def test_neighbours_and_order_do_not_change_the_features(model):
    photos = [_photo(60 + 3 * i, 90, seed=i) for i in range(5)]
    forward = _extract(model, photos, SETTINGS, batch_size=2)
    backward = _extract(model, photos[::-1], SETTINGS, batch_size=2)[::-1]
    for photo, a, b in zip(photos, forward, backward, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
        (alone,) = _extract(model, [photo], SETTINGS, batch_size=2)
        jax.tree.map(np.testing.assert_array_equal, a, alone)


def test_the_batch_size_does_not_change_the_features(model):
    photos = [_photo(60 + 3 * i, 90, seed=i) for i in range(5)]
    alone = _extract(model, photos, SETTINGS, batch_size=1)
    together = _extract(model, photos, SETTINGS, batch_size=2)
    for a, b in zip(alone, together, strict=True):
        _assert_same(a, b, **CLOSE)


def test_a_bad_image_stands_in_its_place_and_spoils_nothing(model, tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(_photo(64, 80)).save(good)
    torn = tmp_path / "torn.png"
    torn.write_bytes(good.read_bytes()[:200])
    thin = tmp_path / "thin.png"
    Image.new("RGB", (4000, 1)).save(thin)
    dot = tmp_path / "dot.png"
    Image.new("RGB", (1, 1)).save(dot)
    paths = [torn, good, tmp_path / "absent.png", thin, good, dot]
    for batch_size in (1, 2):
        results = _extract(model, paths, SETTINGS, batch_size=batch_size)
        for place, name in ((0, "torn"), (2, "absent"), (3, "thin"), (5, "dot")):
            assert isinstance(results[place], InputError)
            message = str(results[place])
            assert message.count(f"{name}.png") == 1, message
        jax.tree.map(np.testing.assert_array_equal, results[1], results[4])
    assert "1 x 1 pixels are too few" in str(results[5])


def test_an_extraction_that_is_given_up_waits_for_no_image(model, monkeypatch):
    """It may end where garbage is collected; to wait there has locked programs up."""
    settings = settings_for(model)
    opened, opening = threading.Event(), extract.open_image

    def open_image(image, *rest):
        if image is slow:
            assert opened.wait(60)
        return opening(image, *rest)

    monkeypatch.setattr(extract, "open_image", open_image)
    first, slow = _photo(70, 90), _photo(70, 90, seed=1)
    found = extract_features(model, [first, slow], settings, threads=2)
    assert isinstance(next(found), Features)
    closing = threading.Thread(target=found.close)
    closing.start()
    closing.join(30)
    waits = closing.is_alive()
    opened.set()
    closing.join()
    assert not waits


def test_images_are_taken_as_files_and_as_pixels(model, tmp_path):
    photo = _photo(64, 80)
    path = tmp_path / "a.png"
    Image.fromarray(photo).save(path)
    kinds = [path, Image.open(path), photo, photo / 255, jnp.asarray(photo)]
    kinds += [path.read_bytes(), io.BytesIO(path.read_bytes())]
    expected, *others = _extract(model, kinds, SETTINGS)
    for found in others:
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_arrays_that_are_no_images_are_refused_by_their_number(model):
    results = _extract(model, [_photo(40, 40), np.full((20, 20, 3), 9.0)], SETTINGS)
    assert isinstance(results[0], Features)
    assert re.match(r"image 2: expected float pixels in \[0, 1\]", str(results[1]))


def test_an_image_too_small_for_every_scale_is_refused(model):
    settings = {"image_scales": (0.01,), "global_scales": (0,)}
    (result,) = _extract(model, [_photo(40, 40)], SETTINGS, **settings)
    assert isinstance(result, InputError) and "image_scales" in str(result)


def test_locations_are_pixels_of_the_original_image(model):
    """What changes in one place changes the features of that place most."""
    before = _photo(300, 400)
    after = before.copy()
    after[200:232, 96:128] = 255 - after[200:232, 96:128]
    scales = {"image_scales": (1.0,), "global_scales": (0,)}
    first, second = (
        found.local for found in _extract(model, [before, after], SETTINGS, **scales)
    )
    # 400 pixels are resized to 160: cells are 40 pixels apart.
    assert set(np.diff(np.unique(first.locations[:, 1])).round(3)) == {40}
    assert set(np.diff(np.unique(first.locations[:, 0])).round(3)) == {40}
    np.testing.assert_allclose(first.scales, 2.5)
    orders = [np.lexsort(local.locations.T) for local in (first, second)]
    change = first.descriptors[orders[0]] - second.descriptors[orders[1]]
    place = first.locations[orders[0]][np.abs(change).sum(axis=1).argmax()]
    assert np.abs(place - (216, 112)).max() <= 40


def test_either_branch_can_be_left_out(model):
    photo = _photo(64, 80)
    (both,) = _extract(model, [photo], SETTINGS)
    (local,) = _extract(model, [photo], SETTINGS, global_scales=())
    (whole,) = _extract(model, [photo], SETTINGS, max_features=0)
    assert local.global_descriptor is None and whole.local is None
    np.testing.assert_allclose(whole.global_descriptor, both.global_descriptor, **CLOSE)
    np.testing.assert_allclose(local.local.attention, both.local.attention, **CLOSE)


def test_pixels_and_resizing_are_as_the_settings_say(model):
    photo = _photo(64, 80)
    scales = {"image_scales": (0.5,), "global_scales": (0,)}
    mean, std = (123.0, 117.0, 104.0), (58.0, 57.0, 56.0)
    changes = {"pixel_mean": mean, "pixel_std": std, "resize": "legacy"}
    (found,) = _extract(model, [photo], SETTINGS, **scales, **changes)
    # Of half the size, corners are every other pixel.
    level = normalize_pixels(photo, mean, std)[None, ::2, ::2]
    maps = jax.jit(model.module.apply)(model.variables, level)
    expected = maps["global_descriptor"][0]
    expected = expected / np.linalg.norm(expected)
    np.testing.assert_allclose(found.global_descriptor, expected, **CLOSE)


def test_suppression_is_given_every_cell(model):
    photo = _photo(64, 80)
    (all_of_them,) = _extract(model, [photo], SETTINGS)
    (same,) = _extract(model, [photo], SETTINGS, nms_iou=0.9999)
    _assert_same(all_of_them, same, **CLOSE)
    (fewer,) = _extract(model, [photo], SETTINGS, nms_iou=0.3)
    assert 0 < len(fewer.local.scales) < len(same.local.scales)
    (few,) = _extract(model, [photo], SETTINGS, max_features=3)
    np.testing.assert_array_equal(few.local.attention, same.local.attention[:3])


def test_a_model_without_global_branch_says_so(model):
    delf = build_module({"name": "delf", "depth": 18, "width": 8})
    wrong = model._replace(module=delf, name="local_only")
    with pytest.raises(InputError, match="local_only has no global branch"):
        _extract(wrong, [], SETTINGS)


def test_a_model_without_local_branch_says_so(global_model):
    wrong = model_folder.load_model(global_model)
    with pytest.raises(InputError, match="global has no local.*max_features must be 0"):
        _extract(wrong, [], SETTINGS)


def test_a_model_without_local_branch_gives_global_descriptors(global_model):
    whole = model_folder.load_model(global_model)
    photo, chosen = _photo(60, 90), settings_for(whole, grid=32)
    (found,) = _extract(whole, [photo], chosen)
    assert found.local is None
    total = 0
    for image_scale in chosen.image_scales:
        size = extract.pyramid_size((60, 90), image_scale)
        level = resize_bilinear(normalize_pixels(photo), size)
        maps = jax.jit(whole.module.apply)(whole.variables, level[None])
        total += maps["global_descriptor"][0] / np.linalg.norm(
            maps["global_descriptor"][0]
        )
    np.testing.assert_allclose(
        found.global_descriptor, total / np.linalg.norm(total), **CLOSE
    )


@pytest.fixture(scope="module")
def pair(tiny_model, global_model) -> model_folder.Model:
    return model_folder.load_model(tiny_model, global_model)


def test_a_global_model_gives_the_global_descriptors_by_its_own_settings(
    pair, model, global_model
):
    photos = [_photo(150, 120), _photo(60, 90)]
    chosen = settings_for(pair, max_features=20, max_image_size=96)
    found = _extract(pair, photos, chosen)
    local = _extract(model, photos, chosen, global_scales=())
    other = model_folder.load_model(global_model)
    of_global = _extract(other, photos, settings_for(other))
    for each, one, another in zip(found, local, of_global, strict=True):
        for ours, expected in zip(each.local, one.local, strict=True):
            np.testing.assert_array_equal(ours, expected)
        np.testing.assert_array_equal(each.global_descriptor, another.global_descriptor)
        assert each.image_size == one.image_size
    (alone,) = _extract(pair, photos[:1], chosen, max_features=0)
    assert alone.local is None
    np.testing.assert_array_equal(
        alone.global_descriptor, of_global[0].global_descriptor
    )
    (without,) = _extract(pair, photos[:1], chosen, global_scales=())
    assert without.global_descriptor is None and without.local is not None


def test_a_photo_is_decoded_once_for_two_models(pair, monkeypatch):
    opened, real = [], extract.open_image

    def open_image(image, max_pixels):
        opened.append(image)
        return real(image, max_pixels)

    monkeypatch.setattr(extract, "open_image", open_image)
    _extract(pair, [_photo(60, 90)] * 3, settings_for(pair, max_features=20))
    assert len(opened) == 3


def test_what_either_of_two_models_cannot_use_has_one_reason(pair):
    good, narrow = _photo(60, 90), _photo(20, 150)
    images = [good, "gone.jpg", narrow, InputError("b.jpg: why"), good]
    # So shrunk, the local network cannot take it; the other one could.
    chosen = settings_for(pair, max_features=20, batch_size=2, max_image_size=64)
    first, gone, failed, given, last = _extract(pair, images, chosen)
    _assert_same(first, last, **CLOSE)
    assert "gone.jpg: no such file" in str(gone) and str(given) == "b.jpg: why"
    assert str(failed).startswith("image 3: 150 x 20 pixels are too few")
    (alone,) = _extract(pair, [narrow], chosen, max_features=0)
    assert alone.global_descriptor is not None


def test_a_projection_must_fit_the_global_model(pair, rng):
    wrong = Whitening(np.zeros(7, np.float32), np.eye(7, dtype=np.float32))
    with pytest.raises(InputError, match="global_pca expects descriptors of 7 dimensi"):
        _extract(pair, [_photo(60, 90)], settings_for(pair, global_pca=wrong))


def test_sizes_share_programs(model):
    settings = settings_for(model, grid=64)
    canvases.program.cache_clear()
    photos = [_photo(70 + 7 * i, 100 + 9 * i, seed=i) for i in range(6)]
    _extract(model, photos, settings)
    buckets = {
        (*[canvases.bucket_side(side, 64) for side in size], scale == 1.0)
        for photo in photos
        for scale in settings.image_scales
        for size in [extract.pyramid_size(photo.shape[:2], scale)]
    }
    assert canvases.program.cache_info().misses <= len(buckets) < 12


def test_images_are_read_only_a_little_ahead(model, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(_photo(40, 40)).save(path)
    taken = []

    def names():
        for number in range(100):
            taken.append(number)
            yield path

    results = extract_features(model, names(), SETTINGS, threads=2)
    next(results)
    results.close()
    assert len(taken) < 10


@pytest.mark.golden
def test_pyramid_sizes_are_the_originals(golden):
    table = json.loads((golden / "pyramid_sizes.json").read_text())
    assert table["rows"]
    for height, width, scale, new_height, new_width in table["rows"]:
        size = extract.pyramid_size((height, width), scale)
        assert size == (new_height, new_width)
