"""Affine verification beside scikit-image (the original's) and OpenCV: time and finds.

    python benchmarks/verification.py [--matches=500] [--photos=DIR [--index=DIR]]

One core; same matches, threshold and number of trials for all. scikit-image runs as
the original calls it: no early stop. First drawn matches, means of a dozen seeds: the
share of the true ones that is found, the false ones among the inliers, milliseconds of
the core.

With --photos, as of benchmarks/photos.py, then real pairs, matched by the bundled model
as `verify_pair` does: those of pairs.csv, where a match is true by its homography, or
by correspondences marked or triangulated near both of its ends, and unrelated ones.
--index keeps the features.
"""

import argparse
import csv
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import rounds
from calibration import read_groups, related_and_not
from skimage.measure import ransac
from skimage.transform import AffineTransform

from delf_jax import runtime
from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.features import LocalFeatures
from delf_jax.index import photo_index
from delf_jax.progress import track
from delf_jax.retrieval.matching import match_descriptors
from delf_jax.retrieval.verification import (
    VERIFICATION,
    estimate_affine,
    keep_distinct,
)

THRESHOLD, TRIALS = 20.0, 1000
SEEDS = 12
SHARES = (0.4, 0.2, 0.1, 0.05)
TRUTH = np.array([[1.08, -0.17, 22.0], [0.21, 0.93, -15.0]])
SIZE = (768, 1024)
# Pixels between a match and what the truth says: a cell of features, and then some.
NEAR = 24.0
PEER = "OpenCV estimateAffine2D"


class Drawn(NamedTuple):
    """Matches: two ends of each, and which are known to be true."""

    query: np.ndarray
    index: np.ndarray
    true: np.ndarray


def draw_matches(matches: int, share: float, seed: int = 0) -> Drawn:
    """Locations in two photos, of which a share obeys TRUTH up to 3 px; and which."""
    rng = np.random.default_rng(seed)
    index = rng.uniform(0, SIZE, (matches, 2))
    query = index @ TRUTH[:, :2].T + TRUTH[:, 2] + rng.normal(0, 3, (matches, 2))
    true = rng.permutation(matches) < round(share * matches)
    query[~true] = rng.uniform(0, SIZE, ((~true).sum(), 2))
    return Drawn(query, index, true)


def verify_with_skimage(query: np.ndarray, index: np.ndarray) -> np.ndarray:
    _, inliers = ransac(
        (index, query),
        AffineTransform,
        min_samples=3,
        residual_threshold=THRESHOLD,
        max_trials=TRIALS,
        rng=0,
    )
    return inliers if inliers is not None else np.zeros(len(query), bool)


def verify_with_opencv(
    query: np.ndarray, index: np.ndarray, method: int = cv2.RANSAC
) -> np.ndarray:
    _, inliers = cv2.estimateAffine2D(
        index,
        query,
        method=method,
        ransacReprojThreshold=THRESHOLD,
        maxIters=TRIALS,
    )
    return np.zeros(len(query), bool) if inliers is None else inliers.ravel() > 0


def verify(query: np.ndarray, index: np.ndarray) -> np.ndarray:
    return estimate_affine(query, index, threshold=THRESHOLD, trials=TRIALS).inliers


Verify = Callable[[np.ndarray, np.ndarray], np.ndarray]
CONTESTANTS: Mapping[str, Verify] = {
    "original (scikit-image)": verify_with_skimage,
    PEER: verify_with_opencv,
    "OpenCV USAC_MAGSAC": functools.partial(verify_with_opencv, method=cv2.USAC_MAGSAC),
    "ours": verify,
}


def compare_on_drawn(matches: int, times: int) -> None:
    for share in SHARES:
        drawn = [draw_matches(matches, share, seed) for seed in range(SEEDS)]
        true = round(share * matches)
        print(f"{matches} matches, {true} of them true ({share:.0%}), {SEEDS} seeds")
        found, seconds = {}, {}
        for name, run in CONTESTANTS.items():
            start = time.process_time()
            found[name] = run_all(run, drawn)
            seconds[name] = [time.process_time() - start]
        # The slow one has had its turn.
        calls = {
            name: functools.partial(run_all, run, drawn)
            for name, run in CONTESTANTS.items()
            if run is not verify_with_skimage
        }
        seconds |= rounds.interleave(calls, times, clock=time.process_time)
        reference = statistics.median(seconds[PEER])
        for name, inliers in found.items():
            finds = [x[d.true].mean() for x, d in zip(inliers, drawn, strict=True)]
            false = [x[~d.true].sum() for x, d in zip(inliers, drawn, strict=True)]
            median, least = statistics.median(seconds[name]), min(seconds[name])
            print(
                f"  {name:24s} finds {np.mean(finds):.3f}, false {np.mean(false):.1f}, "
                f"median {1e3 * median / SEEDS:7.2f} ms, min "
                f"{1e3 * least / SEEDS:7.2f} ms, {median / reference:6.2f}x OpenCV's"
            )


def run_all(run: Verify, drawn: Sequence[Drawn]) -> list[np.ndarray]:
    return [run(each.query, each.index) for each in drawn]


def match(query: LocalFeatures, index: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of each match, by the default settings."""
    how = VERIFICATION["default"]
    pairs = match_descriptors(
        query.descriptors, index.descriptors, ratio=how.ratio, mutual=how.mutual
    )
    ends = query.locations[pairs[:, 0]], index.locations[pairs[:, 1]]
    return ends[0].astype(np.float64), ends[1].astype(np.float64)


def is_true(row: Mapping[str, str], photos: pathlib.Path, ends) -> np.ndarray:
    """Which matches of a row of pairs.csv are true, as far as that is known."""
    query_xy, index_xy = (each[:, ::-1] for each in ends)
    if row["type"] == "homography":
        homography = np.array(row["H"].split(), float).reshape(3, 3)
        mapped = np.column_stack([query_xy, np.ones(len(query_xy))]) @ homography.T
        return np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - index_xy, axis=1) < NEAR
    known = np.loadtxt(photos / row["corr_file"], ndmin=2)
    near = np.linalg.norm(query_xy[:, None] - known[:, :2], axis=2) < NEAR
    return (
        near & (np.linalg.norm(index_xy[:, None] - known[:, 2:], axis=2) < NEAR)
    ).any(axis=1)


def true_pairs(
    photos: pathlib.Path, local: Mapping[str, LocalFeatures], count: int
) -> list[Drawn]:
    """So many pairs with truth, evenly chosen."""
    with open(photos / "pairs.csv", newline="") as file:
        known = [row for row in csv.DictReader(file) if row["H"] or row["corr_file"]]
    pairs = []
    for row in known[:: max(1, len(known) // count)]:
        ends = match(local[row["image1"]], local[row["image2"]])
        pairs.append(Drawn(*ends, is_true(row, photos, ends)))
    return [pair for pair in pairs if len(pair.true) >= 3]


def unrelated_pairs(
    photos: pathlib.Path, local: Mapping[str, LocalFeatures], count: int
) -> list[Drawn]:
    ids = list(local)
    _, unrelated = related_and_not(*read_groups(photos, ids))
    pairs = np.random.default_rng(0).permutation(np.argwhere(np.triu(unrelated)))
    ends = [match(local[ids[a]], local[ids[b]]) for a, b in pairs[:count].tolist()]
    return [Drawn(*x, np.zeros(len(x[0]), bool)) for x in ends if len(x[0]) >= 3]


def compare_on_photos(photos: pathlib.Path, directory: str | None, count: int) -> None:
    runtime.enable_compilation_cache()
    model = model_folder.load_model(None)
    with tempfile.TemporaryDirectory() as scratch:
        index = directory or scratch
        photo_index.make_index([photos / "images"], index, model, settings_for(model))
        images = photo_index.open_index(index).store
        local = dict(zip(images.ids, (each.local for each in images), strict=True))
        sets = {
            "with truth": true_pairs(photos, local, count),
            "unrelated": unrelated_pairs(photos, local, count),
        }
    for name, pairs in sets.items():
        print(f"{len(pairs)} pairs of photos, {name}")
        for contestant, run in CONTESTANTS.items():
            with track(contestant, len(pairs), "pair") as advance:
                found = []
                for pair in pairs:
                    found.append(count_distinct(run(pair.query, pair.index), pair))
                    advance()
            report_pairs(contestant, found)


def count_distinct(inliers: np.ndarray, pair: Drawn) -> tuple[int, int]:
    """Inliers in cells of their own, and those of them that are known to be true."""
    errors = np.where(inliers, 0.0, np.inf)
    kept = keep_distinct(
        pair.query, pair.index, errors, spacing=VERIFICATION["default"].spacing
    )
    return int(kept.sum()), int((kept & pair.true).sum())


def report_pairs(name: str, found: Sequence[tuple[int, int]]) -> None:
    inliers, true = np.array(found).T
    print(
        f"  {name:24s} inliers: mean {inliers.mean():.1f}, true {true.mean():.1f}, "
        f"median {np.median(inliers):.0f}, 90 % {np.percentile(inliers, 90):.0f}, "
        f"99 % {np.percentile(inliers, 99):.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matches", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--photos", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--index", metavar="DIR")
    parser.add_argument(
        "--pairs", type=int, default=100, help="with truth, and unrelated ones"
    )
    options = parser.parse_args()
    rounds.keep_to_one_core()
    cv2.setNumThreads(1)
    compare_on_drawn(options.matches, options.rounds)
    if options.photos:
        compare_on_photos(options.photos, options.index, options.pairs)


if __name__ == "__main__":
    main()
