"""Models as folders: model.safetensors and config.json, checked and ready to run."""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from delf_jax import runtime
from delf_jax.extraction.card import write_card
from delf_jax.extraction.pca import FILES, load_pca
from delf_jax.extraction.settings import GLOBAL_FIELDS, PCA_FIELDS, settings_for
from delf_jax.files import (
    InputError,
    atomic_write,
    digest,
    reading,
    sha256_of,
    write_bytes,
)
from delf_jax.manifests import (
    SHA256,
    is_inside,
    one_of,
    owned,
    read_manifest,
    write_manifest,
)
from delf_jax.models.architecture import (
    DETECTORS,
    build,
    expected_shapes,
    fold_batch_norm,
)
from delf_jax.models.receptive_field import ReceptiveField, field_of_block3

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_SCHEMA = {
    "format": one_of(FORMAT),
    "architecture": {},  # Checked by `build`,
    "extraction": {},  # and by `make_settings`.
    "provenance?": {},
    "calibration?": {},  # Checked by search/calibration.py.
    "sha256": SHA256,
    # Weights of the bundled model whose backbone this one has, and leaves out.
    "backbone?": SHA256,
    # Projections beside the weights; of version 0.1 nothing is known.
    "files?": {str: SHA256},
}
_REPAIR = "train, export or convert the model again, or copy it again"
PCA_DEFAULTS = {"variances": "", "dimension": 0, "use_whitening": False}
PCA_FILES = ("mean", "projection")
_BUNDLED = pathlib.Path(__file__).parents[1] / "bundled"
BUNDLED, BUNDLED_DETECTOR = _BUNDLED / "delg_tiny", _BUNDLED / "ssd_tiny"


class Model(NamedTuple):
    """A network with its parameters, ready to run."""

    module: nn.Module
    variables: dict[str, Any]
    config: dict[str, Any]
    fingerprint: str
    """sha256 of architecture and weights, in hex"""
    name: str
    folder: str = ""
    """its absolute path; "": the bundled one, or a model of no folder"""
    global_model: "Model | None" = None
    """gives the global descriptors in place of this one, by its own settings"""

    @property
    def has_local(self) -> bool:
        """Whether the network has a branch of local features."""
        return hasattr(self.module, "reduced_dimension")

    @property
    def has_global(self) -> bool:
        """Whether the network has a branch of global descriptors."""
        return hasattr(self.module, "global_dimension")

    @property
    def is_detector(self) -> bool:
        """Whether the network gives boxes, and no features."""
        return self.config.get("architecture", {}).get("name") in DETECTORS

    def receptive_field(self, side: int) -> ReceptiveField:
        """Where local features look in an image as the network sees it, along one axis.

        A feature found at a scale sees, and is placed in steps of, as many times more
        pixels of the photo. InputError for a model without local features.

        Args:
          side: of the image, in pixels, on which padding, and so `offset`, may depend.
        """
        if not self.has_local:
            raise InputError(f"model {self.name} has no local features")
        return field_of_block3(self.module.backbone, side)

    def __repr__(self) -> str:
        module = self.module
        millions = sum(x.size for x in jax.tree.leaves(self.variables)) / 1e6
        gives = []
        if self.has_local:
            dimension = self._dimension("pca", module.reduced_dimension, "block3")
            gives.append(f"local descriptors of {dimension} dimensions")
        if self.global_model is not None:
            gives.append(f"the global descriptor of {self.global_model!r}")
        elif self.has_global:
            dimension = self._dimension("global_pca", module.global_dimension, "block4")
            gives.append(f"a global descriptor of {dimension}")
        if self.is_detector:
            gives.append(f"boxes of landmarks, from {module.image_size} pixels")
        return (
            f"{self.name}: {type(module).__name__}, {module.backbone.title}\n"
            f"{millions:.1f} million parameters, fingerprint {self.fingerprint[:8]}\n"
            f"gives {' and '.join(gives)}"
        )

    def _dimension(self, setting: str, reduced: int, block: str) -> int:
        """Of descriptors of a block, after a reduction (0: none) and a projection."""
        pca = self.config.get("extraction", {}).get(setting)
        if pca is not None:
            return len(pca.projection)
        return reduced or self.module.backbone.channels(block)


def build_module(
    architecture: Mapping[str, Any], *, axis_name: str | None = None
) -> nn.Module:
    """As `architecture.build`; InputError for what it does not allow."""
    try:
        return build(architecture, axis_name=axis_name)
    except ValueError as error:
        raise InputError(str(error)) from None


def save_model(
    directory: str | os.PathLike,
    architecture: Mapping[str, Any],
    variables: Mapping[str, Any],
    extraction: Mapping[str, Any],
    provenance: Mapping[str, Any],
    dtype: str = "float16",
    calibration: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model folder with its card; what only training needs is left out.

    Kernels are stored as `dtype`, vectors as float32: statistics overflow in float16.

    Args:
      calibration: as search/calibration.py reads it.
    """
    architecture = {**architecture, "num_classes": 0}
    named = flatten_dict(variables, sep="/")
    tensors = {}
    directory = pathlib.Path(directory)
    for name, shape in expected_shapes(build_module(architecture)).items():
        if name not in named:
            raise InputError(f"variables of {architecture['name']} lack {name}")
        tensor = np.asarray(named[name], np.float32)
        if tensor.shape != shape:
            raise InputError(f"{name} has shape {tensor.shape}, not {shape}")
        kind = dtype if tensor.ndim > 1 else np.float32
        # safetensors writes the memory as it lies, transposed or not
        with np.errstate(over="ignore"):  # It is refused.
            tensors[name] = tensor.astype(kind, order="C")
    _check_finite(tensors, directory)
    with atomic_write(owned(directory / WEIGHTS)) as file:
        file.write(safetensors.numpy.save(tensors))
    config = {
        "format": FORMAT,
        "architecture": architecture,
        "extraction": dict(extraction),
        "provenance": dict(provenance),
        "sha256": sha256_of(directory / WEIGHTS),
        "files": {
            name: sha256_of(directory / name)
            for name in _projection_files(extraction)
            if is_inside(name) and (directory / name).is_file()
        },
    }
    if calibration:
        config["calibration"] = dict(calibration)
    write_card(directory, config)
    write_manifest(directory / CONFIG, config)


def load_model(
    path: str | os.PathLike | None = None,
    global_model: str | os.PathLike | None = None,
) -> Model:
    """The model of a folder (by default the bundled one), BatchNorm folded.

    Args:
      global_model: the folder of one that gives the global descriptors in its place.
    """
    if global_model is not None:
        return _with_global_model(load_model(path), load_model(global_model))
    directory = pathlib.Path(BUNDLED if path is None else path)
    config, variables = read_model(directory)
    architecture = config["architecture"]
    config["extraction"] = _with_projections(config, directory)
    with np.errstate(invalid="ignore"):  # A variance below 0 is refused.
        module, variables = fold_batch_norm(build_module(architecture), variables)
    _check_finite(flatten_dict(variables, sep="/"), directory)
    variables = jax.device_put(variables)
    name, folder = directory.resolve().name, "" if path is None else str(path)
    folder = os.path.abspath(folder) if folder else ""
    return Model(module, variables, config, fingerprint_of(config), name, folder)


def fingerprint_of(config: Mapping[str, Any]) -> str:
    """The fingerprint of the model that a folder's config describes."""
    architecture = json.dumps(config["architecture"], sort_keys=True)
    return digest(architecture + config["sha256"] + config.get("backbone", ""))


def _with_global_model(model: Model, other: Model) -> Model:
    """A model whose global descriptors are of another; InputError if they cannot be."""
    if not model.has_local:
        raise InputError(
            f"model {model.name} has no local branch: beside --global_model, --model "
            "is the one of local features; leave it out for the bundled one"
        )
    found = settings_for(other) if other.has_global else None
    if found is None or not found.global_scales:
        why = "has no global branch" if found is None else "has no global_scales"
        raise InputError(
            f"model {other.name} {why}: --global_model takes one that gives global "
            "descriptors"
        )
    theirs = {name: getattr(found, name) for name in GLOBAL_FIELDS}
    extraction = {**model.config.get("extraction", {}), **theirs}
    config = {**model.config, "extraction": extraction}
    return model._replace(config=config, global_model=other)


def read_model(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config, float32 variables) of a model folder, as they were stored."""
    directory = pathlib.Path(path)
    if directory.is_file():
        raise InputError(
            f"{directory}: a file, not a model folder; run `convert {directory} "
            "--out=MODEL` if it has weights, then name MODEL"
        )
    if not directory.is_dir():
        raise InputError(f"{directory}: no such model folder")
    if (directory / "checkpoints").is_dir():
        raise InputError(
            f"{directory}: the workdir of a training; its model is "
            f"{directory / 'model'}, once it has finished"
        )
    config = read_manifest(directory / CONFIG, _SCHEMA, _REPAIR)
    tensors = _read_tensors(directory / WEIGHTS, config["sha256"])
    if sha256 := config.get("backbone"):
        tensors |= _bundled_backbone(sha256, directory)
    module = build_module(config["architecture"])
    try:
        expected = _shapes_of(module)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory / CONFIG}: no network has this architecture ({error!s:.100}); "
            f"{_REPAIR}"
        ) from None
    matched = _matched(tensors, expected, directory)
    _check_finite(matched, directory)
    return config, unflatten_dict(matched, sep="/")


def leave_out_backbone(
    source: str | os.PathLike, out: str | os.PathLike, digits: int
) -> None:
    """Writes a model without its backbone, which is that of the bundled one.

    InputError if it is another.

    Args:
      digits: binary digits of what is left, which a wheel packs the better the fewer.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    config, _ = read_model(source)
    tensors = _read_tensors(source / WEIGHTS, config["sha256"])
    sha256 = sha256_of(BUNDLED / WEIGHTS)
    for name, known in _bundled_backbone(sha256, source).items():
        if name not in tensors or not np.array_equal(tensors.pop(name), known):
            raise InputError(f"{source}: {name} is not that of the bundled model")
    rounded = {name: _rounded(tensor, digits) for name, tensor in tensors.items()}
    with atomic_write(owned(out / WEIGHTS)) as file:
        file.write(safetensors.numpy.save(rounded))
    config |= {"sha256": sha256_of(out / WEIGHTS), "backbone": sha256}
    write_manifest(out / CONFIG, config)


def copy_weights(source: str | os.PathLike, out: str | os.PathLike) -> dict[str, Any]:
    """Writes the weights of a model folder, whole if they lack a backbone.

    Returns:
      the config that belongs to them.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    config, _ = read_model(source)  # checked, with the numbers of every tensor.
    if sha256 := config.pop("backbone", ""):
        tensors = _read_tensors(source / WEIGHTS, config["sha256"])
        tensors |= _bundled_backbone(sha256, source)
        write_bytes(out / WEIGHTS, safetensors.numpy.save(tensors))
        return config | {"sha256": sha256_of(out / WEIGHTS)}
    shutil.copyfile(source / WEIGHTS, out / WEIGHTS)
    return config


def _rounded(x: np.ndarray, digits: int) -> np.ndarray:
    """The numbers with so many binary digits, the first of which is one."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    scale = 2.0**digits
    return np.ldexp(np.round(mantissa * scale) / scale, exponent).astype(x.dtype)


def _bundled_backbone(sha256: str, directory: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of the bundled model's backbone, as stored, if these are its weights.

    InputError, naming the directory of who wants them, if its weights are others.
    """
    if sha256_of(BUNDLED / WEIGHTS) != sha256:
        raise InputError(
            f"{directory}: has no backbone of its own, and that of another version's "
            "bundled model is not here; use the delf_jax that it came with"
        )
    tensors = _read_tensors(BUNDLED / WEIGHTS, sha256)
    return {n: x for n, x in tensors.items() if n.split("/")[1] == "backbone"}


def _shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """`expected_shapes`, which takes as long as all else of opening a model: kept."""
    text = runtime.keep(
        "shapes", repr(module), lambda: json.dumps(expected_shapes(module)).encode()
    )
    return {name: tuple(shape) for name, shape in json.loads(text).items()}


def _projection_files(extraction: Mapping[str, Any]) -> list[str]:
    """The .datum files that settings name, as they name them."""
    named = (extraction.get(field) or {} for field in PCA_FIELDS)
    files = (pca[name] for pca in named for name in pca if name in FILES)
    return [file for file in files if file]


def _with_projections(
    config: dict[str, Any], directory: pathlib.Path
) -> dict[str, Any]:
    """The settings, with projections read from the .datum files that they name.

    InputError if these lie elsewhere, or are others than those of the model.
    """
    read, extraction = {}, config["extraction"]
    for field in PCA_FIELDS:
        pca = extraction.get(field)
        if pca is not None:
            where = f"{directory / CONFIG}: extraction.{field}"
            _check_pca(pca, where)
            for name in _projection_files({field: pca}):
                if not is_inside(name):
                    raise InputError(f"{where}: {name!r} is no file of this folder")
                known = config.get("files", {}).get(name)
                if known and known != _sha256_of(directory / name):
                    raise InputError(
                        f"{directory / name}: not the file that {CONFIG} describes: "
                        f"damaged; {_REPAIR}"
                    )
            paths = {
                key: str(directory / value) if isinstance(value, str) else value
                for key, value in pca.items()
            }
            read[field] = load_pca(ConfigDict(PCA_DEFAULTS | paths))
    return extraction | read


def _check_pca(pca: Any, where: str) -> None:
    if not isinstance(pca, dict) or not set(PCA_FILES) <= pca.keys():
        raise InputError(f"{where} must name the files mean and projection")
    known = dict.fromkeys(PCA_FILES, "") | PCA_DEFAULTS
    for key, value in pca.items():
        if key not in known or type(value) is not type(known[key]):
            raise InputError(f"{where}.{key}: {value!r} is not allowed")


def _read_tensors(path: pathlib.Path, sha256: str) -> dict[str, np.ndarray]:
    if _sha256_of(path) != sha256:
        raise InputError(
            f"{path}: not the file that {CONFIG} describes: damaged; {_REPAIR}"
        )
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def _sha256_of(path: pathlib.Path) -> str:
    with reading(path):
        return sha256_of(path)


def _check_finite(tensors: Mapping[str, np.ndarray], directory: pathlib.Path) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise InputError(
                f"{directory}: {name} has numbers that are not finite in "
                f"{tensor.dtype}: the training has diverged, or the file is damaged"
            )


def _matched(
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    directory: pathlib.Path,
) -> dict[str, np.ndarray]:
    """The tensors as float32, exactly the expected ones."""
    different = sorted(set(tensors) ^ set(expected))
    for name in [*different, *tensors]:
        found = tensors[name].shape if name in tensors else "absent"
        wanted = expected.get(name, "absent")
        if found != wanted:
            raise InputError(
                f"{directory}: {name} is {found} in model.safetensors but {wanted} "
                "in the architecture of config.json"
            )
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
