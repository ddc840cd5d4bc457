"""Learned rerankers fitted to a feature store: lists of one match and what is like it.

An image is searched for among those of its own place, of which one is drawn, and those
of others that its global descriptor takes for it, of which some are drawn. The network
learns to put the match first, by its evidence added to the similarity.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse import coo_matrix, csgraph

from delf_jax.files import InputError
from delf_jax.index import positive_pairs
from delf_jax.index.positive_pairs import ImagePairs
from delf_jax.models import set_similarity
from delf_jax.models.set_similarity import SetSimilarity
from delf_jax.progress import format_count, track
from delf_jax.retrieval import ranking
from delf_jax.search import learned
from delf_jax.search.learned import Reranker
from delf_jax.store.feature_store import FeatureStore, provenance_of
from delf_jax.store.local_descriptors import open_descriptors

# Descriptors of a photo: twice as many take four times as long.
FEATURES = 256
# Of a list, images of other places, and of how many of the most similar they are drawn:
# those that a search would have to rerank.
_OTHERS, _HARDEST = 7, 50
# Lists of a step.
_LISTS = 4
_LEARNING_RATE = 1e-3
# Cosines and evidence times this are the logits of a list.
_SHARPNESS = 20.0


class Lists(NamedTuple):
    """Images to be ranked for each query: the first is the match."""

    queries: Int[np.ndarray, " L"]
    images: Int[np.ndarray, "L K"]


def fit_reranker(
    store: str | os.PathLike,
    pairs: ImagePairs | None,
    out: str | os.PathLike,
    *,
    steps: int,
    seed: int = 0,
    progress: bool = True,
) -> Reranker:
    """The reranker, written to `out`; its info says how often it puts the match first.

    InputError if the store has not what it learns from.

    Args:
      pairs: by the ids of images; None: those in one folder match. What pairs connect
        is one place; an image in no pair is a place of its own.
    """
    if steps < 1:
        raise InputError(f"--steps={steps}: use a positive number")
    local = open_descriptors(store)
    images, dimension = local.store, local.dimension
    descriptors = images.global_descriptors
    if not np.isfinite(descriptors).all():
        raise InputError(
            f"{images.path}: has descriptors that are not finite: extract them again"
        )
    places, count = _places(images, pairs)
    rng = np.random.default_rng(seed)
    params = set_similarity.initial(jax.random.key(seed), dimension)
    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, steps)
    optimizer = optax.adam(schedule)
    state = optimizer.init(params)
    step = jax.jit(functools.partial(_step, optimizer))
    hardest = functools.lru_cache(None)(functools.partial(_others, descriptors, places))
    firsts = []
    with track("fit", steps, "step", progress=progress) as advance:
        for _ in range(steps):
            lists = _draw(places, hardest, rng)
            batch = _read(images, lists, descriptors, dimension)
            params, state, first = step(params, state, *batch)
            firsts.append(first)
            advance()
    similar, learnt = np.mean(np.array(firsts)[-max(1, steps // 5) :], axis=0)
    info = {
        "features": FEATURES,
        "steps": steps,
        "seed": seed,
        "pairs": count,
        "pairs_sha256": pairs.sha256 if pairs else "of folders",
        "first_by_similarity": float(similar),
        "first": float(learnt),
    }
    return learned.save_reranker(out, params, provenance_of(images) | info)


def format_summary(reranker: Reranker) -> str:
    """What was fitted, in a line."""
    info = reranker.info
    return (
        f"{reranker.path}: learned from {format_count(info['pairs'], 'pair')} of "
        f"{format_count(info['images'], 'image')}; of the last lists it learned from, "
        f"the match is first in {info['first']:.1%} "
        f"({info['first_by_similarity']:.1%} by similarity alone)"
    )


def _places(
    images: FeatureStore, pairs: ImagePairs | None
) -> tuple[Int[np.ndarray, " M"], int]:
    """(the place that each image shows, how many pairs say so)."""
    by_id = pairs or positive_pairs.pairs_of_folders(images.ids)
    rows, _ = positive_pairs.locate(by_id, images.ids, images.path)
    shape = len(images), len(images)
    graph = coo_matrix((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape)
    found, places = csgraph.connected_components(graph, directed=False)
    if found == 1:
        raise InputError(
            f"{images.path}: all its images match each other: a reranker learns from "
            "images of several places"
        )
    if np.bincount(places).max() == 1:
        raise InputError(f"{images.path}: no image matches another but itself")
    return places, len(rows)


def _draw(
    places: Int[np.ndarray, " M"],
    hardest: Callable[[int], Int[np.ndarray, " _"]],
    rng: np.random.Generator,
) -> Lists:
    """Lists of places drawn: those of many images count no more than others."""
    several = np.flatnonzero(np.bincount(places) > 1)
    queries, rows = [], []
    for place in rng.choice(several, _LISTS):
        query, match = rng.choice(np.flatnonzero(places == place), 2, replace=False)
        others = hardest(int(query))
        drawn = rng.choice(others, _OTHERS, replace=len(others) < _OTHERS)
        queries.append(query)
        rows.append([match, *drawn])
    return Lists(np.array(queries), np.array(rows))


def _others(
    descriptors: Float[np.ndarray, "M G"], places: Int[np.ndarray, " M"], query: int
) -> Int[np.ndarray, " _"]:
    """The images of other places that are most similar to one."""
    others = np.flatnonzero(places != places[query])
    similarities = descriptors[others] @ descriptors[query]
    return others[ranking.top_k(similarities, _HARDEST)]


def _read(
    images: FeatureStore,
    lists: Lists,
    descriptors: Float[np.ndarray, "M G"],
    dimension: int,
) -> tuple[np.ndarray, ...]:
    """Descriptors of queries and images, which are there, and cosines of the lists."""
    rows = np.column_stack([lists.queries, lists.images])
    packed = [
        learned.strongest(images[int(row)], FEATURES, dimension) for row in rows.flat
    ]
    sets, valid = (np.stack(each) for each in zip(*packed, strict=True))
    sets = sets.reshape(*rows.shape, *sets.shape[1:])
    valid = valid.reshape(*rows.shape, -1)
    cosines = np.einsum(
        "lg,lkg->lk", descriptors[lists.queries], descriptors[lists.images]
    )
    return sets, valid, cosines.astype(np.float32)


def _step(
    optimizer: optax.GradientTransformation,
    params: SetSimilarity,
    state: Any,
    sets: Float[Array, "L K_1 N D"],
    valid: Bool[Array, "L K_1 N"],
    cosines: Float[Array, "L K"],
) -> tuple[SetSimilarity, Any, Float[Array, "2"]]:
    """Params and state a step on, and the share of lists whose match was first.

    By similarity alone, and with the evidence.
    """

    def loss(params: SetSimilarity) -> tuple[Float[Array, ""], Float[Array, "L K"]]:
        compare = functools.partial(set_similarity.compare_sets, params)
        evidence = jax.vmap(compare)(sets[:, 0], valid[:, 0], sets[:, 1:], valid[:, 1:])
        scores = cosines + evidence
        labels = jnp.zeros(len(scores), jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            _SHARPNESS * scores, labels
        )
        return jnp.mean(losses), scores

    (_, scores), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes counts and floats.
        updates, state = optimizer.update(gradient, state, params)
    first = [jnp.mean(x[:, 0] > x[:, 1:].max(axis=1)) for x in (cosines, scores)]
    return optax.apply_updates(params, updates), state, jnp.stack(first)
