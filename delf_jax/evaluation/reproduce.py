"""Experiments of papers: from photos to the table, the published figures beside.

`out` holds a folder for each dataset: store/ and queries/ (features), boxes/ where a
detector finds some, results.json, metrics.txt and report.html; codebooks/, distractors/
and reproduction.json. Boxes, features and codebooks that are there are not made again.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from delf_jax import files
from delf_jax.evaluation import datasets, distractors, evaluation, overlap, page, report
from delf_jax.evaluation import experiment as experiments
from delf_jax.evaluation.datasets import Dataset
from delf_jax.evaluation.evaluation import Evaluation
from delf_jax.extraction.boxes import RegionBoxes, open_boxes
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.formats.datasets import oxford
from delf_jax.image_files import find_images
from delf_jax.index import fit_codebook
from delf_jax.progress import print_results
from delf_jax.search.matching import verification_settings
from delf_jax.store import feature_store

# (id, path) of each.
Photos = Sequence[tuple[str, pathlib.Path]]


class ExperimentInputs(NamedTuple):
    """Where features come from and are kept."""

    data: pathlib.Path
    out: pathlib.Path
    model: Model
    settings: ExtractionSettings
    find_boxes: Callable[[Photos, pathlib.Path], RegionBoxes] | None = None
    """of photos, by a detector; keeps them in a folder, too"""
    boxes: Mapping[str, RegionBoxes] = {}
    """of the index photos of datasets, by name"""


def reproduce(
    experiment: ConfigDict,
    inputs: ExperimentInputs,
    *,
    partial: bool = False,
    others: str | os.PathLike | None = None,
    seen: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[experiments.Compared]:
    """Runs an experiment on the datasets that are there; prints and writes all results.

    InputError before anything is extracted if no dataset is there, if photos are
    missing (unless `partial`), or if what a codebook is learned on is missing.

    Args:
      others: distractors, photos or a feature store.
      seen: file of queries whose landmarks were trained on, which are also left out.
    """
    found = _read_datasets(experiment.datasets, inputs.data)
    if seen is not None:
        left = overlap.leave_out(list(found.values()), seen)
        found = dict(zip(found, left, strict=True))
    for dataset in found.values():
        evaluation.complete(dataset, datasets.missing_photos(dataset), partial)
    learned_on = _learned_on(experiment, found, inputs.data, partial)
    unrelated = None
    inputs = inputs._replace(boxes=_boxes(experiment, found, inputs, partial))
    if others is not None:
        unrelated = distractors.open_distractors(
            others,
            inputs.out / "distractors",
            inputs.model,
            inputs.settings,
            boxes=_boxes_of_distractors(experiment, inputs, others),
            partial=partial,
            progress=progress,
        )
    compared = []
    for name, dataset in found.items():
        options = _options(experiment, name, learned_on, inputs, partial, progress)
        result = evaluation.evaluate(
            dataset,
            inputs.out / name,
            inputs.model,
            inputs.settings,
            experiments.read_pipelines(experiment),
            distractors=unrelated,
            partial=partial,
            progress=progress,
            **options,
        )
        _write(inputs.out / name, result, progress)
        compared += experiments.compare(name, result, experiment.paper)
    print_results(*experiments.table(compared))
    files.write_json(inputs.out / "reproduction.json", experiments.to_json(compared))
    print(f"results, metrics and pages: {inputs.out}")
    return compared


def find_dataset(data: pathlib.Path, name: str) -> pathlib.Path | None:
    """The ground truth of a dataset: in a folder of its name, or in `data`."""
    for folder in (data / name, data):
        for suffix in (".pkl", ".mat", ".json"):
            path = folder / f"gnd_{name}{suffix}"
            if path.is_file():
                return path
    return data / name if any((data / name).glob(f"*{oxford.QUERY}")) else None


def _read_datasets(names: Sequence[str], data: pathlib.Path) -> dict[str, Dataset]:
    """Datasets by name, without those that are not there."""
    if not data.is_dir():
        raise InputError(f"{data}: no such folder of datasets")
    found = {}
    for name in names:
        path = find_dataset(data, name)
        if path is None:
            print(f"{name}: left out; gnd_{name}.pkl not found in {data}")
        else:
            found[name] = datasets.read_dataset(path)
    if not found:
        needed = " or ".join(f"gnd_{name}.pkl with jpg/" for name in names)
        raise InputError(f"{data}: no dataset of this experiment: put {needed} there")
    return found


def _learned_on(
    experiment: ConfigDict,
    found: Mapping[str, Dataset],
    data: pathlib.Path,
    partial: bool,
) -> dict[str, str]:
    """What the codebook of each dataset is learned on; {} if none is needed."""
    if not (experiment.codebook.words or experiment.codebook.path):
        return {}
    learned_on = dict(experiment.codebook.learned_on)
    for name in found:
        if name not in learned_on:
            raise InputError(f"experiment.codebook.learned_on: no entry for {name}")
        if not experiment.codebook.path and learned_on[name] not in found:
            _training_photos(learned_on[name], data, partial)
    return learned_on


def _boxes(
    experiment: ConfigDict,
    found: Mapping[str, Dataset],
    inputs: ExperimentInputs,
    partial: bool,
) -> dict[str, RegionBoxes]:
    """The boxes of each dataset, if the experiment has any."""
    if inputs.find_boxes:
        boxes = {}
        for name, dataset in found.items():
            missing = datasets.missing_photos(dataset)
            there = evaluation.complete(dataset, missing, partial)
            photos = datasets.index_files(there)
            boxes[name] = inputs.find_boxes(photos, inputs.out / name)
        return boxes
    if not experiment.boxes:
        return {}
    paths = {name: find_dataset(inputs.data, name) for name in found}
    return {
        name: open_boxes((path if path.is_dir() else path.parent) / experiment.boxes)
        for name, path in paths.items()
        if path is not None
    }


def _boxes_of_distractors(
    experiment: ConfigDict, inputs: ExperimentInputs, others: str | os.PathLike
) -> RegionBoxes | None:
    """Those beside the photos; of a store none are read, but it must be with boxes."""
    if not (experiment.boxes or inputs.find_boxes):
        return None
    others = pathlib.Path(others)
    if (others / "manifest.json").is_file():
        return RegionBoxes(others, {})
    if inputs.find_boxes:
        return inputs.find_boxes(find_images([others]), inputs.out / "distractors")
    return open_boxes(others / experiment.boxes)


def _training_photos(
    name: str, data: pathlib.Path, partial: bool
) -> list[tuple[str, pathlib.Path]]:
    """(id, path) of the index of a dataset, or of the photos of a folder."""
    path = find_dataset(data, name)
    if path is None and (data / name).is_dir():
        return find_images([data / name])
    if path is None:
        raise InputError(
            f"{data}: gnd_{name}.pkl or folder {name}, which a codebook is learned on, "
            "not found; put one there, or name a codebook with "
            "--config.experiment.codebook.path"
        )
    dataset = datasets.read_dataset(path)
    missing = datasets.missing_photos(dataset)
    return datasets.index_files(evaluation.complete(dataset, missing, partial))


def _options(
    experiment: ConfigDict,
    name: str,
    learned_on: Mapping[str, str],
    inputs: ExperimentInputs,
    partial: bool,
    progress: bool,
) -> dict[str, Any]:
    """Options of `evaluate` that not every experiment has."""
    options: dict[str, Any] = {}
    if experiment.verification:
        options["verification"] = verification_settings(experiment.verification)
    if name in inputs.boxes:
        options["boxes"] = inputs.boxes[name]
    if name in learned_on:
        options["codebook"] = _codebook(
            experiment.codebook, learned_on[name], inputs, partial, progress
        )
    return options


def _codebook(
    codebook: ConfigDict,
    name: str,
    inputs: ExperimentInputs,
    partial: bool,
    progress: bool,
) -> pathlib.Path:
    """The codebook learned on a dataset or folder, fitted if it does not exist."""
    if codebook.path:
        return pathlib.Path(codebook.path.replace("{}", name))
    features, out = inputs.out / name / "store", inputs.out / "codebooks" / name
    photos = _training_photos(name, inputs.data, partial)
    # With the boxes of a dataset, or this store and that of `evaluate`, which is the
    # same, would be extracted again in turn; visual words are learned on whole photos.
    feature_store.extract_to_store(
        photos,
        features,
        inputs.model,
        inputs.settings,
        boxes=inputs.boxes.get(name),
        progress=progress,
    )
    fit_codebook.fit_codebook(
        features,
        out,
        words=codebook.words,
        iterations=codebook.iterations,
        seed=codebook.seed,
        progress=progress,
    )
    return out


def _write(folder: pathlib.Path, result: Evaluation, progress: bool) -> None:
    """Prints the table of a dataset; writes results.json, metrics.txt, report.html."""
    print_results(*report.table(result), "")
    files.write_json(folder / "results.json", report.to_json(result))
    report.write_metrics(folder / "metrics.txt", result)
    page.write_report(folder / "report.html", result, progress=progress)
