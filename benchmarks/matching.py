"""Time of matching two images' descriptors, beside the k-d tree of the original.

    python benchmarks/matching.py [--features=1000] [--dimension=128]

One core. The tree applies the original's rule (nearest index descriptor below a
distance), with its list comprehensions. All are given the same descriptors, of which
half have a true partner, and must find the same matches.
"""

import argparse

import cv2
import numpy as np
import rounds
from scipy.spatial import cKDTree

from delf_jax.retrieval.matching import match_descriptors

LIMIT = 0.9
CALLS = 10  # in a row, as reranking matches one candidate after the other.


def draw_descriptors(
    features: int, dimension: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit descriptors of two images; half of the index ones are noisy query ones."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(features, dimension))
    index = rng.normal(size=(features, dimension))
    half = features // 2
    index[:half] = query[:half] + 0.5 * rng.normal(size=(half, dimension))
    query, index = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        for x in (query, index)
    )
    return query, index


def match_with_tree(query: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The original's rule, written as the original writes it."""
    _, ids = cKDTree(index).query(query, distance_upper_bound=LIMIT)
    return np.array(
        [(i, ids[i]) for i in range(len(query)) if ids[i] != len(index)], np.int32
    )


def match_with_opencv(query: np.ndarray, index: np.ndarray) -> np.ndarray:
    found = cv2.BFMatcher(cv2.NORM_L2).match(query, index)
    return np.array([(m.queryIdx, m.trainIdx) for m in found if m.distance < LIMIT])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rounds.keep_to_one_core()
    cv2.setNumThreads(1)
    query, index = draw_descriptors(options.features, options.dimension)
    contestants = {
        "original (scipy cKDTree)": lambda: match_with_tree(query, index),
        "OpenCV brute force": lambda: match_with_opencv(query, index),
        "ours": lambda: match_descriptors(query, index, max_distance=LIMIT),
    }
    expected = match_with_tree(query, index)
    for name, run in contestants.items():
        assert np.array_equal(run(), expected), f"{name} finds other matches"
    # More work than the original's rule; nobody to compare with.
    contestants["ours, ratio and mutual"] = lambda: match_descriptors(
        query, index, ratio=0.9, mutual=True
    )
    print(f"{options.features} x {options.features} x {options.dimension}: ", end="")
    print(f"{len(expected)} matches, the same from all")
    times = rounds.interleave(contestants, options.rounds, CALLS)
    rounds.report(times, peer="original (scipy cKDTree)")


if __name__ == "__main__":
    main()
