"""Codebooks and PCA, fitted to the descriptors of a feature store.

The store is read in chunks, once for every iteration; kept in memory are a chunk and
the sums over words. The same store, options and seed give the same bytes, however
often the job was interrupted.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from delf_jax import codebooks
from delf_jax.codebooks import Codebook
from delf_jax.descriptors import Descriptors, gather, open_descriptors, read_chunks
from delf_jax.files import InputError, sha256_of, write_json
from delf_jax.formats import datum
from delf_jax.retrieval import kmeans, whitening

# k-means++ draws from this many descriptors for each word. Its time grows as the square
# of the words: 8192 of them take some ten minutes.
SAMPLES_PER_WORD, MOST_WORDS_DRAWN = 32, 8192
STARTS = ("sample", "kmeans++")
PCA_FILES = {
    "mean": "mean.datum",
    "projection": "pca_proj_mat.datum",
    "variances": "pca_variances.datum",
}


def fit_codebook(
    store: str | os.PathLike,
    out: str | os.PathLike,
    *,
    words: int = 1024,
    iterations: int = 20,
    seed: int = 0,
    start: str = "sample",
    shown: bool = True,
) -> Codebook:
    """The codebook of k-means on all local descriptors of a store, written to `out`.

    Goes on where an earlier run of the same options stopped, and stops early once no
    centroid moves. start: "sample" of the descriptors, or "kmeans++". InputError if the
    descriptors collapse to fewer than half of the words.
    """
    given = open_descriptors(store)
    _check_options(given, words, iterations, start)
    out = pathlib.Path(out)
    provenance = _provenance(given) | {"seed": seed, "start": start}
    key = _key(given, provenance, words)
    centroids, history = _resume(out, key, iterations)
    if centroids is None:
        centroids = _start(given, words, start, np.random.default_rng([seed, 0]))
    for number in range(len(history), iterations):
        if history and history[-1]["moved"] == 0:
            break
        label = f"k-means {number + 1} of {iterations}"
        found = _pass(given, centroids, (seed, number + 1), label, shown)
        move = kmeans.move_centroids(found, centroids)
        _check_spares(given, found, move)
        history.append(_describe(found, move, centroids))
        centroids = move.codebook
        _write_unfinished(out, key, centroids, history)
        if shown:
            print(f"{label}: {_tell(history[-1])}", flush=True)
    if history[-1]["empty"] > words // 2:
        raise InputError(
            f"{store}: its descriptors collapse: {history[-1]['empty']} of {words} "
            "words have none; use fewer words or more iterations, or look at the model"
        )
    provenance |= {"key": key, "iterations": len(history), "history": history}
    codebook = codebooks.save_codebook(out, centroids, provenance)
    (out / codebooks.UNFINISHED).unlink(missing_ok=True)
    return codebook


def fit_pca(
    store: str | os.PathLike,
    out: str | os.PathLike,
    *,
    dimension: int,
    whiten: bool = False,
    shown: bool = True,
) -> dict[str, str]:
    """The settings of extraction that project as fitted, by their names in a config.

    Mean and projection are written to `out` as .datum files, for whitening variances
    too, and pca.json, which says what they were fitted to. InputError if the store has
    too few dimensions, or directions to be whitened in which nothing varies.
    """
    given = open_descriptors(store)
    if (given.store.manifest["settings"] or {}).get("pca"):
        raise InputError(
            f"{store}: its descriptors are projected already: extract without PCA first"
        )
    if not 1 <= dimension <= given.dimension:
        raise InputError(
            f"--dimension={dimension}: the descriptors of {store} have "
            f"{given.dimension}"
        )
    moments = whitening.Moments(
        0, np.zeros(given.dimension), np.zeros((given.dimension,) * 2)
    )
    for chunk in read_chunks(given, "PCA", shown):
        moments = whitening.add_moments(moments, whitening.moments_of(chunk))
    if not moments.count:
        raise InputError(f"{store}: holds no local descriptors to fit a PCA to")
    fitted = dict(zip(PCA_FILES, whitening.fit_pca(moments, dimension), strict=True))
    if whiten and fitted["variances"][-1] <= 1e-7 * fitted["variances"][0]:
        raise InputError(
            f"{store}: its descriptors do not vary in {dimension} directions, as "
            "whitening needs: choose a smaller --dimension"
        )
    return _write_pca(pathlib.Path(out), fitted, whiten, _provenance(given), moments)


def _write_pca(
    out: pathlib.Path,
    fitted: Mapping[str, np.ndarray],
    whiten: bool,
    provenance: Mapping[str, Any],
    moments: whitening.Moments,
) -> dict[str, str]:
    names = [name for name in PCA_FILES if whiten or name != "variances"]
    for name in names:
        datum.write_datum(out / PCA_FILES[name], fitted[name].astype(np.float32))
    variances = fitted["variances"]
    total = np.trace(moments.products) / moments.count - fitted["mean"] @ fitted["mean"]
    info = {
        "format": codebooks.FORMAT,
        "dimension": len(variances),
        "use_whitening": whiten,
        "explained_variance": float(variances.sum() / max(total, 1e-30)),
        "sha256": {PCA_FILES[n]: sha256_of(out / PCA_FILES[n]) for n in names},
        **provenance,
    }
    write_json(out / "pca.json", info)
    chosen = {name: str(out / PCA_FILES[name]) for name in names}
    return chosen | ({"use_whitening": "true"} if whiten else {})


def _check_options(given: Descriptors, words: int, iterations: int, start: str) -> None:
    if words < 1 or iterations < 1:
        raise InputError("--words and --iterations: use positive numbers")
    if start not in STARTS:
        raise InputError(f"--start={start}: use one of {', '.join(STARTS)}")
    if given.total < words:
        raise InputError(
            f"{given.store.path}: has {given.total} local descriptors, too few for "
            f"{words} words"
        )
    if start == "kmeans++" and words > MOST_WORDS_DRAWN:
        raise InputError(
            f"--start=kmeans++: takes too long for {words} words, use sample for more "
            f"than {MOST_WORDS_DRAWN}"
        )


def _provenance(given: Descriptors) -> dict[str, Any]:
    manifest = given.store.manifest
    return {
        "model": manifest["model"],
        "settings": manifest["settings"],
        "features_key": manifest["key"],
        "images": len(given.store),
        "descriptors": given.total,
    }


def _key(given: Descriptors, provenance: Mapping[str, Any], words: int) -> str:
    """What the centroids depend on, as a short hex string."""
    images = [given.store.ids, given.counts.tolist(), given.dimension, words]
    text = json.dumps([codebooks.FORMAT, provenance, images])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resume(
    out: pathlib.Path, key: str, iterations: int
) -> tuple[Float32[np.ndarray, "K D"] | None, list[dict[str, Any]]]:
    """(centroids, history) that an earlier run left; (None, []) if none is of use."""
    for read in (_read_unfinished, _read_finished):
        try:
            centroids, state = read(out)
        except (InputError, FileNotFoundError, KeyError):
            continue
        if state.get("key") == key and len(state["history"]) <= iterations:
            return centroids, list(state["history"])
    return None, []


def _read_unfinished(out: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
    tensors, state = codebooks.read_tensors(out / codebooks.UNFINISHED)
    if hashlib.sha256(tensors["centroids"]).hexdigest() != state["sha256"]:
        raise InputError(f"{out / codebooks.UNFINISHED}: damaged")
    return tensors["centroids"], state


def _read_finished(out: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
    codebook = codebooks.load_codebook(out)
    return codebook.centroids, codebook.info


def _write_unfinished(
    out: pathlib.Path,
    key: str,
    centroids: Float32[np.ndarray, "K D"],
    history: list[dict[str, Any]],
) -> None:
    digest = hashlib.sha256(centroids).hexdigest()
    state = {"key": key, "history": history, "sha256": digest}
    codebooks.write_tensors(out / codebooks.UNFINISHED, {"centroids": centroids}, state)


def _start(
    given: Descriptors, words: int, start: str, rng: np.random.Generator
) -> Float32[np.ndarray, "K D"]:
    factor = SAMPLES_PER_WORD if start == "kmeans++" else 1
    count = min(given.total, factor * words)
    rows = np.sort(rng.choice(given.total, count, replace=False))
    sample = gather(given, rows)
    if start == "sample":
        return sample
    try:
        return kmeans.kmeans_plus_plus(sample, words, rng)
    except ValueError as error:
        raise InputError(f"{given.store.path}: {error}: use fewer words") from None


def _pass(
    given: Descriptors,
    centroids: Float32[np.ndarray, "K D"],
    seeds: tuple[int, int],
    label: str,
    shown: bool,
) -> kmeans.ClusterSums:
    total = None
    for number, chunk in enumerate(read_chunks(given, label, shown)):
        rng = np.random.default_rng([*seeds, number])
        found = kmeans.lloyd_pass(chunk, centroids, rng)
        total = found if total is None else kmeans.add_sums(total, found)
    return total


def _check_spares(
    given: Descriptors, found: kmeans.ClusterSums, move: kmeans.Move
) -> None:
    """InputError if words are empty and every descriptor is a centroid already."""
    if move.empty and not len(found.spares):
        words = len(found.counts)
        raise InputError(
            f"{given.store.path}: its descriptors collapse: only {words - move.empty} "
            f"of {words} words have any, and no other differs: use fewer words, or "
            "look at the model"
        )


def _describe(
    found: kmeans.ClusterSums, move: kmeans.Move, before: Float32[np.ndarray, "K D"]
) -> dict[str, Any]:
    """One iteration in numbers."""
    return {
        "mean_squared_distance": found.inertia / int(found.counts.sum()),
        "imbalance": kmeans.imbalance(found.counts),
        "empty": move.empty,
        "reseeded": move.reseeded,
        "moved": int(np.any(move.codebook != before, axis=1).sum()),
    }


def _tell(step: Mapping[str, Any]) -> str:
    text = f"mean squared distance {step['mean_squared_distance']:.5f}"
    text += f", imbalance {step['imbalance']:.2f}"
    if step["empty"]:
        text += f", {step['reseeded']} of {step['empty']} empty words seeded again"
    return text
