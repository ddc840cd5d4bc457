"""Codebooks, fitted to the local descriptors of a feature store by k-means.

The store is read in chunks, once for every iteration, or in batches that are drawn from
it; kept in memory are a chunk or a batch, and the sums over words. The same store,
options and seed give the same bytes, however often the job was interrupted.
"""

import functools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from delf_jax.files import InputError, digest
from delf_jax.formats import tensor_files
from delf_jax.index import codebook
from delf_jax.index.codebook import UNFINISHED, Codebook
from delf_jax.manifests import COUNT, SHA256, check
from delf_jax.progress import track
from delf_jax.retrieval import kmeans
from delf_jax.store import local_descriptors
from delf_jax.store.feature_store import provenance_of
from delf_jax.store.local_descriptors import CHUNK, LocalDescriptors, gather

# k-means++ draws from this many descriptors for each word. Its time grows as the square
# of the words: 8192 of them take some ten minutes.
SAMPLES_PER_WORD, MOST_WORDS_DRAWN = 32, 8192
STARTS = ("sample", "kmeans++")
# An iteration of mini-batches draws at least so many descriptors for each word: one
# that is of average size stays empty with a probability of exp(-10).
DRAWN_PER_WORD = 10


# Of a fit that was interrupted; the history is what `_format_step` and a resume need.
_UNFINISHED = {
    "key": str,
    "sha256": SHA256,
    "history": [
        {
            **dict.fromkeys(("mean_squared_distance", "imbalance"), float),
            **dict.fromkeys(("empty", "reseeded", "moved"), COUNT),
        }
    ],
}


class _State(NamedTuple):
    """How far a fit has come."""

    centroids: Float32[np.ndarray, "K D"]
    weights: Int64[np.ndarray, "K"]
    """of mini-batches: of how many descriptors each centroid is the mean"""
    history: list[dict[str, Any]]


def fit_codebook(
    store: str | os.PathLike,
    out: str | os.PathLike,
    *,
    words: int = 1024,
    iterations: int = 20,
    batch: int | None = None,
    seed: int = 0,
    start: str = "sample",
    progress: bool = True,
) -> Codebook:
    """The codebook of k-means on the local descriptors of a store, written to `out`.

    Resumes where an earlier run of the same options stopped, and stops early once no
    centroid moves. InputError if more than half of the words are empty.

    Args:
      batch: None: an iteration takes all descriptors. Else the centroids move after
        every so many that are drawn; an iteration draws `DRAWN_PER_WORD` a word.
      start: "sample" of the descriptors, or "kmeans++".
    """
    local = local_descriptors.open_descriptors(store)
    _check_options(local, words, iterations, batch, start)
    out = pathlib.Path(out)
    provenance = provenance_of(local.store)
    provenance |= {"descriptors": local.total, "seed": seed, "start": start}
    provenance |= {} if batch is None else {"batch": batch}
    key = _key(local, provenance, words)
    state = _resume(out, key, iterations, batch)
    if state is None:
        centroids = _start(local, words, start, np.random.default_rng([seed, 0]))
        state = _State(centroids, np.zeros(words, np.int64), [])
    for number in range(len(state.history), iterations):
        if state.history and state.history[-1]["moved"] == 0:
            break
        label = f"k-means {number + 1} of {iterations}"
        state = _iterate(local, state, batch, (seed, number + 1), label, progress)
        _write_unfinished(out, key, state)
        if progress:
            print(f"{label}: {_format_step(state.history[-1])}", flush=True)
    history = state.history
    if (empty := history[-1]["empty"]) > words // 2:
        raise InputError(
            f"{store}: its descriptors collapse: {empty} of {words} "
            "words have none; use fewer words or more iterations, or look at the model"
        )
    provenance |= {"key": key, "iterations": len(history), "history": history}
    saved = codebook.save_codebook(out, state.centroids, provenance)
    (out / UNFINISHED).unlink(missing_ok=True)
    return saved


def _check_options(
    local: LocalDescriptors, words: int, iterations: int, batch: int | None, start: str
) -> None:
    if words < 1 or iterations < 1:
        raise InputError("--words and --iterations: use positive numbers")
    if start not in STARTS:
        raise InputError(f"--start={start}: use one of {', '.join(STARTS)}")
    if local.total < words:
        raise InputError(
            f"{local.store.path}: has {local.total} local descriptors, too few for "
            f"{words} words"
        )
    if batch is not None and not 1 <= batch <= local.total:
        raise InputError(
            f"--batch={batch}: draw 1 to {local.total} descriptors, which is what "
            f"{local.store.path} has, or leave it out to use all of them"
        )
    if start == "kmeans++" and words > MOST_WORDS_DRAWN:
        raise InputError(
            f"--start=kmeans++: takes too long for {words} words, use sample for more "
            f"than {MOST_WORDS_DRAWN}"
        )


def _key(local: LocalDescriptors, provenance: Mapping[str, Any], words: int) -> str:
    """What the centroids depend on, as a short hex string."""
    images = [local.store.ids, local.counts.tolist(), local.dimension, words]
    return digest([codebook.FORMAT, provenance, images], 16)


def _resume(
    out: pathlib.Path, key: str, iterations: int, batch: int | None
) -> _State | None:
    """What an earlier run left; None if nothing is of use."""
    for read in (_read_unfinished, _read_finished):
        try:
            state, of_key = read(out)
        except (InputError, FileNotFoundError, KeyError):
            continue
        # A codebook has lost its weights: mini-batches cannot resume from there.
        least = iterations if batch and read is _read_finished else 0
        if of_key == key and least <= len(state.history) <= iterations:
            return state
    return None


def _read_unfinished(out: pathlib.Path) -> tuple[_State, str]:
    tensors, info = tensor_files.read_tensors(out / UNFINISHED)
    check(info, _UNFINISHED, out / UNFINISHED, "fit again")
    state = _State(tensors["centroids"], tensors["weights"], info["history"])
    # Version 0.1 wrote no checksum of the history.
    if info["sha256"] not in (_digest(state), _digest(state._replace(history=[]))):
        raise InputError(f"{out / UNFINISHED}: damaged")
    return state, info["key"]


def _read_finished(out: pathlib.Path) -> tuple[_State, str]:
    found = codebook.load_codebook(out)
    weights = np.zeros(len(found.centroids), np.int64)
    check(found.info["history"], _UNFINISHED["history"], out, "fit again")
    return _State(found.centroids, weights, found.info["history"]), found.info["key"]


def _write_unfinished(out: pathlib.Path, key: str, state: _State) -> None:
    tensors = {"centroids": state.centroids, "weights": state.weights}
    info = {"key": key, "history": state.history, "sha256": _digest(state)}
    tensor_files.write_tensors(out / UNFINISHED, tensors, info)


def _digest(state: _State) -> str:
    history = json.dumps(state.history) if state.history else ""
    return digest(
        state.centroids.tobytes() + state.weights.tobytes() + history.encode()
    )


def _start(
    local: LocalDescriptors, words: int, start: str, rng: np.random.Generator
) -> Float32[np.ndarray, "K D"]:
    factor = SAMPLES_PER_WORD if start == "kmeans++" else 1
    count = min(local.total, factor * words)
    rows = np.sort(rng.choice(local.total, count, replace=False))
    sample = gather(local, rows)
    if start == "sample":
        return sample
    try:
        return kmeans.kmeans_plus_plus(sample, words, rng)
    except ValueError as error:
        raise InputError(f"{local.store.path}: {error}: use fewer words") from None


def _iterate(
    local: LocalDescriptors,
    state: _State,
    batch: int | None,
    seeds: tuple[int, int],
    label: str,
    progress: bool,
) -> _State:
    """The state after one more iteration."""
    centroids, weights, history = state
    if batch is None:
        chunks = local_descriptors.read_chunks(local, label, progress)
        found = _sum(chunks, centroids, seeds)
        move = kmeans.move_centroids(found, centroids)
    else:
        batches = _take_batches(local, state, batch, seeds, label, progress)
        found, (move, weights) = batches[0], kmeans.seed_again(*batches)
    if move.empty and not len(found.spares):  # Every descriptor is a centroid already.
        words = len(found.counts)
        raise InputError(
            f"{local.store.path}: its descriptors collapse: only {words - move.empty} "
            f"of {words} words have any, and no other differs: use fewer words, or "
            "look at the model"
        )
    step = {
        "mean_squared_distance": found.inertia / int(found.counts.sum()),
        "imbalance": kmeans.imbalance(found.counts),
        "empty": move.empty,
        "reseeded": move.reseeded,
        "moved": int(np.any(move.codebook != centroids, axis=1).sum()),
    }
    return _State(move.codebook, weights, [*history, step])


def _take_batches(
    local: LocalDescriptors,
    state: _State,
    batch: int,
    seeds: tuple[int, int],
    label: str,
    progress: bool,
) -> tuple[kmeans.ClusterSums, Float32[np.ndarray, "K D"], Int64[np.ndarray, " K"]]:
    """(what all batches of an iteration gave, centroids, weights)."""
    total: kmeans.ClusterSums | None = None
    centroids, weights = state.centroids, state.weights
    count = -(-DRAWN_PER_WORD * len(centroids) // batch)
    with track(label, count, "batch", progress=progress) as advance:
        for number in range(count):
            rng = np.random.default_rng([*seeds, number])
            rows = np.sort(rng.choice(local.total, batch, replace=False))
            parts = np.split(rows, range(CHUNK, batch, CHUNK))
            chunks = (gather(local, part) for part in parts)
            found = _sum(chunks, centroids, (*seeds, number))
            centroids, weights = kmeans.average_in(found, centroids, weights)
            total = found if total is None else kmeans.add_sums(total, found)
            advance()
    assert total is not None  # There is at least one batch.
    return total, centroids, weights


def _sum(
    chunks: Iterable[Float32[np.ndarray, "N D"]],
    centroids: Float32[np.ndarray, "K D"],
    seeds: tuple[int, ...],
) -> kmeans.ClusterSums:
    """What chunks of descriptors give together."""
    sums = (
        kmeans.lloyd_pass(chunk, centroids, np.random.default_rng([*seeds, number]))
        for number, chunk in enumerate(chunks)
    )
    return functools.reduce(kmeans.add_sums, sums)


def _format_step(step: Mapping[str, Any]) -> str:
    text = (
        "mean squared distance {mean_squared_distance:.5f}, imbalance {imbalance:.2f}"
    )
    text = text.format_map(step)
    if step["empty"]:
        text += f", {step['reseeded']} of {step['empty']} empty words seeded again"
    return text
