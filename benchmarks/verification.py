"""Time of affine verification, beside scikit-image (the original's) and OpenCV.

    python benchmarks/verification.py [--matches=500]

One core; same matches, threshold and number of trials for all. scikit-image runs as
the original calls it: no early stop. Printed beside the times: the inliers found,
and how many of them are true.
"""

import argparse

import cv2
import numpy as np
import rounds
from skimage.measure import ransac
from skimage.transform import AffineTransform

from delf_jax.retrieval.verification import estimate_affine

THRESHOLD, TRIALS = 20.0, 1000
CALLS = 10  # in a row, as reranking verifies one candidate after the other.
TRUTH = np.array([[1.08, -0.17, 22.0], [0.21, 0.93, -15.0]])
SIZE = (768, 1024)


def draw_matches(
    matches: int, share: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Locations in two photos, of which a share obeys TRUTH up to 3 px; and which."""
    rng = np.random.default_rng(seed)
    index = rng.uniform(0, SIZE, (matches, 2))
    query = index @ TRUTH[:, :2].T + TRUTH[:, 2] + rng.normal(0, 3, (matches, 2))
    true = rng.permutation(matches) < round(share * matches)
    query[~true] = rng.uniform(0, SIZE, ((~true).sum(), 2))
    return query, index, true


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


def verify_with_opencv(query: np.ndarray, index: np.ndarray) -> np.ndarray:
    _, inliers = cv2.estimateAffine2D(
        index, query, ransacReprojThreshold=THRESHOLD, maxIters=TRIALS
    )
    return inliers.ravel().astype(bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matches", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rounds.keep_to_one_core()
    cv2.setNumThreads(1)
    for share in (0.4, 0.2, 0.1):
        query, index, true = draw_matches(options.matches, share)
        contestants = {
            "original (scikit-image)": lambda q=query, i=index: verify_with_skimage(
                q, i
            ),
            "OpenCV estimateAffine2D": lambda q=query, i=index: verify_with_opencv(
                q, i
            ),
            "ours": lambda q=query, i=index: (
                estimate_affine(q, i, threshold=THRESHOLD, trials=TRIALS).inliers
            ),
        }
        print(f"{options.matches} matches, {true.sum()} of them true ({share:.0%})")
        for name, run in contestants.items():
            inliers = run()
            print(f"  {name:32s} {inliers.sum()} inliers, {inliers[true].sum()} true")
        times = rounds.interleave(contestants, options.rounds, CALLS)
        rounds.report(times, peer="original (scikit-image)")


if __name__ == "__main__":
    main()
