"""The settings of extraction: fields, allowed values, and how they become JSON."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from delf_jax.config import check_field
from delf_jax.extraction.pca import Whitening, is_projection
from delf_jax.files import InputError, digest
from delf_jax.images import MAX_PIXELS, SizeBounds
from delf_jax.models.resnet import ResNet


class ExtractionSettings(NamedTuple):
    """What to extract, in the words of the original's DelfConfig where it has them."""

    image_scales: tuple[float, ...] = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    """resize factors of the pyramid"""
    global_scales: tuple[int, ...] = (3, 4, 5)
    """indices of the image scales whose global descriptors are summed; () is none"""
    max_image_size: int | None = 1024
    """longer side in pixels, larger images are shrunk; None: no bound"""
    min_image_size: int | None = None
    """longer side in pixels, smaller images are enlarged; None: no bound"""
    use_square_images: bool = False
    """squeeze both sides to the longer one"""
    resize_factor: float = 1.0
    """multiplies both bounds (for a crop of an image)"""
    use_resized_coordinates: bool = False
    """locations in pixels of the resized image, not of the original one"""
    max_features: int = 1000
    """local features of an image at most; 0: no local features"""
    attention_threshold: float = 0.0
    """least attention of a feature, in units of one trained model"""
    nms_iou: float = 1.0
    """overlap above which the weaker of two features goes; 1: none goes"""
    locations: str = "exact"
    """"exact", or "delf": the original's, 2 to 3 pixels off in Keras' layout; networks
    that the original does not have are always exact"""
    pca: Whitening | None = None
    """applied to the normalised local descriptors, which are then normalised again"""
    global_pca: Whitening | None = None
    """applied likewise to the global descriptors of the scales, before their sum"""
    gem_power: float = 0.0
    """GeM+ [SuperGlobal]: the power of GeM in place of the model's; 0: the model's"""
    gem_region: int = 0
    """regional-GeM: side in cells of the means that are mixed with the map; 0: none"""
    gem_floor: float = 0.0
    """ReLUP: what smaller values of the map are raised to"""
    scale_power: float = 1.0
    """scale-GeM: power of the mean over the global scales; 1: sum; 0: the maximum"""
    pixel_mean: tuple[float, float, float] = (128.0, 128.0, 128.0)
    """subtracted from R, G and B in 0 to 255: of the images the network learned from"""
    pixel_std: tuple[float, float, float] = (128.0, 128.0, 128.0)
    """what R, G and B are divided by after that"""
    resize: str = "half_pixel"
    """how pyramid levels are sampled; "legacy": at corners, as TensorFlow 1 did"""
    box_threshold: float = 0.1
    """least score of a box whose features are extracted, too (extract --boxes)"""
    max_boxes: int | None = None
    """of an image, those with the highest scores; None: no bound"""
    max_pixels: int = MAX_PIXELS
    """larger images are refused before they are decoded"""
    grid: int = 64
    """step of the canvas sizes in pixels, a multiple of 32; no effect on results"""
    batch_size: int | None = None
    """canvases computed together; None: depends on the backend; no effect on results"""
    engine: str = "jax"
    """what runs the network: "jax", or "openvino" on the processor (the extra of this
    name); no effect on results but for rounding"""
    precision: str = "float32"
    """of the network's arithmetic; "bfloat16" is faster where the device has it"""

    @property
    def size_bounds(self) -> SizeBounds:
        """What the longer side of an image is brought into."""
        return SizeBounds(self.max_image_size, self.min_image_size)

    @property
    def sampled_at(self) -> float:
        """Where in a pixel resizing samples it."""
        return 0.0 if self.resize == "legacy" else 0.5


PCA_FIELDS = ("pca", "global_pca")
# What is done for global descriptors, whichever model they are of.
POOLING_FIELDS = ("gem_power", "gem_region", "gem_floor", "scale_power")
GLOBAL_FIELDS = ("global_scales", "global_pca", *POOLING_FIELDS)
ENGINES = ("jax", "openvino")
# What the others may be, as configs/common.py explains.
RANGES = {
    "image_scales": ["(0, 8]", "(0, 8]", ...],
    "global_scales": [range(2**31), ...],
    "max_image_size": (None, range(1, 2**31)),
    "min_image_size": (None, range(2**16)),
    "use_square_images": bool,
    "resize_factor": "[0, 100]",
    "use_resized_coordinates": bool,
    "max_features": range(2**31),
    "attention_threshold": "(-inf, inf)",
    "nms_iou": "[0, 1]",
    "gem_power": "[0, 1000]",
    "gem_region": (0, range(3, 64, 2)),
    "gem_floor": "[0, inf)",
    "scale_power": "[0, 1000]",
    "locations": ("exact", "delf"),
    "pixel_mean": ["(-inf, inf)"] * 3,
    "pixel_std": ["(0, inf)"] * 3,
    "resize": ("half_pixel", "legacy"),
    "box_threshold": "(-inf, inf)",
    "max_boxes": (None, range(2**31)),
    "max_pixels": range(1, 2**63 - 1),
    "grid": range(32, 2**16, 32),
    "batch_size": (None, range(1, 2**16)),
    "engine": ENGINES,
    "precision": ("float32", "bfloat16"),
}
# They decide how fast a result comes, not what it is. Two engines round differently, as
# two processors do; bfloat16 makes other features.
WITHOUT_EFFECT = ("grid", "batch_size", "max_pixels", "engine")
# In the JSON where they differ from the default: older stores keep their key.
ADDED = (
    "global_pca",
    "pixel_mean",
    "pixel_std",
    "resize",
    "box_threshold",
    "max_boxes",
    "precision",
    *POOLING_FIELDS,
)


def settings_for(model: Any, **overrides: Any) -> ExtractionSettings:
    """The settings that a model was made for, with some of them replaced.

    InputError, naming the field, if one is misspelt or out of range; and for a model
    that finds landmarks, which has no features.
    """
    if model.is_detector:
        raise InputError(
            f"model {model.name} is a detector, which gives boxes and no features: use "
            "it with detect, and another model here"
        )
    values = {**model.config.get("extraction", {}), **overrides}
    if values.get("locations") == "delf" and not _of_the_original(model):
        values["locations"] = "exact"
    if model.global_model is None:
        return make_settings(values)
    return make_settings(values, len(settings_for(model.global_model).image_scales))


def _of_the_original(model: Any) -> bool:
    return isinstance(model.module.backbone, ResNet)


def global_settings(model: Any, settings: ExtractionSettings) -> ExtractionSettings:
    """The settings of a model's global model: its own, but for `GLOBAL_FIELDS`."""
    return settings_for(model.global_model)._replace(
        **{name: getattr(settings, name) for name in GLOBAL_FIELDS},
        max_features=0,
        pca=None,
        max_pixels=settings.max_pixels,
        engine=settings.engine,
        precision=settings.precision,
    )


def make_settings(
    values: Mapping[str, Any], global_scales: int | None = None
) -> ExtractionSettings:
    """Settings from a mapping of some of the fields; the others have their defaults.

    Args:
      global_scales: the number of image scales that the setting of this name chooses
        from; None: as many as there are in `values`.
    """
    for name in values:
        if name not in ExtractionSettings._fields:
            known = ", ".join(ExtractionSettings._fields)
            raise InputError(f"extraction.{name}: no such setting; there are {known}")
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
    for name in PCA_FIELDS:
        pca = values.get(name)
        if isinstance(pca, tuple) and len(pca) in (2, 3):
            values[name] = Whitening(*pca)
    for name, value in values.items():
        if name in RANGES:
            check_field(f"extraction.{name}", value, RANGES[name])
        elif not _is_pca(value):
            raise InputError(f"extraction.{name}: {value!r:.80} is not a projection")
    settings = ExtractionSettings(**values)
    count = global_scales or len(settings.image_scales)
    if any(scale >= count for scale in settings.global_scales):
        raise InputError(
            f"extraction.global_scales is {settings.global_scales!r}: use indices of "
            f"image_scales, below {count}"
        )
    if not settings.max_features and not settings.global_scales:
        raise InputError(
            "extraction: max_features 0 and no global_scales leave nothing to extract"
        )
    return settings


def _is_pca(value: Any) -> bool:
    return value is None or (isinstance(value, Whitening) and is_projection(value))


def settings_to_json(settings: ExtractionSettings) -> dict[str, Any]:
    """The settings that decide the result, ready for JSON; arrays by their SHA-256."""
    values = settings._asdict()
    defaults = ExtractionSettings._field_defaults
    same = [name for name in ADDED if values[name] == defaults[name]]
    for name in [*WITHOUT_EFFECT, *same]:
        del values[name]
    for name in PCA_FIELDS:
        if values.get(name) is not None:
            arrays = [np.asarray(a) for a in values[name] if a is not None]
            data = b"".join(str(a.shape).encode() + a.tobytes() for a in arrays)
            values[name] = digest(data)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
