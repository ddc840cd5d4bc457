"""PCA and whitening of descriptors: read, checked, applied."""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from delf_jax.files import InputError, sha256_of
from delf_jax.formats.delf import datum
from delf_jax.manifests import COUNT, MODEL, POSITIVE, SHA256, one_of, read_manifest
from delf_jax.ops import normalize_rows

INFO = "pca.json"
FILES = {
    "mean": "mean.datum",
    "projection": "pca_proj_mat.datum",
    "variances": "pca_variances.datum",
}
_SCHEMA = {
    "format": one_of(1),
    "dimension": POSITIVE,
    "sha256": {str: SHA256},
    "model": MODEL,
    "settings": ({"global_scales?": [int]}, None),
    "images": COUNT,
    **dict.fromkeys(("descriptors?", "pairs?", "pairs_left_out?"), COUNT),
    "missing?": [str],
    "of?": one_of("local", "global"),
    "use_whitening?": bool,
    "half_whitened?": bool,
    "explained_variance?": float,
}
# What may be projected, and the setting that does it.
SETTINGS = {"local": "pca", "global": "global_pca"}


class Whitening(NamedTuple):
    """A PCA projection of descriptors; with variances, whitening."""

    mean: Float[np.ndarray, "D"]
    projection: Float[np.ndarray, "E D"]
    variances: Float[np.ndarray, "E"] | None = None


def is_projection(pca: Whitening) -> bool:
    """Whether mean, projection and variances have shapes that fit."""
    mean, projection = np.shape(pca.mean), np.shape(pca.projection)
    variances = projection[:1] if pca.variances is None else np.shape(pca.variances)
    return len(mean) == len(variances) == 1 and projection == variances + mean


def load_pca(pca: ConfigDict) -> Whitening:
    """The projection of .datum files; InputError if one is damaged or does not fit."""
    mean, projection = _read(pca.mean).reshape(-1), _read(pca.projection)
    if projection.ndim != 2 or projection.shape[1] != len(mean):
        raise InputError(
            f"{pca.projection}: shape {list(projection.shape)} does not match the "
            f"{len(mean)} dimensions of {pca.mean}"
        )
    dimension = pca.dimension or len(projection)
    if not 0 < dimension <= len(projection):
        raise InputError(
            f"{pca.projection}: expected {dimension} components, got {len(projection)}"
        )
    variances = None
    if pca.use_whitening:
        variances = _read(pca.variances).reshape(-1)[:dimension]
        if len(variances) < dimension or not (variances > 0).all():
            raise InputError(
                f"{pca.variances}: whitening needs {dimension} positive variances"
            )
    return Whitening(mean, projection[:dimension], variances)


def _read(path: str | None) -> np.ndarray:
    """Finite floats of a .datum file."""
    if not path:
        raise InputError(
            "extraction.pca: set mean, projection and, to whiten, variances"
        )
    array = datum.read_datum(path)
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise InputError(f"{path}: expected finite float32 numbers")
    return array


def read_info(folder: str | os.PathLike) -> dict[str, Any]:
    """pca.json: what a projection was fitted to."""
    return read_manifest(pathlib.Path(folder) / INFO, _SCHEMA, "fit again")


def check_model(setting: str, path: str | os.PathLike, model: Any) -> None:
    """InputError if a projection was fitted to features of another model, or kind.

    Args:
      setting: a value of `SETTINGS`.
      path: of the projection. Without a pca.json beside it that lists this very file,
        it is trusted.
      model: of which the descriptors are.
    """
    path = pathlib.Path(path)
    if not path.with_name(INFO).is_file():
        return
    info = read_info(path.parent)
    if path.name not in info["sha256"]:
        return
    if info["sha256"][path.name] != sha256_of(path):
        raise InputError(
            f"{path}: not the file that {INFO} describes: damaged; fit again, or "
            f"remove {INFO} if this file is of something else"
        )
    if SETTINGS.get(info.get("of", "local")) != setting:
        raise InputError(
            f"extraction.{setting}: {path} was fitted to {info.get('of')} descriptors"
        )
    made_by = info["model"]
    if made_by["fingerprint"] not in ("", model.fingerprint):
        raise InputError(
            f"extraction.{setting}: {path} was fitted to descriptors of the model "
            f"{made_by['name']}, not of {model.name}: fit one to these"
        )


def project(
    descriptors: Float[np.ndarray, "N D"], pca: Whitening, setting: str = "pca"
) -> Float[np.ndarray, "N E"]:
    """Descriptors after PCA (whitened if there are variances), L2-normalised again."""
    check_projection(descriptors.shape[1], pca, setting)
    projected = (descriptors - pca.mean) @ pca.projection.T
    if pca.variances is not None:
        projected = projected / np.sqrt(pca.variances)
    return normalize_rows(projected)


def check_projection(dimension: int, pca: Whitening, setting: str) -> None:
    """InputError if a projection is for descriptors of another dimension."""
    if dimension != len(pca.mean):
        raise InputError(
            f"extraction.{setting} expects descriptors of {len(pca.mean)} dimensions; "
            f"those of this model have {dimension}"
        )
