"""Projections fitted to a feature store: PCA, and whitening learned from pairs.

    mean.datum, pca_proj_mat.datum, pca_variances.datum   as the original's configs name
    pca.json                                              what they were fitted to

Extraction takes them by `extraction.pca`, of local descriptors, and
`extraction.global_pca`, of global ones, and refuses those of another model.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from delf_jax.extraction.pca import FILES, INFO, SETTINGS, read_info
from delf_jax.files import InputError, sha256_of
from delf_jax.formats.delf import datum
from delf_jax.index import codebook, positive_pairs
from delf_jax.index.positive_pairs import ImagePairs
from delf_jax.manifests import write_manifest
from delf_jax.progress import format_count
from delf_jax.retrieval import whitening
from delf_jax.store.feature_store import FeatureStore, open_store, provenance_of
from delf_jax.store.local_descriptors import CHUNK, open_descriptors, read_chunks


def fit_pca(
    store: str | os.PathLike,
    out: str | os.PathLike,
    *,
    dimension: int,
    of: str = "local",
    whiten: bool = False,
    half_whiten: bool = False,
    progress: bool = True,
) -> dict[str, str]:
    """The settings of extraction that project as fitted, by their names in a config.

    They are of "local" or "global" descriptors. InputError if the store has too few
    dimensions, or directions to be whitened in which nothing varies.

    Args:
      half_whiten: divide components by the root of their deviation, where `whiten`
        divides by all of it; the projection has it in itself, so that whatever reads a
        PCA applies it.
    """
    images, length, _, chunks = _open(store, of, dimension, progress)
    moments = whitening.Moments(0, np.zeros(length), np.zeros((length, length)))
    for chunk in chunks:
        moments = whitening.add_moments(moments, whitening.moments_of(chunk))
    if not moments.count:
        raise InputError(f"{store}: has no {of} descriptors to fit a PCA to")
    fitted = dict(zip(FILES, whitening.fit_pca(moments, dimension), strict=True))
    variances = fitted["variances"] if whiten else fitted.pop("variances")
    if (whiten or half_whiten) and variances[-1] <= 1e-7 * variances[0]:
        raise InputError(
            f"{store}: its descriptors do not vary in {dimension} directions, as "
            "whitening needs: choose a smaller --dimension"
        )
    if half_whiten:
        fitted["projection"] /= variances[:, None] ** 0.25
    total = np.trace(moments.products) / moments.count - fitted["mean"] @ fitted["mean"]
    info = {
        "of": of,
        "use_whitening": whiten,
        **({"half_whitened": True} if half_whiten else {}),
        "explained_variance": float(variances.sum() / max(total, 1e-30)),
        "descriptors": moments.count,
    }
    return _write(pathlib.Path(out), fitted, info, images)


def fit_whitening(
    store: str | os.PathLike,
    pairs: ImagePairs | None,
    out: str | os.PathLike,
    *,
    dimension: int | None = None,
) -> dict[str, str]:
    """As `fit_pca`, of global descriptors, learned from images that match [GeM].

    InputError if the store has none of the pairs.

    Args:
      pairs: by the ids of images; None: those in one folder match.
      dimension: rows kept; None: all.
    """
    images, _, dimension, _ = _open(store, "global", dimension, progress=False)
    by_id = pairs or positive_pairs.pairs_of_folders(images.ids)
    rows, left_out = positive_pairs.locate(by_id, images.ids, images.path)
    descriptors = _finite(images)
    if not np.any(descriptors[rows[:, 0]] != descriptors[rows[:, 1]]):
        raise InputError(
            f"{store}: matching images have equal descriptors, nothing to learn from"
        )
    mean, projection = whitening.learn_whitening(descriptors, *rows.T)
    info = {
        "of": "global",
        "use_whitening": False,
        "pairs": len(rows),
        "pairs_left_out": left_out,
        "missing": positive_pairs.missing_names(by_id, images.ids)[:1],
        "pairs_sha256": pairs.sha256 if pairs else "of folders",
    }
    fitted = {"mean": mean, "projection": projection[:dimension]}
    return _write(pathlib.Path(out), fitted, info, images)


def format_summary(out: str | os.PathLike) -> str:
    """What was fitted, in a line, and what its user should know."""
    info = read_info(out)
    text = f"{out}: {format_count(info['dimension'], 'component')}, "
    scales = len((info["settings"] or {}).get("global_scales", ()))
    note = ""
    if info["of"] == "global" and scales > 1:
        note = f"\nnote: fitted to sums over {scales} scales; extraction projects each"
        note += " scale before the sum"
    if "pairs" not in info:
        return f"{text}{info['explained_variance']:.1%} of the variance{note}"
    text += f"learned from {format_count(info['pairs'], 'pair')}"
    if info["pairs_left_out"]:
        text += f" ({info['pairs_left_out']} left out: not all images are in the store"
        text += "".join(f", such as {name}" for name in info.get("missing", ())) + ")"
    if info["pairs"] < info["dimension"]:
        text += (
            f"\nnote: {info['pairs']} pairs are few for {info['dimension']} "
            "dimensions; what they do not show is weighed by chance"
        )
    return text + note


def _open(
    store: str | os.PathLike, of: str, dimension: int | None, progress: bool
) -> tuple[FeatureStore, int, int, Iterator[Float32[np.ndarray, "N D"]]]:
    """(store, length of its descriptors, rows to fit, all descriptors in chunks)."""
    if of == "local":
        local = open_descriptors(store)
        images, length = local.store, local.dimension
        chunks = read_chunks(local, "PCA", progress)
    else:
        images = open_store(store)
        length = images.global_descriptors.shape[1]
        starts = range(0, len(images), CHUNK)
        chunks = (_finite(images)[start : start + CHUNK] for start in starts)
    if (images.manifest["settings"] or {}).get(SETTINGS[of]):
        raise InputError(
            f"{store}: its descriptors are projected already: extract without PCA first"
        )
    if not len(images):
        raise InputError(f"{images.path}: an empty store, nothing to fit to")
    dimension = length if dimension is None else dimension
    if not 1 <= dimension <= length:
        raise InputError(
            f"--dimension={dimension}: the descriptors of {images.path} have {length}"
        )
    return images, length, dimension, chunks


def _finite(images: FeatureStore) -> Float32[np.ndarray, "M G"]:
    descriptors = images.global_descriptors
    if not np.isfinite(descriptors).all():
        raise InputError(
            f"{images.path}: has descriptors that are not finite: extract them again"
        )
    return descriptors


def _write(
    out: pathlib.Path,
    fitted: Mapping[str, np.ndarray],
    fit: Mapping[str, Any],
    images: FeatureStore,
) -> dict[str, str]:
    """Writes what was fitted; the settings that apply it."""
    for name, array in fitted.items():
        datum.write_datum(out / FILES[name], array.astype(np.float32))
    info = {
        "format": codebook.FORMAT,
        "dimension": len(fitted["projection"]),
        "sha256": {FILES[name]: sha256_of(out / FILES[name]) for name in fitted},
        **provenance_of(images),
        **fit,
    }
    if fit["of"] == "global" and "global_model" in images.manifest:
        info["model"] = images.manifest["global_model"]
    write_manifest(out / INFO, info)
    prefix = f"extraction.{SETTINGS[fit['of']]}"
    settings = {f"{prefix}.{name}": str(out / FILES[name]) for name in fitted}
    whiten = {f"{prefix}.use_whitening": "true"} if fit["use_whitening"] else {}
    return settings | whiten
