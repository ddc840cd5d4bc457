"""Models as folders: model.safetensors and config.json, checked and ready to run."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from delf_jax.extraction.pca import load_pca
from delf_jax.extraction.settings import PCA_FIELDS
from delf_jax.files import (
    InputError,
    atomic_write,
    digest,
    read_json,
    sha256_of,
    write_json,
)
from delf_jax.models.architecture import build, expected_shapes, fold_batch_norm
from delf_jax.models.resnet import BASIC_DEPTHS

FORMAT = 1
PCA_DEFAULTS = {"variances": "", "dimension": 0, "use_whitening": False}
PCA_FILES = ("mean", "projection")
BUNDLED = pathlib.Path(__file__).parents[1] / "bundled" / "delg_tiny"


class Model(NamedTuple):
    """A network with its parameters, ready to run."""

    module: nn.Module
    variables: dict[str, Any]
    config: dict[str, Any]
    fingerprint: str
    """sha256 of architecture and weights, in hex"""
    name: str

    @property
    def has_local(self) -> bool:
        """Whether the network has a branch of local features."""
        return hasattr(self.module, "reduced_dimension")

    @property
    def has_global(self) -> bool:
        """Whether the network has a branch of global descriptors."""
        return hasattr(self.module, "global_dimension")

    def __repr__(self) -> str:
        module, backbone = self.module, self.module.backbone
        millions = sum(x.size for x in jax.tree.leaves(self.variables)) / 1e6
        gives = []
        if self.has_local:
            dimension = self._dimension("pca", module.reduced_dimension, 3)
            gives.append(f"local descriptors of {dimension} dimensions")
        if self.has_global:
            dimension = self._dimension("global_pca", module.global_dimension, 4)
            gives.append(f"a global descriptor of {dimension}")
        return (
            f"{self.name}: {type(module).__name__}, "
            f"ResNet-{backbone.depth} of width {backbone.width}\n"
            f"{millions:.1f} million parameters, fingerprint {self.fingerprint[:8]}\n"
            f"gives {' and '.join(gives)}"
        )

    def _dimension(self, setting: str, reduced: int, block: int) -> int:
        """Of descriptors of a block, after a reduction (0: none) and a projection."""
        pca = self.config.get("extraction", {}).get(setting)
        if pca is not None:
            return len(pca.projection)
        backbone = self.module.backbone
        expansion = 1 if backbone.depth in BASIC_DEPTHS else 4
        return reduced or expansion * backbone.width * 2 ** (block - 1)


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
) -> None:
    """Writes a model folder; what only training needs is left out.

    Kernels are stored as `dtype`, vectors as float32: statistics overflow in float16.
    """
    architecture = {**architecture, "num_classes": 0}
    named = flatten_dict(variables, sep="/")
    tensors = {}
    for name, shape in expected_shapes(build_module(architecture)).items():
        if name not in named:
            raise InputError(f"variables of {architecture['name']} lack {name}")
        tensor = np.asarray(named[name], np.float32)
        if tensor.shape != shape:
            raise InputError(f"{name} has shape {tensor.shape}, not {shape}")
        kind = dtype if tensor.ndim > 1 else np.float32
        # safetensors writes the memory as it lies, transposed or not
        tensors[name] = tensor.astype(kind, order="C")
    directory = pathlib.Path(directory)
    with atomic_write(directory / "model.safetensors") as file:
        file.write(safetensors.numpy.save(tensors))
    config = {
        "format": FORMAT,
        "architecture": architecture,
        "extraction": dict(extraction),
        "provenance": dict(provenance),
        "sha256": sha256_of(directory / "model.safetensors"),
    }
    write_json(directory / "config.json", config)


def load_model(path: str | os.PathLike | None = None) -> Model:
    """The model of a folder (by default the bundled one), BatchNorm folded."""
    directory = pathlib.Path(BUNDLED if path is None else path)
    config, variables = read_model(directory)
    architecture = config["architecture"]
    config["extraction"] = _with_projections(config["extraction"], directory)
    module, variables = fold_batch_norm(build_module(architecture), variables)
    variables = jax.tree.map(jnp.asarray, variables)
    identity = json.dumps(architecture, sort_keys=True) + config["sha256"]
    return Model(module, variables, config, digest(identity), directory.resolve().name)


def read_model(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config, float32 variables) of a model folder, as they were stored."""
    directory = pathlib.Path(path)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such model folder")
    file = directory / "config.json"
    config = read_json(file)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{file}: not the config of a model of format {FORMAT}")
    for field, kind in (("architecture", dict), ("extraction", dict), ("sha256", str)):
        if not isinstance(config.get(field), kind):
            raise InputError(f"{file}: field {field} is missing or of the wrong type")
    tensors = _read_tensors(directory / "model.safetensors", config["sha256"])
    expected = expected_shapes(build_module(config["architecture"]))
    return config, unflatten_dict(_matched(tensors, expected, directory), sep="/")


def _with_projections(
    extraction: dict[str, Any], directory: pathlib.Path
) -> dict[str, Any]:
    """The settings, with projections read from the .datum files that they name."""
    read = {}
    for field in PCA_FIELDS:
        pca = extraction.get(field)
        if pca is not None:
            _check_pca(pca, f"{directory / 'config.json'}: extraction.{field}")
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
    try:
        if sha256_of(path) != sha256:
            raise InputError(f"{path}: not the file that config.json describes")
        return safetensors.numpy.load_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


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
