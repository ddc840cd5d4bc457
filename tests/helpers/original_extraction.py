"""The original's numbers of extraction, and our model of its network."""

import functools
import json
import pathlib

import numpy as np

from delf_jax import images
from delf_jax.extraction import canvases, model_folder
from delf_jax.extraction.extract import extract_features, pyramid_size
from delf_jax.extraction.model_folder import build_module
from delf_jax.extraction.pca import Whitening
from delf_jax.extraction.postprocessing import Level, select_features
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.models import resnet
from delf_jax.models.architecture import fold_batch_norm
from tests.helpers.foreign_weights import golden_weights
from tests.helpers.original_names import variables_from_keras

# One canvas for all levels of the golden image, so that one program does for all.
GOLDEN_GRID = 416


class Original:
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
    named = golden_weights(golden, "variables_keras_delg.json")
    architecture = {
        "name": "delg",
        "depth": 50,
        "layout": "keras",
        "block3_strides": stride == 32,
    }
    variables = variables_from_keras(named)
    return fold_batch_norm(build_module(architecture), variables)
