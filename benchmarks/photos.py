"""Retrieval on real photographs: a model of ours beside RootSIFT, on the same queries.

    python benchmarks/photos.py [--model=FOLDER] [--landmarks=held-out]

Leave-one-out: every photo of the landmarks named is searched for among all photos of
the folder; neither the query itself nor what ground_truth.json calls junk counts.
Printed: macro-mAP (the mean over landmarks of the mean AP of their queries), mAP,
recall@1. "held-out" are the landmarks that the model's training left out.

RootSIFT: 1000 features of OpenCV, ratio test, OpenCV's affine RANSAC against every
photo, ranked by inliers. Ours: what `main.py search` does.
"""

import argparse
import csv
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from delf_jax import runtime
from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.index import global_index, photo_index
from delf_jax.progress import track
from delf_jax.retrieval import matching, metrics, ranking
from delf_jax.search.query import find_first, rank

ROOT = pathlib.Path(__file__).resolve().parent.parent
FEATURES, RATIO, THRESHOLD = 1000, 0.8, 10.0


class Truth(NamedTuple):
    """Which photos show what the query shows."""

    images: list[str]
    queries: list[int]
    """places in `images`"""
    landmarks: list[str]
    """of the queries"""
    positives: list[list[int]]
    junk: list[list[int]]


def read_truth(photos: pathlib.Path, wanted: frozenset[str] | None) -> Truth:
    """The queries of the landmarks wanted (None: of all), among all photos."""
    truth = json.loads((photos / "ground_truth.json").read_text())
    with open(photos / "labels.csv", newline="") as file:
        landmark = {row["image"]: row["landmark"] for row in csv.DictReader(file)}
    rows = [
        (truth["imlist"].index(image), landmark[image], gnd["easy"] + gnd["hard"], gnd)
        for image, gnd in zip(truth["qimlist"], truth["gnd"], strict=True)
        if wanted is None or landmark[image] in wanted
    ]
    if not rows:
        sys.exit(f"{photos}: no query shows any of {', '.join(sorted(wanted or ()))}")
    queries, landmarks, positives, gnd = map(list, zip(*rows, strict=True))
    junk = [
        sorted({query, *each["junk"]}) for query, each in zip(queries, gnd, strict=True)
    ]
    return Truth(truth["imlist"], queries, landmarks, positives, junk)


def describe(truth: Truth, rankings: Iterator[np.ndarray]) -> str:
    """macro-mAP, mAP and recall@1 of one ranking of all photos per query."""
    precisions, first = [], []
    for ranked, positives, junk in zip(
        rankings, truth.positives, truth.junk, strict=True
    ):
        precisions.append(metrics.average_precision(ranked, positives, junk))
        places = metrics.find_positions(ranked, positives, junk)
        first.append(metrics.recall_at(places, 1))
    macro = metrics.macro_mean(precisions, truth.landmarks)
    mean = metrics.mean_over_queries(precisions)
    return f"macro-mAP {macro:.3f}   mAP {mean:.3f}   recall@1 {np.mean(first):.3f}"


def rank_with_rootsift(photos: pathlib.Path, truth: Truth) -> Iterator[np.ndarray]:
    """Rankings by the inliers of an affine map between RootSIFT matches."""
    sift = cv2.SIFT_create(FEATURES)
    found = [_rootsift(photos / "images" / image, sift) for image in truth.images]
    with track("RootSIFT", len(truth.queries), "query") as advance:
        for query in truth.queries:
            inliers = [_count_inliers(found[query], other) for other in found]
            yield ranking.top_k(np.array(inliers, np.float32))
            advance()


def _rootsift(path: pathlib.Path, sift: cv2.SIFT) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    keypoints, descriptors = sift.detectAndCompute(image, None)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    sums = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12)
    locations_xy = np.array([k.pt for k in keypoints], np.float32).reshape(-1, 2)
    return locations_xy, np.sqrt(descriptors / sums)


def _count_inliers(query: tuple, index: tuple) -> int:
    matches = matching.match_descriptors(query[1], index[1], ratio=RATIO)
    if len(matches) < 4:
        return 0
    _, inliers = cv2.estimateAffine2D(
        index[0][matches[:, 1]],
        query[0][matches[:, 0]],
        ransacReprojThreshold=THRESHOLD,
        maxIters=1000,
    )
    return 0 if inliers is None else int(inliers.sum())


def rank_with_index(
    index: photo_index.Index, settings, truth: Truth, rerank: bool
) -> Iterator[np.ndarray]:
    """Rankings of `main.py search`, with or without verification."""
    places = {image: place for place, image in enumerate(truth.images)}
    descriptors, _ = global_index.open_descriptors(index.store)
    with track("search", len(truth.queries), "query") as advance:
        for query in truth.queries:
            own = index.store.row(truth.images[query])
            features = index.store[own]
            found = find_first(descriptors, [features], len(index.store))
            similarities, rows = (each[0] for each in found)
            results = rank(
                *(index.store, features, rows, similarities, settings),
                own=own,
                rerank=rerank,
            )
            yield np.array([places[result.image] for result in results])
            advance()


def _landmarks(option: str, model: model_folder.Model) -> frozenset[str] | None:
    """The landmarks of an option: all, those that validated the model, or a list."""
    if option == "all":
        return None
    if option != "held-out":
        return frozenset(option.split(","))
    config = model.config.get("provenance", {}).get("config", {})
    sources = config.get("data", {}).get("sources", {})
    held_out = {name for each in sources.values() for name in each.get("holdout", ())}
    if not held_out:
        sys.exit(f"{model.name} does not say what was held out; use --landmarks=all")
    return frozenset(held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default=ROOT.parent / "shared" / "photos")
    parser.add_argument("--model", help="folder of a model; default: the bundled one")
    parser.add_argument("--global_model", help="gives the global descriptors instead")
    parser.add_argument("--landmarks", default="held-out", help="or all, or a,b,c")
    parser.add_argument("--index", help="folder to keep the features in")
    parser.add_argument("--no_rootsift", action="store_true", help="ours only")
    options = parser.parse_args()
    photos = pathlib.Path(options.photos)
    runtime.enable_compilation_cache()
    model = model_folder.load_model(options.model, options.global_model)
    settings = settings_for(model)
    truth = read_truth(photos, _landmarks(options.landmarks, model))
    print(
        f"{len(truth.queries)} queries of {len(set(truth.landmarks))} landmarks, "
        f"{len(truth.images)} photos"
    )
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.index or scratch
        photo_index.make_index([photos / "images"], directory, model, settings)
        index = photo_index.open_index(directory)
        for name, rerank in (("global alone", False), ("reranked", True)):
            _report(
                f"{model.name}, {name}",
                lambda rerank=rerank: describe(
                    truth, rank_with_index(index, settings, truth, rerank)
                ),
            )
    if not options.no_rootsift:
        _report(
            "RootSIFT, affine RANSAC",
            lambda: describe(truth, rank_with_rootsift(photos, truth)),
        )


def _report(name: str, measure: Callable[[], str]) -> None:
    start = time.perf_counter()
    result = measure()
    print(f"  {name:28s} {result}   ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
