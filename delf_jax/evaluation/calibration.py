"""What inliers and similarities are worth as evidence, fitted to photos with a truth.

Pairs of a query and its candidates are verified as a search would; some show one place.
The fit is a mixture: of the related pairs a share can be told from unrelated ones, the
further their inliers stand out the better, and the rest look like unrelated ones.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize

from delf_jax.evaluation.datasets import Protocol
from delf_jax.evaluation.evaluation import Evaluation
from delf_jax.files import InputError
from delf_jax.retrieval import ranking
from delf_jax.retrieval.ranking import Calibration
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search import matching
from delf_jax.search.pipeline import RankingInputs, run_steps

# Of cases that may exceed a number.
RATE = 0.01
# Quantiles of the inliers of unrelated pairs that are kept.
_QUANTILES = np.arange(0.05, 1, 0.1)
# Unrelated pairs that a fit needs: a hundredth of fewer is none.
_FEWEST = 100
# Pulls the curve to slope 1 and middle 0 where pairs say nothing; of the landmarks,
# which weigh 1 each, a hundredth.
_PRIOR = 0.01


class Searched(NamedTuple):
    """Photos that were verified for a query, the most similar first."""

    ids: Int[np.ndarray, " K"]
    similarities: Float[np.ndarray, " K"]
    inliers: Int[np.ndarray, " K"]
    related: Bool[np.ndarray, " K"]


class Pairs(NamedTuple):
    """What is known of each query."""

    candidates: list[Searched]
    """the first of its ranking, as a search verifies them"""
    missed: list[Searched]
    """what is related and not among them"""
    unrelated: list[Searched]
    """as many of the first that are unrelated: a search for what is not there"""

    @property
    def known(self) -> list[Searched]:
        """Of each query its candidates and what is related."""
        both = zip(self.candidates, self.missed, strict=True)
        return [
            Searched(*map(np.concatenate, zip(*each, strict=True))) for each in both
        ]


def verify_pairs(
    inputs: RankingInputs,
    protocol: Protocol,
    verification: VerificationSettings = VERIFICATION["default"],
    *,
    progress: bool = True,
) -> Pairs:
    """The candidates of each query, verified; junk is left out."""
    (best,) = run_steps(inputs, [("global",)])
    lists, first = [], verification.candidates
    for query, (values, ids) in enumerate(zip(*best, strict=True)):
        kept = np.isfinite(values) & ~np.isin(ids, protocol.junk[query])
        related = kept & np.isin(ids, protocol.positives[query])
        unrelated = kept & ~related
        ahead = kept & (np.cumsum(kept) <= first)
        unrelated &= np.cumsum(unrelated) <= first
        lists.append((values, ids, related, [ahead, related & ~ahead, unrelated]))
    found = matching.verify(
        inputs.queries,
        [ids[np.any(chosen, axis=0)] for _, ids, _, chosen in lists],
        inputs.image,
        inputs.bounds,
        verification,
        progress=progress,
    )
    pairs = Pairs([], [], [])
    for (values, ids, related, chosen), verified in zip(lists, found, strict=True):
        for part, kept in zip(pairs, chosen, strict=True):
            inliers = [verified[id].inliers for id in ids[kept].tolist()]
            similarities = values[kept].astype(np.float64)
            counts = np.array(inliers, np.int32)
            part.append(Searched(ids[kept], similarities, counts, related[kept]))
    return pairs


def verify_evaluated(evaluated: Evaluation) -> tuple[Pairs, list[str]]:
    """The pairs of an evaluation by similarity, and what each query shows."""
    dataset, inputs = evaluated.dataset, evaluated.inputs
    if inputs is None or any(query.local is None for query in inputs.queries):
        raise InputError("calibrate needs local features; there are none")
    protocols = dataset.protocols
    protocol = protocols["all" if "all" in protocols else "medium"]
    landmarks = dataset.landmarks or [query.name for query in dataset.queries]
    return verify_pairs(inputs, protocol, evaluated.verification), landmarks


def fit(pairs: Pairs, landmarks: Sequence[str]) -> Calibration:
    """The calibration that makes pairs likeliest; InputError if there are too few.

    Args:
      landmarks: what each query shows; each counts alike, however many its photos.
    """
    chance = np.concatenate([each.inliers for each in pairs.unrelated])
    related = np.concatenate([each.related for each in pairs.known])
    if len(chance) < _FEWEST or not related.any():
        raise InputError(
            f"{np.count_nonzero(related)} pairs of one place and {len(chance)} of "
            f"different ones: expected at least 1 and {_FEWEST}"
        )
    background = tuple(int(n) for n in np.quantile(chance, _QUANTILES).round())
    stand_out = [ranking.deviations(x.inliers, background) for x in pairs.unrelated]
    inliers = [each.inliers for each in pairs.unrelated]
    pair, search = map(math.ceil, _exceeded(inliers))
    share, slope, middle = _fit_curve(pairs.known, landmarks, background)
    found = Calibration(
        share=share,
        slope=slope,
        middle=middle,
        most=float(np.log(len(chance))),
        background=background,
        by_chance=(pair, search),
        surprise=_exceeded(stand_out),
    )
    return found._replace(similarity=_fit_similarity(pairs, landmarks, found))


def describe(pairs: Pairs, calibration: Calibration) -> Iterator[str]:
    """Lines of text: what was fitted to, and what a verdict is worth."""
    related = sum(np.count_nonzero(each.related) for each in pairs.known)
    unrelated = sum(len(each.inliers) for each in pairs.unrelated)
    pair, search = calibration.by_chance
    yield f"{related} pairs of one place, {unrelated} of different ones"
    yield (
        f"1 % of unrelated pairs share more than {pair} inliers, 1 % of searches for "
        f"nothing more than {search}"
    )
    odds, right = answers(pairs.candidates, calibration)
    absent, _ = answers(pairs.unrelated, calibration)
    sure = odds > np.quantile(absent, 1 - RATE)
    share = right[sure].mean() if sure.any() else np.nan
    yield (
        f"above the log-odds that 1 % of these exceed: {sure.mean():.1%} of searches, "
        f"{share:.1%} of them right"
    )


def answers(
    searches: Sequence[Searched], calibration: Calibration
) -> tuple[Float[np.ndarray, " Q"], Bool[np.ndarray, " Q"]]:
    """Of the answer to each query its log-odds, and whether it is right."""
    odds, right = [], []
    for each in searches:
        found = ranking.log_odds(each.similarities, each.inliers, calibration)
        odds.append(found.max())
        right.append(each.related[found.argmax()])
    return np.array(odds), np.array(right)


def _exceeded(lists: Sequence[np.ndarray]) -> tuple[float, float]:
    """What 1 % exceed: of all numbers, and of the largest of each list."""
    most = [each.max() for each in lists if len(each)]
    pair, search = (np.quantile(x, 1 - RATE) for x in (np.concatenate(lists), most))
    return float(pair), float(max(pair, search))


def _fit_curve(
    searches: Sequence[Searched], landmarks: Sequence[str], background: tuple[int, ...]
) -> tuple[float, float, float]:
    """Share, slope and middle of the mixture."""
    deviations = np.concatenate(
        [ranking.deviations(each.inliers, background) for each in searches]
    )
    related = np.concatenate([each.related for each in searches])
    weights = _weights(searches, landmarks)

    def loss(parameters: np.ndarray) -> float:
        logit, log_slope, middle = parameters
        told = np.exp(log_slope) * (deviations - middle) - np.logaddexp(0, -logit)
        ratio = np.logaddexp(-np.logaddexp(0, logit), told)
        losses = np.logaddexp(0, ratio) - ratio * related
        return float((weights * losses).sum() + _PRIOR * np.square(parameters).sum())

    starts = [(1.0, np.log(slope), m) for slope in (0.5, 1, 2) for m in (1.0, 2.0, 4.0)]
    options = {"maxiter": 2000}
    found = min(
        (
            optimize.minimize(loss, x, method="Nelder-Mead", options=options)
            for x in starts
        ),
        key=lambda each: each.fun,
    )
    logit, log_slope, middle = found.x
    return float(1 / (1 + np.exp(-logit))), float(np.exp(log_slope)), float(middle)


def _weights(
    searches: Sequence[Searched], landmarks: Sequence[str]
) -> Float[np.ndarray, " P"]:
    """One for the related pairs of each landmark together, and one for the others."""
    names = np.repeat(landmarks, [len(each.related) for each in searches])
    related = np.concatenate([each.related for each in searches])
    weights = np.zeros(len(names))
    for name in set(landmarks):
        for kind in (related, ~related):
            chosen = (names == name) & kind
            weights[chosen] = 1 / max(1, int(chosen.sum()))
    return weights


def _fit_similarity(
    pairs: Pairs, landmarks: Sequence[str], calibration: Calibration
) -> float:
    """The weight at which related candidates most likely come before all others."""
    known = list(landmarks)
    parts = []
    for each, landmark in zip(pairs.candidates, landmarks, strict=True):
        if each.related.any() and not each.related.all():
            deviations = ranking.deviations(each.inliers, calibration.background)
            evidence = ranking.log_likelihood_ratio(deviations, calibration)
            rare = ranking.rarity(each.similarities)
            parts.append((rare, evidence, each.related, 1 / known.count(landmark)))

    def loss(weight: float) -> float:
        total = 0.0
        for rare, evidence, related, share in parts:
            odds = weight * rare + evidence
            others = np.logaddexp.reduce(odds[~related])
            total += share * np.logaddexp(0, others - odds[related]).mean()
        return total

    return float(optimize.minimize_scalar(loss, bounds=(0, 4), method="bounded").x)
