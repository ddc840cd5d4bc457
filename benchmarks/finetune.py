"""What fine-tuning on five landmarks gains, on new photos of them and on five others.

    python benchmarks/finetune.py [--model=DIR] [--workdir=DIR] [--config.FIELD=VALUE]

Ten of the large groups of ../shared/photos_more, none of which validates the bundled
model: the ten largest without those that stand beside each other, taken by turns in the
order of their names. Of the five learned ones every fourth photo is kept out of the
training; of the five others all are. Searched for is each of the first, and every third
of the others, among all photos of the ten, by global descriptors alone. Gains are
paired, with 95 % intervals over queries; macro: over landmarks.

The bundled model has seen all these photos without their labels, so before and after
are alike in that. One CPU core, 8 minutes; less with --scales=1, which measures by the
smallest of the three scales.
"""

import argparse
import csv
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np

from delf_jax import runtime
from delf_jax.evaluation import datasets, evaluation
from delf_jax.evaluation.tables import align
from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.search.pipeline import run_steps
from delf_jax.training import train
from delf_jax.training.config import read_training_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEARNED = (
    "ajanta_caves",
    "ellora_caves",
    "golden_temple_amritsar",
    "india_gate",
    "mysore_palace",
)
OTHERS = (
    "alhambra",
    "forbidden_city",
    "hue_imperial_city",
    "konark_sun_temple",
    "taj_mahal",
)
NEW_EVERY, OTHERS_EVERY = 4, 3


def read_photos(more: pathlib.Path) -> list[tuple[str, str]]:
    """(image, landmark) of the ten groups, by name."""
    with open(more / "labels.csv", newline="") as file:
        rows = [(row["image"], row["landmark"]) for row in csv.DictReader(file)]
    return sorted(row for row in rows if row[1] in LEARNED + OTHERS)


def choose(photos: list[tuple[str, str]], name: str, every: int) -> list[int]:
    """Places of every so many photos of a group."""
    return [i for i, (_, label) in enumerate(photos) if label == name][::every]


def make_dataset(
    name: str, more: pathlib.Path, photos: list[tuple[str, str]], queries: list[int]
) -> datasets.Dataset:
    """Each query is searched for among all other photos."""
    files = [
        datasets.Photo(image, image, more / "images" / image) for image, _ in photos
    ]
    whole = datasets.leave_one_out(name, files, [label for _, label in photos])
    positives, junk = whole.protocols["all"]
    chosen = datasets.Protocol(
        [positives[i] for i in queries], [junk[i] for i in queries]
    )
    assert whole.landmarks is not None
    return whole._replace(
        queries=[files[i] for i in queries],
        protocols={"all": chosen},
        landmarks=[whole.landmarks[i] for i in queries],
    )


def finetune(
    more: pathlib.Path,
    photos: list[tuple[str, str]],
    new: list[int],
    workdir: pathlib.Path,
    overrides: list[str],
) -> model_folder.Model:
    """The model after a training on the learned groups, but for the new photos."""
    workdir.mkdir(parents=True, exist_ok=True)
    table = workdir / "labels.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "label"))
        writer.writerows(
            row for i, row in enumerate(photos) if row[1] in LEARNED and i not in new
        )
    fields = {
        "data.sources.mine.path": table,
        "data.sources.mine.images": more / "images",
        "data.directory": workdir / "data",
    }
    with_source = [f"--config.{name}={value}" for name, value in fields.items()]
    path = ROOT / "configs" / "finetune_bundled.py"
    config = read_training_config(path, [*with_source, *overrides], workdir)
    train.train(config, str(workdir))
    return model_folder.load_model(workdir / "model")


def rank(
    dataset: datasets.Dataset,
    model: model_folder.Model,
    kept: pathlib.Path,
    scales: int | None,
) -> np.ndarray:
    """[Q, M] places, best first, by global descriptors of so many scales."""
    used = settings_for(model).global_scales[:scales]
    settings = settings_for(model, max_features=0, global_scales=used)
    found = evaluation.evaluate(dataset, kept, model, settings, [("global",)])
    assert found.inputs is not None
    (best,) = run_steps(found.inputs, [("global",)])
    return best.ids


def print_gains(dataset: datasets.Dataset, rankings: dict[str, np.ndarray]) -> None:
    """mAP and macro-mAP of each ranking, with the gain on the first."""
    lists = {name: {"all": ids} for name, ids in rankings.items()}
    cells = [["", "mAP", "gain, 95 %", "macro-mAP", "gain, 95 %"]]
    for row in evaluation.score(dataset, lists).rows:
        assert row.macro is not None
        cells.append([row.ranking, *_cells(row.mean), *_cells(row.macro)])
    print(
        f"{dataset.name}: {len(dataset.queries)} queries, {len(dataset.index)} photos"
    )
    print(*(f"  {line}" for line in align(cells)), sep="\n", flush=True)


def _cells(estimate: Any) -> list[str]:
    gain = estimate.gain
    ends = "" if gain is None else f"{gain.low:+.3f} .. {gain.high:+.3f}"
    return [f"{estimate.value:.3f}", ends]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    more = ROOT.parent / "shared" / "photos_more"
    parser.add_argument("--more", default=more, type=pathlib.Path)
    parser.add_argument("--model", default="bundled", help="to start from")
    parser.add_argument("--scales", type=int, help="of the measured; default: all")
    parser.add_argument("--workdir", type=pathlib.Path, help="of the training, kept")
    options, overrides = parser.parse_known_args()
    if not (options.more / "labels.csv").is_file():
        print(f"{options.more}: no such photos; name them with --more")
        sys.exit()  # `make bench` goes on.
    runtime.enable_compilation_cache()
    with tempfile.TemporaryDirectory() as scratch:
        run(options, overrides, pathlib.Path(scratch))


def run(
    options: argparse.Namespace, overrides: list[str], scratch: pathlib.Path
) -> None:
    """All of it; features in folders of `scratch`."""
    photos = read_photos(options.more)
    new = [i for name in LEARNED for i in choose(photos, name, NEW_EVERY)]
    others = [i for name in OTHERS for i in choose(photos, name, OTHERS_EVERY)]
    sets = [
        make_dataset("new photos of the five", options.more, photos, new),
        make_dataset("five others", options.more, photos, others),
    ]
    workdir = options.workdir or scratch / "run"
    overrides = [f"--config.init_from={options.model}", *overrides]
    after = finetune(options.more, photos, new, workdir, overrides)
    start = None if options.model == "bundled" else options.model
    models = {"before": model_folder.load_model(start), "after": after}
    found: dict[str, dict[str, np.ndarray]] = {dataset.name: {} for dataset in sets}
    for name, model in models.items():
        for dataset in sets:
            found[dataset.name][name] = rank(
                dataset, model, scratch / name, options.scales
            )
    for dataset in sets:
        print_gains(dataset, found[dataset.name])


if __name__ == "__main__":
    main()
