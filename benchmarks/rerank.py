"""Time to verify a query's candidates from a feature store, beside the original's way.

    python benchmarks/rerank.py [--candidates=100] [--features=1000] [--index=DIR]

Seconds of one core; opening the store and reading the features included. By default
the store is drawn: in a tenth of the candidates a part of the query's features comes
again, moved by an affine map; the others have nothing in common with it. With --index,
the photos most similar to one of an index made by `main.py index`.

The original's way: scipy's k-d tree of each candidate, the nearest below a distance,
then scikit-image's RANSAC of 1000 trials without early stop. It is measured on a few of
the candidates, evenly chosen, and extrapolated to all; it is given the features as the
store has them, although reading its own files takes it 19 ms each.
"""

import argparse
import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import rounds
from scipy.spatial import cKDTree
from skimage.measure import ransac
from skimage.transform import AffineTransform
from store import write_store

from delf_jax.features import Features, LocalFeatures
from delf_jax.retrieval import ranking, verification
from delf_jax.search import matching, rerank

SIZE = (768, 1024)
DIMENSION, GLOBAL = 128, 256
# Descriptors lie in a subspace of so many dimensions: then the settings of DELG find
# 750 matches of unrelated images, and ours 200 (of real photos, with delg_tiny, 90).
SUBSPACE = 40
PRESETS = {
    "ours": ("default", None),
    "numbers of DELG": ("delg", "original, of DELG"),
    "numbers of D2R": ("d2r", "original, of D2R"),
}
SHARE, NOISE = 0.15, 0.3  # of a true candidate: common features, and their noise.
MOVED = np.array([[1.08, -0.17, 22.0], [0.21, 0.93, -15.0]])
MEASURED = 5  # candidates, with the original's way.


def draw_images(candidates: int, features: int) -> Iterator[Features]:
    """The query, then the candidates, of which every tenth shows the same."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(SUBSPACE, DIMENSION))

    def draw() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scales = rng.choice([0.7, 1.0, 1.4, 2.0], features)
        return rng.uniform(0, SIZE, (features, 2)), scales, draw_descriptors(features)

    def draw_descriptors(count: int) -> np.ndarray:
        return _normalized(rng.normal(size=(count, SUBSPACE)) @ basis)

    query = draw()
    yield _features(*query, rng)
    for number in range(candidates):
        locations, scales, descriptors = draw()
        if number % 10 == 0:
            same = rng.permutation(features)[: round(SHARE * features)]
            locations[same] = query[0][same] @ MOVED[:, :2].T + MOVED[:, 2]
            scales[same] = query[1][same]
            noise = NOISE * draw_descriptors(len(same))
            descriptors[same] = _normalized(query[2][same] + noise)
        yield _features(locations, scales, descriptors, rng)


def _features(locations, scales, descriptors, rng) -> Features:
    local = LocalFeatures(
        *(np.float32(each) for each in (locations, scales, descriptors)),
        np.ones(len(scales), np.float32),
    )
    return Features(local, np.float32(_normalized(rng.random(GLOBAL))), SIZE)


def _normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def verify(folder: pathlib.Path, rows: list[int], name: str) -> list[int]:
    """The inliers of each candidate with the first of `rows`, ours."""
    images = rerank.open_features(folder)
    query, *others = rows
    found = matching.verify_candidates(
        images[query],
        (images[row] for row in others),
        images.size_bounds,
        verification.VERIFICATION[name],
    )
    return [each.inliers for each in found]


def verify_as_original(folder: pathlib.Path, rows: list[int], name: str) -> list[int]:
    """The same, written as the original writes it."""
    images, how = rerank.open_features(folder), verification.VERIFICATION[name]
    query, inliers = images[rows[0]].local, []
    for row in rows[1:]:
        index = images[row].local
        _, ids = cKDTree(index.descriptors).query(
            query.descriptors, distance_upper_bound=how.max_distance
        )
        kept = [i for i in range(len(ids)) if ids[i] != len(index.descriptors)]
        a = np.array([query.locations[i] for i in kept])
        b = np.array([index.locations[ids[i]] for i in kept])
        found = None
        if len(kept) >= how.min_matches:
            _, found = ransac(
                (b, a),
                AffineTransform,
                min_samples=3,
                residual_threshold=how.threshold,
                max_trials=how.trials,
                rng=0,
            )
        inliers.append(0 if found is None else int(found.sum()))
    return inliers


def most_similar(folder: pathlib.Path, count: int) -> list[int]:
    """The first photo of an index, and the photos most similar to it."""
    descriptors = rerank.open_features(folder).global_descriptors
    others = ranking.top_k(descriptors[1:] @ descriptors[0], count)
    return [0, *(1 + others).tolist()]


def measure(folder: pathlib.Path, rows: list[int], times: int) -> None:
    query, others = rows[0], rows[1:]
    # Evenly chosen: of the drawn ones that show the same, one.
    few = [query, *others[:: max(1, len(others) // MEASURED - 1)][:MEASURED]]
    for label, (name, peer) in PRESETS.items():
        contestants = {label: lambda name=name: verify(folder, rows, name)}
        seconds = rounds.interleave(contestants, times, clock=time.process_time)
        rounds.report(seconds, peer=label)
        inliers = verify(folder, rows, name)
        print(f"    {sum(n > ranking.NOISE for n in inliers)} have more than 8 inliers")
        if peer:
            start = time.process_time()
            theirs = verify_as_original(folder, few, name)
            spent = (time.process_time() - start) / len(theirs) * len(others)
            ratio = spent / sorted(seconds[label])[times // 2]
            print(
                f"  {peer:32s} {spent:.1f} s, from {len(theirs)} candidates; ", end=""
            )
            print(
                f"ours {ratio:.0f}x; inliers {theirs}, ours {verify(folder, few, name)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--index", type=pathlib.Path, metavar="DIR")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.index
        rows = list(range(options.candidates + 1))
        if folder is None:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_store(folder, draw_images(options.candidates, options.features))
        else:
            rows = most_similar(folder, options.candidates)
        print(f"{len(rows) - 1} candidates of one query, reading included, one core:")
        measure(folder, rows, options.rounds)


if __name__ == "__main__":
    rounds.keep_to_one_core()
    main()
