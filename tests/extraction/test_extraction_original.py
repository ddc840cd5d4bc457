"""Extraction against the numbers of the original, end to end.

`pytest -m golden -rP tests/test_extraction_original.py` prints the largest differences.
"""

import functools
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from delf_jax import images
from delf_jax.extraction import canvases, model_folder
from delf_jax.extraction.extract import extract_features, pyramid_size
from delf_jax.extraction.model_folder import build_module
from delf_jax.extraction.pca import Whitening
from delf_jax.extraction.postprocessing import Level, select_features
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.models import resnet
from delf_jax.models.architecture import fold_batch_norm
from tests.helpers.original_names import variables_from_keras

pytestmark = pytest.mark.golden

# One canvas for all levels of the golden image, so that one program does for all.
GOLDEN_GRID = 416
DESCRIPTORS = ("descriptors_no_pca", "descriptors_pca40", "descriptors_pca40_whitened")


class _Original:
    """The original's numbers for one stride of block3, and our model of it."""

    def __init__(self, golden: pathlib.Path, stride: int):
        self.stored = np.load(golden / "extraction.npz")
        tolerances = json.loads((golden / "tolerances.json").read_text())
        self.tolerances = tolerances["extraction.npz"]
        self.prefix = f"stride{stride}"
        module, variables = _golden_network(golden, stride)
        self.model = model_folder.Model(module, variables, {}, "0" * 64, "golden")
        self.settings = ExtractionSettings(
            image_scales=tuple(self.stored["image_scales"].tolist()),
            global_scales=tuple(self.stored["global_scales_ind"].tolist()),
            attention_threshold=float(self[f"{self.prefix}/threshold"]),
            max_image_size=None,
            locations="delf",
            grid=GOLDEN_GRID,
        )

    def __getitem__(self, name: str) -> np.ndarray:
        return self.stored[name]

    def pca(self, whiten: bool) -> Whitening:
        dimension = int(self["pca_dim"])
        return Whitening(
            self["pca_mean"],
            self["pca_matrix"][:dimension],
            self["pca_variances"][:dimension] if whiten else None,
        )

    def extract(self, **changes) -> Features:
        (found,) = extract_features(
            self.model, [self["image"]], self.settings._replace(**changes)
        )
        return found

    @functools.cached_property
    def levels(self) -> list[Level]:
        """What the network gives for each level, all cells of it."""
        pixels = images.normalize_pixels(self["image"])
        levels = []
        for scale, image_scale in enumerate(self.settings.image_scales):
            size = pyramid_size(pixels.shape[:2], image_scale)
            canvas = np.zeros((1, GOLDEN_GRID, GOLDEN_GRID, 3), np.float32)
            y, x = (resnet.canvas_offset("keras", side) for side in size)
            level = images.resize_bilinear(pixels, size)
            canvas[0, y : y + size[0], x : x + size[1]] = level
            run = canvases.program(
                self.model.module,
                canvas.shape,
                canvases.KEPT_STEP,
                scale in self.settings.global_scales,
            )
            maps = run(self.model.variables, canvas, np.int32([size]))
            maps = {name: np.asarray(value[0]) for name, value in maps.items()}
            levels.append(Level(scale, size, maps))
        return levels

    def select(self, levels: list[Level] | None = None, **changes) -> Features:
        size = self["image"].shape[:2]
        settings = self.settings._replace(**changes)
        backbone = self.model.module.backbone
        return select_features(levels or self.levels, size, size, settings, backbone)

    def assert_close(self, ours: np.ndarray, name: str, order=slice(None)) -> None:
        expected = self[name][order].reshape(ours.shape)
        # What is a part of another array has no entry of its own.
        known = name if name in self.tolerances else name.replace("1000", "100")
        atol = self.tolerances[known]["atol"]
        difference = np.abs(np.float64(ours) - expected).max(initial=0)
        print(f"{name}: largest difference {difference:.1e}, allowed {atol:.1e}")
        np.testing.assert_allclose(ours, expected, rtol=0, atol=atol, err_msg=name)


def _golden_network(golden: pathlib.Path, stride: int):
    spec = importlib.util.spec_from_file_location("golden", golden / "weights.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    seed = json.loads((golden / "seed.json").read_text())["seed"]
    named = generator.all_weights(str(golden / "variables_keras_delg.json"), seed)
    architecture = {
        "name": "delg",
        "depth": 50,
        "layout": "keras",
        "block3_strides": stride == 32,
    }
    variables = variables_from_keras(named)
    return fold_batch_norm(build_module(architecture), variables)


@pytest.fixture(scope="module", params=[16, 32])
def original(golden, request) -> _Original:
    return _Original(golden, request.param)


def _places(locations: np.ndarray, scales: np.ndarray) -> list[tuple]:
    return [tuple(row) for row in np.round(np.c_[locations, scales], 2).tolist()]


def test_attention_maps_of_all_levels_are_the_originals(original):
    for level in original.levels:
        name = f"{original.prefix}/scale{level.scale}"
        assert level.size == tuple(original[f"{name}/image_size"])
        attention = np.full_like(original[f"{name}/attention_prob"], np.nan)
        valid = level.maps["attention"] >= 0
        rows, columns = level.maps["cells"][valid].T
        attention[rows, columns] = level.maps["attention"][valid]
        original.assert_close(attention, f"{name}/attention_prob")


@pytest.mark.parametrize("iou", [1.0, 0.5])
@pytest.mark.parametrize("count", [100, 1000])
def test_selected_features_are_the_originals(original, iou, count):
    name = f"{original.prefix}/iou{iou}/max{count}"
    found = original.select(max_features=count, nms_iou=iou).local
    boxes = original[f"{name}/boxes"]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    theirs = _places(centres, original[f"{name}/scales"])
    ours = _places(found.locations, found.scales)
    assert sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)
    order = [theirs.index(place) for place in ours]
    original.assert_close(found.attention, f"{name}/scores", order)
    for stored, pca in zip(
        DESCRIPTORS, (None, original.pca(False), original.pca(True)), strict=True
    ):
        if f"{name}/{stored}" in original.stored:
            again = original.select(max_features=count, nms_iou=iou, pca=pca).local
            original.assert_close(again.descriptors, f"{name}/{stored}", order)


def test_global_descriptors_are_the_originals(original):
    name = f"{original.prefix}/iou1.0/max100"
    found = original.select(max_features=0)
    original.assert_close(found.global_descriptor, f"{name}/global_descriptor")
    for row, scale in enumerate(original.settings.global_scales):
        alone = original.select(original.levels[scale : scale + 1], max_features=0)
        original.assert_close(
            alone.global_descriptor[None],
            f"{name}/global_per_scale_normalized",
            slice(row, row + 1),
        )


CASES = {
    "a_plain": {"max_features": 1000},
    "b_max150_pca": {"max_image_size": 150, "max_features": 100, "whiten": False},
    "c_max150_pca_whitening_resized_coordinates": {
        "max_image_size": 150,
        "max_features": 100,
        "use_resized_coordinates": True,
        "whiten": True,
    },
    "d_square160_factor08": {
        "max_image_size": 160,
        "use_square_images": True,
        "resize_factor": 0.8,
        "max_features": 50,
        "whiten": False,
    },
    "e_min200": {
        "max_image_size": 400,
        "min_image_size": 200,
        "max_features": 50,
        "whiten": False,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_whole_extractor_gives_the_originals_numbers(original, case):
    name = f"{original.prefix}/extractor/{case}"
    if f"{name}/scales" not in original.stored:
        pytest.skip("not stored for this stride")
    changes = dict(CASES[case])
    if "whiten" in changes:
        changes["pca"] = original.pca(changes.pop("whiten"))
    found = original.extract(**changes)
    original.assert_close(found.global_descriptor, f"{name}/global_descriptor")
    theirs = _places(original[f"{name}/locations"], original[f"{name}/scales"])
    ours = _places(found.local.locations, found.local.scales)
    assert sorted(ours) == sorted(theirs)
    order = [theirs.index(place) for place in ours]
    for field in ("locations", "scales", "attention", "descriptors"):
        if f"{name}/{field}" in original.stored:
            original.assert_close(getattr(found.local, field), f"{name}/{field}", order)


def test_what_the_original_finds_nothing_in_is_refused(original):
    image = np.zeros((9, 200, 3), np.uint8)
    (result,) = extract_features(original.model, [image], original.settings)
    assert isinstance(result, InputError) and "too few" in str(result)
