"""Codebooks on disk: their visual words, and what descriptors they belong to.

    codebook.safetensors  centroids [K, D], float32
    codebook.json         model and settings of the descriptors, how it was fitted

Those of Detect-to-Retrieve [D2R], which are TensorFlow checkpoints, are read as well.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from delf_jax.files import InputError, sha256_of
from delf_jax.formats.delf.codebook import read_codebook
from delf_jax.formats.tensor_files import read_tensors, write_tensors
from delf_jax.manifests import POSITIVE, SHA256, one_of, read_manifest, write_manifest

FORMAT = 1
INFO, TENSORS = "codebook.json", "codebook.safetensors"
_SCHEMA = {
    "format": one_of(FORMAT),
    **dict.fromkeys(("words", "dimension"), POSITIVE),
    "sha256": SHA256,
    # Where it comes from is not always known.
    "model?": {"name?": str, "fingerprint?": str},
    "settings?": ({"pca?": (str, None)}, None),
    "key?": str,
    "history?": [object],
}
# What a fit that was interrupted leaves.
UNFINISHED = "unfinished.safetensors"


class Codebook(NamedTuple):
    """Visual words, and where they come from."""

    centroids: Float32[np.ndarray, "K D"]
    info: dict[str, Any]
    """codebook.json; {} of a TensorFlow checkpoint, which has none"""
    path: pathlib.Path


def save_codebook(
    directory: str | os.PathLike,
    centroids: Float32[np.ndarray, "K D"],
    provenance: Mapping[str, Any],
) -> Codebook:
    """Writes a codebook; the codebook as it will be read."""
    directory = pathlib.Path(directory)
    write_tensors(directory / TENSORS, {"centroids": centroids}, {})
    words, dimension = centroids.shape
    info = {"format": FORMAT, "words": words, "dimension": dimension}
    info |= {"sha256": sha256_of(directory / TENSORS), **provenance}
    write_manifest(directory / INFO, info)
    return Codebook(centroids, info, directory)


def load_codebook(path: str | os.PathLike) -> Codebook:
    """The codebook of a folder, or of a TensorFlow checkpoint; InputError if broken."""
    path = pathlib.Path(path)
    if not (path / INFO).is_file():
        if (path / UNFINISHED).is_file() or (path / TENSORS).is_file():
            raise InputError(f"{path}: not finished: resume with `fit codebook`")
        return Codebook(read_codebook(path), {}, path)
    info = read_manifest(path / INFO, _SCHEMA, "fit it again")
    if not (path / TENSORS).is_file():
        raise InputError(f"{path / TENSORS}: no such file")
    if sha256_of(path / TENSORS) != info["sha256"]:
        raise InputError(
            f"{path / TENSORS}: not the file that {INFO} describes: damaged; fit it "
            "again"
        )
    tensors, _ = read_tensors(path / TENSORS)
    centroids = tensors.get("centroids", np.zeros(0))
    if (
        centroids.dtype != np.float32
        or centroids.shape != (info["words"], info["dimension"])
        or not np.isfinite(centroids).all()
    ):
        raise InputError(
            f"{path / TENSORS}: has no centroids [words, dimensions] of finite numbers"
        )
    return Codebook(centroids, info, path)


def check_codebook(
    codebook: Codebook, manifest: Mapping[str, Any], dimension: int
) -> None:
    """InputError unless a codebook was fitted to descriptors like those of a store."""
    length = codebook.centroids.shape[1]
    check_fitted("codebook", codebook.path, codebook.info, length, manifest, dimension)


def check_fitted(
    what: str,
    path: pathlib.Path,
    info: Mapping[str, Any],
    length: int,
    manifest: Mapping[str, Any],
    dimension: int,
) -> None:
    """InputError unless what is at `path` was fitted to descriptors like a store's.

    Model and projection must be the same, too, as far as both sides have these.
    """
    if length != dimension:
        raise InputError(
            f"{path}: a {what} of {length} dimensions does not fit "
            f"descriptors of {dimension}: fit one to them"
        )
    ours, theirs = (side.get("model", {}) for side in (info, manifest))
    fingerprints = ours.get("fingerprint"), theirs.get("fingerprint")
    if not all(fingerprints):
        return
    if fingerprints[0] != fingerprints[1]:
        raise InputError(
            f"{path}: was fitted to descriptors of the model {ours.get('name')}, not "
            f"of {theirs.get('name')}: fit a {what} to these"
        )
    our_pca, their_pca = (
        (side.get("settings") or {}).get("pca") for side in (info, manifest)
    )
    if our_pca != their_pca:
        raise InputError(
            f"{path}: was fitted to descriptors of another PCA: fit a {what} to these"
        )
