"""Retrieval on real photographs of landmarks that the model was not trained on.

    python benchmarks/photos.py [--model=FOLDER] [--global_model=FOLDER] [--sweep]

Leave-one-out: a photo is searched for among all others; neither itself nor what the
ground truth calls junk counts. Two validations, neither of which training sees:

- first: the landmarks of `HOLDOUT` in configs/delg_tiny.py. Settings and calibration
  are chosen on it.
- second: every third photo of the six groups of `VALIDATION_GROUPS`, among all of
  these, every sixth of the 19 other large groups and some unlabelled ones. Nothing is
  fitted to it. Some labels are wrong, and photos of one group may show different sides:
  absolute figures are low, differences count.

Printed: macro-mAP (the mean over landmarks of the mean AP of their queries) with a 95 %
interval over landmarks, mAP and recall@1; gains are on the ranking before, paired. Then
the inliers of unrelated candidates, how often a search for what is not there is called
confident, and precision against coverage: answers in the order of their log-odds.

--global_model: its ranking too, and that verified by the model's inliers.
--against: another model, whose rankings are printed with the gains on the first's.
--sweep: candidates, features and match thresholds, one after the other: the best on the
first validation is kept, and all are reported on the second.
"""

import argparse
import collections
import csv
import pathlib
import runpy
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from delf_jax import runtime
from delf_jax.evaluation import calibration, datasets, evaluation
from delf_jax.evaluation.calibration import Pairs, Searched
from delf_jax.evaluation.datasets import Dataset, Photo, Protocol
from delf_jax.evaluation.tables import align
from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.features import Features
from delf_jax.progress import track
from delf_jax.retrieval import matching, ranking
from delf_jax.retrieval.verification import VerificationSettings
from delf_jax.search.calibration import similarity_of
from delf_jax.search.matching import Verified, rerank_verified, verification_settings
from delf_jax.search.pipeline import RankingInputs, run_steps
from delf_jax.search.verdict import judge

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.append(str(ROOT))  # Of what the config imports.
CONFIG = runpy.run_path(str(ROOT / "configs" / "delg_tiny.py"))
HOLDOUT, VALIDATION_GROUPS = CONFIG["HOLDOUT"], CONFIG["VALIDATION_GROUPS"]
# Of RootSIFT.
FEATURES, RATIO, THRESHOLD = 1000, 0.8, 10.0
# Of the second validation: photos of a group that is large; of the six, every so many
# is a query; of the other groups and of unlabelled photos, every so many is searched.
LARGE, QUERIES_EVERY, OTHERS_EVERY, UNLABELLED_EVERY = 22, 3, 6, 8
# What --sweep tries, field by field; features are the strongest of those extracted.
SWEPT: dict[str, Sequence[Any]] = {
    "candidates": (100, 25, 50, 200),
    "features": (1000, 300, 500),
    "ratio": (0.95, 0.9, 1.0),
    "threshold": (28.0, 16.0, 20.0, 40.0),
}


class Ranked(NamedTuple):
    """A validation ranked by one model."""

    name: str
    dataset: Dataset
    inputs: RankingInputs
    pairs: Pairs


def read_first(photos: pathlib.Path) -> Dataset:
    """The first validation: queries of the landmarks held out, among all photos."""
    dataset = datasets.read_dataset(photos / "ground_truth.json", photos / "images")
    return datasets.of_landmarks(dataset, HOLDOUT)._replace(name="first")


def read_second(more: pathlib.Path) -> Dataset:
    """The second: queries of six groups, among all large groups and distractors."""
    with open(more / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sizes = collections.Counter(row["landmark"] for row in rows)
    unlabelled = [row for row in rows if row["kind"] == "unlabelled"]
    chosen = unlabelled[::UNLABELLED_EVERY]
    for name in [name for name, size in sizes.items() if name and size >= LARGE]:
        group = [row for row in rows if row["landmark"] == name]
        chosen += group[:: 1 if name in VALIDATION_GROUPS else OTHERS_EVERY]
    chosen.sort(key=lambda row: row["image"])
    names = [row["image"] for row in chosen]
    groups = np.array([row["landmark"] for row in chosen])
    queries = np.flatnonzero(np.isin(groups, VALIDATION_GROUPS))[::QUERIES_EVERY]
    photos = [Photo(name, name, more / "images" / name) for name in names]
    same = [np.flatnonzero(groups == groups[query]) for query in queries]
    positives = [
        ids[ids != query].astype(np.int32)
        for ids, query in zip(same, queries, strict=True)
    ]
    junk = [np.array([query], np.int32) for query in queries]
    return Dataset(
        name="second",
        version="",
        index=photos,
        queries=[photos[query] for query in queries],
        boxes=None,
        protocols={"all": Protocol(positives, junk)},
        landmarks=groups[queries].tolist(),
    )


def open_inputs(
    dataset: Dataset, directory: pathlib.Path, model: model_folder.Model
) -> RankingInputs:
    """The features of a validation, kept in an index."""
    settings = settings_for(model)
    found = evaluation.evaluate(dataset, directory, model, settings, [("global",)])
    assert found.inputs is not None
    return found.inputs


class BorrowedStore:
    """Features of one store with the global descriptors of another."""

    def __init__(self, store: Any, other: Any):
        self.store, self.other, self.manifest = store, other, store.manifest
        self.rows = np.array([other.row(id) for id in store.ids])
        self.path = store.path

    def __getitem__(self, row: int) -> Features:
        (descriptor,) = self.read_global(np.array([row]))
        return self.store[row]._replace(global_descriptor=descriptor)

    def read_global(self, rows: np.ndarray) -> np.ndarray:
        return self.other.read_global(self.rows[rows])


def borrow_global(inputs: RankingInputs, other: RankingInputs) -> RankingInputs:
    """Local features as they are, with the global descriptors of another model."""
    queries = [
        mine._replace(global_descriptor=theirs.global_descriptor)
        for mine, theirs in zip(inputs.queries, other.queries, strict=True)
    ]
    store: Any = BorrowedStore(inputs.store, other.store)
    return inputs._replace(queries=queries, store=store)


def weaken(inputs: RankingInputs, features: int) -> RankingInputs:
    """The inputs with no more than the first, strongest, local features of a photo."""

    def cut(each: Features) -> Features:
        local = each.local
        assert local is not None
        return each._replace(local=type(local)(*(x[:features] for x in local)))

    class Cut(BorrowedStore):
        def __getitem__(self, row: int) -> Features:
            return cut(super().__getitem__(row))

    store: Any = Cut(inputs.store, inputs.store)
    return inputs._replace(queries=[cut(q) for q in inputs.queries], store=store)


def rank(ranked: Ranked, how: VerificationSettings | None) -> np.ndarray:
    """[Q, M] places, best first: as a search ranks; None: by similarity alone."""
    (best,) = run_steps(ranked.inputs, [("global",)])
    if how is None:
        return best.ids
    rows = []
    for ids, searched in zip(best.ids, ranked.pairs.candidates, strict=True):
        verified = {
            id: Verified(inliers, np.zeros((0, 4)))
            for id, inliers in zip(
                searched.ids.tolist(), searched.inliers.tolist(), strict=True
            )
        }
        first = rerank_verified(searched.ids, searched.similarities, verified, how)
        rows.append(np.concatenate([first, ids[~np.isin(ids, first)]]))
    return np.stack(rows)


def print_scores(dataset: Dataset, rankings: Mapping[str, np.ndarray]) -> list[float]:
    """The macro-mAP of each ranking, printed with intervals."""
    lists = {name: dict.fromkeys(dataset.protocols, r) for name, r in rankings.items()}
    result = evaluation.score(dataset, lists)
    (positives, junk), *_ = dataset.protocols.values()
    cells = [["", "macro-mAP", "95 %", "gain", "mAP", "recall@1"]]
    for row in result.rows:
        macro, mean = row.macro, row.mean
        assert macro is not None and macro.interval is not None
        queries = zip(rankings[row.ranking], positives, junk, strict=True)
        right = [r[~np.isin(r, j)][0] in p for r, p, j in queries]
        gain = "" if macro.gain is None else _interval(macro.gain)
        cells.append(
            [
                *(row.ranking, f"{macro.value:.3f}", _interval(macro.interval), gain),
                *(f"{mean.value:.3f}", f"{np.mean(right):.3f}"),
            ]
        )
    print(*(f"  {line}" for line in align(cells)), sep="\n", flush=True)
    return [row.macro.value for row in result.rows if row.macro is not None]


def _interval(ends: Any) -> str:
    return f"{ends.low:+.3f} .. {ends.high:+.3f}"


def print_evidence(ranked: Ranked, how: VerificationSettings) -> None:
    """What unrelated candidates share, and what verdicts and log-odds are worth."""
    pairs = ranked.pairs
    chance = np.concatenate([each.inliers for each in pairs.unrelated])
    median, most = np.quantile(chance, [0.5, 0.9])
    print(f"  inliers of {len(chance)} unrelated candidates: {median:.0f} / {most:.0f}")
    print(f"  called confident: {_verdicts(pairs, how)}")
    if how.calibration is None:
        return
    odds, right = calibration.answers(pairs.candidates, how.calibration)
    print("  answers by log-odds, precision at coverage:", curve(odds, right))
    absent, _ = calibration.answers(pairs.unrelated, how.calibration)
    print(f"  log-odds that 1 % of searches for nothing exceed: {exceeded(absent):.1f}")


def exceeded(odds: np.ndarray) -> float:
    """What a hundredth of the best answers of searches for nothing exceed."""
    return float(np.quantile(odds, 0.99))


def curve(odds: np.ndarray, right: np.ndarray) -> str:
    """The precision of the surest answers, at some coverages."""
    surest = right[np.argsort(-odds, kind="stable")]
    counts = [round(len(surest) * part / 10) for part in (2, 4, 5, 6, 7, 8, 9, 10)]
    return ", ".join(
        f"{surest[:n].mean():.3f} at {n / len(surest):.0%}" for n in counts if n
    )


def _verdicts(pairs: Pairs, how: VerificationSettings) -> str:
    """How many searches are, of those for what is there and of those for nothing."""

    def confident(searches: Sequence[Searched]) -> np.ndarray:
        found = (judge(x.inliers.tolist(), 1e3, None, how) for x in searches)
        return np.array([each.confident for each in found])

    said = confident(pairs.candidates)
    right = np.array([x.related[x.inliers.argmax()] for x in pairs.candidates])
    return (
        f"{said.mean():.1%} of searches, {right[said].mean():.1%} of them rightly; of "
        f"searches for nothing {confident(pairs.unrelated).mean():.1%}"
    )


def rank_with_rootsift(dataset: Dataset) -> np.ndarray:
    """Rankings by the inliers of an affine map between RootSIFT matches."""
    sift = cv2.SIFT_create(FEATURES)
    found = {photo.id: _rootsift(photo.path, sift) for photo in dataset.index}
    rankings = []
    with track("RootSIFT", len(dataset.queries), "query") as advance:
        for query in dataset.queries:
            inliers = [_count_inliers(found[query.id], x) for x in found.values()]
            rankings.append(ranking.top_k(np.array(inliers, np.float32)))
            advance()
    return np.stack(rankings)


def _rootsift(
    path: pathlib.Path | None, sift: cv2.SIFT
) -> tuple[np.ndarray, np.ndarray]:
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


def verify(
    name: str, dataset: Dataset, inputs: RankingInputs, how: VerificationSettings
) -> Ranked:
    """A validation with its candidates verified."""
    (protocol,) = dataset.protocols.values()
    pairs = calibration.verify_pairs(inputs, protocol, how)
    return Ranked(name, dataset, inputs, pairs)


def report(ranked: Sequence[Ranked], how: Sequence[VerificationSettings]) -> None:
    """One validation by several models: each alone, and reranked."""
    rankings = {}
    for each, settings in zip(ranked, how, strict=True):
        rankings[f"{each.name}, alone"] = rank(each, None)
        rankings[f"{each.name}, verified"] = rank(each, settings)
    print_scores(ranked[0].dataset, rankings)
    if len(ranked) > 1:  # The others' own gains, paired.
        for each in ranked[1:]:
            names = [f"{each.name}, alone", f"{each.name}, verified"]
            print_scores(each.dataset, {name: rankings[name] for name in names})


def sweep(
    validations: Sequence[tuple[Dataset, RankingInputs]], start: VerificationSettings
) -> None:
    """Tries settings one after the other; each is calibrated on the first anew."""
    best: dict[str, Any] = {name: values[0] for name, values in SWEPT.items()}
    shown: dict[str, list[str]] = {}
    for field, values in SWEPT.items():
        scores = {}
        for value in values:
            tried = {**best, field: value}
            name = " ".join(f"{key}={tried[key]}" for key in SWEPT)
            if name not in shown:
                shown[name] = list(_try(validations, start, tried))
            scores[value] = float(shown[name][0])
            print(f"  {name}: {' '.join(shown[name])}", flush=True)
        best[field] = max(scores, key=lambda value: scores[value])
        print(f"  chosen on the first validation: {field}={best[field]}", flush=True)


def _try(
    validations: Sequence[tuple[Dataset, RankingInputs]],
    start: VerificationSettings,
    tried: Mapping[str, Any],
) -> Iterator[str]:
    """macro-mAP on each validation."""
    fields = {name: v for name, v in tried.items() if name in start._fields}
    how = start._replace(**fields)
    for number, (dataset, inputs) in enumerate(validations):
        weak = weaken(inputs, tried["features"])
        ranked = verify("", dataset, weak, how)
        if number == 0:
            assert dataset.landmarks is not None
            fitted = calibration.fit(ranked.pairs, dataset.landmarks)
            how = how._replace(calibration=fitted)
        found = {"": dict.fromkeys(dataset.protocols, rank(ranked, how))}
        (row,) = evaluation.score(dataset, found).rows
        assert row.macro is not None
        yield f"{row.macro.value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default=SHARED / "photos", type=pathlib.Path)
    parser.add_argument("--more", default=SHARED / "photos_more", type=pathlib.Path)
    parser.add_argument("--model", help="folder of a model; default: the bundled one")
    parser.add_argument(
        "--global_model", help="folder of a model whose ranking to take"
    )
    parser.add_argument("--against", help="folder of a model to compare with")
    parser.add_argument("--index", type=pathlib.Path, help="folder to keep features in")
    parser.add_argument("--rootsift", action="store_true", help="on the first, as well")
    parser.add_argument("--sweep", action="store_true", help="settings of search")
    options = parser.parse_args()
    runtime.enable_compilation_cache()
    with tempfile.TemporaryDirectory() as scratch:
        run(options, options.index or pathlib.Path(scratch))


def run(options: argparse.Namespace, kept: pathlib.Path) -> None:
    """All of it; features of each model and validation in a folder of `kept`."""
    model = model_folder.load_model(options.model)
    how = verification_settings(model=model)
    swept = []
    for dataset in (read_first(options.photos), read_second(options.more)):
        landmarks = set(dataset.landmarks or ())
        print(
            f"{dataset.name} validation: {len(dataset.queries)} queries of "
            f"{len(landmarks)} landmarks, {len(dataset.index)} photos"
        )

        def opened(
            each: model_folder.Model, dataset: Dataset = dataset
        ) -> RankingInputs:
            folder = kept / f"{dataset.name}-{each.name}-{each.fingerprint[:8]}"
            return open_inputs(dataset, folder, each)

        inputs = opened(model)
        swept.append((dataset, inputs))
        ranked, settings = [verify(model.name, dataset, inputs, how)], [how]
        if options.global_model:
            other = model_folder.load_model(options.global_model)
            borrowed = borrow_global(inputs, opened(other))
            ranked.append(verify(f"ranking of {other.name}", dataset, borrowed, how))
            settings.append(how)
            if how.calibration is not None:
                weight = similarity_of(other)
                fitted = how.calibration._replace(similarity=weight)
                settings[-1] = how._replace(calibration=fitted)
        if options.against:
            other = model_folder.load_model(options.against)
            settings.append(verification_settings(model=other))
            name = f"against {other.name}"
            ranked.append(verify(name, dataset, opened(other), settings[-1]))
        report(ranked, settings)
        for each, of_each in zip(ranked, settings, strict=True):
            print(f"{each.name}:")
            print_evidence(each, of_each)
        if options.rootsift and dataset.name == "first":
            print_scores(dataset, {"RootSIFT": rank_with_rootsift(dataset)})
    if options.sweep:
        print("settings, macro-mAP on the first and on the second validation")
        sweep(swept, how)


if __name__ == "__main__":
    main()
