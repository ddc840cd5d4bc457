"""Learned rerankers on disk, and the evidence that they find in local descriptors.

    reranker.safetensors  the parameters of models/set_similarity.py, float32
    reranker.json         model and settings of the descriptors, how it was fitted

The step "learned" of a pipeline scores with one the first of each query again.
"""

import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from delf_jax.features import Features, whole_image
from delf_jax.files import InputError, sha256_of
from delf_jax.formats.tensor_files import read_tensors, write_tensors
from delf_jax.index.codebook import check_fitted
from delf_jax.manifests import POSITIVE, SHA256, one_of, read_manifest, write_manifest
from delf_jax.models import set_similarity
from delf_jax.models.set_similarity import SetSimilarity

FORMAT = 1
LEARNED = "learned"
INFO, TENSORS = "reranker.json", "reranker.safetensors"
_SCHEMA = {
    "format": one_of(FORMAT),
    **dict.fromkeys(("dimension", "features"), POSITIVE),
    "sha256": SHA256,
    "model?": {"name?": str, "fingerprint?": str},
    "settings?": ({"pca?": (str, None)}, None),
}
# Of a query, images compared at once: their assignments are 16 MB.
_BATCH = 32


class Reranker(NamedTuple):
    """A network that compares photos by their local descriptors."""

    params: SetSimilarity
    info: dict[str, Any]
    path: pathlib.Path


def save_reranker(
    directory: str | os.PathLike, params: SetSimilarity, provenance: Mapping[str, Any]
) -> Reranker:
    """Writes a reranker; the reranker as it will be read."""
    directory = pathlib.Path(directory)
    arrays = {n: np.asarray(x, np.float32) for n, x in params._asdict().items()}
    write_tensors(directory / TENSORS, arrays, {})
    info = {
        "format": FORMAT,
        "dimension": len(arrays["projection"]),
        "sha256": sha256_of(directory / TENSORS),
        **provenance,
    }
    write_manifest(directory / INFO, info)
    return load_reranker(directory)


def load_reranker(path: str | os.PathLike) -> Reranker:
    """The reranker of a folder; InputError if it is broken, or none is there."""
    path = pathlib.Path(path)
    if not (path / INFO).is_file():
        raise InputError(f"{path}: has no {INFO}: make a reranker with `fit reranker`")
    info = read_manifest(path / INFO, _SCHEMA, "fit it again")
    if not (path / TENSORS).is_file():
        raise InputError(f"{path / TENSORS}: no such file")
    if sha256_of(path / TENSORS) != info["sha256"]:
        raise InputError(
            f"{path / TENSORS}: not the file that {INFO} describes: damaged; fit it "
            "again"
        )
    tensors, _ = read_tensors(path / TENSORS)
    if not _fits(tensors, info["dimension"]):
        raise InputError(
            f"{path / TENSORS}: has not the parameters of a reranker of "
            f"{info['dimension']} dimensions; fit it again"
        )
    params = SetSimilarity(**jax.tree.map(jnp.asarray, tensors))
    return Reranker(params, info, path)


def open_reranker(
    path: str | os.PathLike | None, pipelines: Iterable[Sequence[str]]
) -> Reranker | None:
    """The reranker that pipelines need; None if no step of theirs is "learned"."""
    if not any(LEARNED in steps for steps in pipelines):
        return None
    if path is None:
        raise InputError(f"step {LEARNED} needs a reranker: name one with --reranker")
    return load_reranker(path)


def check_reranker(reranker: Reranker, manifest: Mapping[str, Any]) -> None:
    """InputError unless a reranker was fitted to descriptors like those of a store."""
    _, info, path = reranker
    length = info["dimension"]  # Of each photo, `strongest` checks it.
    check_fitted("reranker", path, info, length, manifest, length)


def find_evidence(
    reranker: Reranker, query: Features, images: Iterable[Features]
) -> Float[np.ndarray, " K"]:
    """What the local descriptors of each image add to its similarity with the query.

    Of each photo the strongest descriptors are compared, as many as at training; those
    of boxes are left out. A photo without any adds nothing.
    """
    count, dimension = reranker.info["features"], reranker.info["dimension"]
    pack = functools.partial(strongest, count=count, dimension=dimension)
    first, valid = pack(query)
    packed = [pack(image) for image in images]
    rows = -(-len(packed) // _BATCH) * _BATCH
    others = np.zeros((rows, count, dimension), np.float32)
    theirs = np.zeros((rows, count), bool)
    for place, (descriptors, there) in enumerate(packed):
        others[place], theirs[place] = descriptors, there
    found = [
        _compare(reranker.params, first, valid, others[part], theirs[part])
        for part in (slice(n, n + _BATCH) for n in range(0, rows, _BATCH))
    ]
    return np.concatenate([np.zeros(0, np.float32), *found])[: len(packed)]


def strongest(
    features: Features, count: int, dimension: int
) -> tuple[Float[np.ndarray, "count D"], Bool[np.ndarray, " count"]]:
    """The descriptors of most attention, padded with zeros, and which are there."""
    local = whole_image(features).local
    name = features.image or "image"
    if local is None:
        raise InputError(f"{name}: has no local features, which a reranker compares")
    if len(local.descriptors) and local.descriptors.shape[1] != dimension:
        raise InputError(
            f"{name}: descriptors of {local.descriptors.shape[1]} dimensions do not "
            f"fit a reranker of {dimension}: fit one to them"
        )
    packed, valid = np.zeros((count, dimension), np.float32), np.zeros(count, bool)
    number = min(count, len(local.descriptors))
    if number:
        packed[:number] = np.asarray(local.descriptors)[:number]
        valid[:number] = True
    return packed, valid


@jax.jit
def _compare(params: SetSimilarity, *sets: Any) -> Any:
    return set_similarity.compare_sets(params, *sets)


def _fits(tensors: Mapping[str, np.ndarray], dimension: int) -> bool:
    """Whether tensors are the parameters of a reranker, and finite."""
    init = functools.partial(set_similarity.initial, dimension=dimension)
    expected = jax.eval_shape(init, jax.random.key(0))._asdict()
    return {*tensors} == {*expected} and all(
        x.shape == expected[name].shape
        and x.dtype == np.float32
        and bool(np.isfinite(x).all())
        for name, x in tensors.items()
    )
