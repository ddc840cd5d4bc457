"""Inliers that unrelated photos share: the numbers of `by_chance` in verification.py.

    python benchmarks/calibration.py [--model=FOLDER] [--index=DIR] [--searches=100]

Photos with ground truth, as of benchmarks/photos.py. Two are unrelated if at least one
shows a landmark and they are of different groups. For each settings of verification:

- random pairs of unrelated photos, and the number of inliers that 1 % of them exceed;
- searches: each query with the hundred unrelated photos that are globally most similar
  to it, and the number that the best of these exceeds in 1 % of all searches;
- what verdicts by the second number are worth where the landmark is among the photos:
  of how many queries it says "confident" (coverage), and how many of the photos that
  are above it show the landmark of the query (precision).
"""

import argparse
import csv
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from delf_jax import runtime
from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.features import Features
from delf_jax.images import SizeBounds
from delf_jax.index import photo_index
from delf_jax.progress import track
from delf_jax.retrieval.verification import VERIFICATION
from delf_jax.search import matching

ROOT = pathlib.Path(__file__).resolve().parent.parent
CANDIDATES = 100
# Of cases that may exceed a number.
RATE = 0.01


def read_groups(photos: pathlib.Path, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The group of each photo, a landmark with what stands beside it, and its kind."""
    with open(photos / "labels.csv", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    groups = [rows[id]["junk_group"] or rows[id]["landmark"] for id in ids]
    return np.array(groups), np.array([rows[id]["kind"] for id in ids])


def related_and_not(
    groups: np.ndarray, kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[M, M] bool: which pairs show one landmark, and which surely have nothing."""
    same, landmark = groups[:, None] == groups, kinds == "landmark"
    related = same & landmark & ~np.eye(len(groups), dtype=bool)
    return related, ~same & (landmark[:, None] | landmark)


def count_inliers(
    features: list[Features], pairs: np.ndarray, bounds: SizeBounds, name: str
) -> np.ndarray:
    """The inliers of each pair; pairs of one query follow each other."""
    counts, settings = [], VERIFICATION[name]
    with track(f"verify ({name})", len(pairs), "pair") as advance:
        for a, b in pairs.tolist():
            found = matching.compare_features(
                features[a], features[b], bounds, settings
            )
            counts.append(found.inliers)
            advance()
    return np.array(counts)


def exceeded(counts: np.ndarray) -> int:
    """The least number that at most a hundredth of the counts exceeds."""
    return int(np.sort(counts)[len(counts) - 1 - int(RATE * len(counts))])


def calibrate_pairs(
    features: list[Features], unrelated: np.ndarray, options: argparse.Namespace, name
) -> str:
    """What random pairs of unrelated photos share."""
    rng = np.random.default_rng(0)
    pairs = np.argwhere(np.triu(unrelated))
    pairs = rng.permutation(pairs)[: options.pairs]
    counts = count_inliers(features, pairs, options.bounds, name)
    return f"{len(pairs)} pairs: median {np.median(counts):.0f}, {exceeded(counts)}"


def calibrate_searches(
    features: list[Features],
    related: np.ndarray,
    unrelated: np.ndarray,
    options: argparse.Namespace,
    name: str,
) -> Iterator[str]:
    """What the best of unrelated candidates share, and what verdicts are worth."""
    rng = np.random.default_rng(1)
    descriptors = np.stack([np.asarray(x.global_descriptor) for x in features])
    queries = rng.permutation(np.flatnonzero(related.any(axis=1)))[: options.searches]
    pairs = []
    for query in queries.tolist():
        order = np.argsort(-(descriptors @ descriptors[query]), kind="stable")
        order = order[order != query]
        others = order[unrelated[query][order]][:CANDIDATES]
        ids = np.union1d(order[:CANDIDATES], others)
        ids = ids[(related | unrelated)[query][ids]]
        pairs += [(query, id) for id in ids.tolist()]
    found = np.array(pairs)
    counts = count_inliers(features, found, options.bounds, name)
    good = related[found[:, 0], found[:, 1]]
    best = [counts[(found[:, 0] == q) & ~good].max() for q in queries]
    most = exceeded(np.array(best))
    yield f"{len(queries)} searches: median {np.median(best):.0f}, {most}"
    above = counts > most
    covered = np.isin(queries, found[above & good, 0]).mean()
    yield f"coverage {covered:.1%}, precision {good[above].mean():.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default=ROOT.parent / "shared" / "photos")
    parser.add_argument("--model", help="folder of a model; default: the bundled one")
    parser.add_argument("--index", help="folder to keep the features in")
    parser.add_argument("--verification", default=",".join(VERIFICATION))
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--max_features", type=int, help="of each photo")
    options = parser.parse_args()
    photos = pathlib.Path(options.photos)
    runtime.enable_compilation_cache()
    model = model_folder.load_model(options.model)
    more = {"max_features": options.max_features} if options.max_features else {}
    settings = settings_for(model, **more)
    options.bounds = settings.size_bounds
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.index or scratch
        photo_index.make_index([photos / "images"], directory, model, settings)
        store = photo_index.open_index(directory).store
        features = list(store)
        related, unrelated = related_and_not(*read_groups(photos, store.ids))
        for name in options.verification.split(","):
            pairs = calibrate_pairs(features, unrelated, options, name)
            searches = calibrate_searches(features, related, unrelated, options, name)
            lines = [f"{line} exceeded by 1 %" for line in (pairs, next(searches))]
            print(f"{name}:", *lines, *searches, sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
