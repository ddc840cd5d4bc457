"""Commands of experiments in retrieval: evaluate, reproduce."""

import argparse
import pathlib
from typing import Any

from delf_jax.commands.detection import finder
from delf_jax.commands.options import (
    Parser,
    model_and_settings,
    prepare_jax,
    print_written,
    write_result,
)
from delf_jax.files import InputError
from delf_jax.progress import print_results


def add_evaluate_options(parser: Parser) -> None:
    parser.usage = "%(prog)s DATASET (--index DIR | --ranking FILE) ..."
    truth = "ground truth: .mat .pkl .json, folder of .txt, folders"
    parser.add_value("dataset", "DATASET", truth)
    parser.add_value("--images", "DIR", "its photos (default: jpg or images beside it)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--index", metavar="DIR", help="folder to keep features in")
    ranking = "made elsewhere; or INDEX,QUERIES of `aggregate --to`"
    source.add_argument("--ranking", metavar="FILE", help=ranking)
    default = "global,verification"
    pipelines = f"such as asmk+verification ({default})"
    parser.add_value("--rerank", "PIPELINES", pipelines, default=default)
    parser.add_verification()
    parser.add_codebook()
    parser.add_reranker()
    parser.add_value("--boxes", "FILE", "boxes of index photos, as of extract: R-ASMK*")
    _add_conditions(parser)
    parser.add_json()
    parser.add_file("--metrics", "metrics.txt of the original")
    parser.add_file("--html", "results and failures as a page")
    parser.add_settings()


def run_evaluate(options: argparse.Namespace) -> int:
    from delf_jax.evaluation import datasets, evaluation, overlap, page, report
    from delf_jax.extraction.boxes import open_boxes
    from delf_jax.search import matching, pipeline

    dataset = datasets.read_dataset(options.dataset, options.images)
    if options.exclude_queries:
        (dataset,) = overlap.leave_out([dataset], options.exclude_queries)
    if not options.index:
        name, ranking, depends = _ranked(options, dataset)
        rankings = {name: dict.fromkeys(dataset.protocols, ranking)}
        result = evaluation.score(dataset, rankings, depends=depends)
    else:
        pipelines = pipeline.parse_pipelines(options.rerank)
        boxes = open_boxes(options.boxes) if options.boxes else None
        model, settings = model_and_settings(options, options.index)
        result = evaluation.evaluate(
            dataset,
            options.index,
            model,
            settings,
            pipelines,
            distractors=_distractors(options, model, settings, boxes),
            verification=matching.verification_settings(options.verification, model),
            partial=options.partial,
            codebook=options.codebook,
            reranker=options.reranker,
            boxes=boxes,
        )
    print_results(*report.table(result))
    write_result(options, report.to_json(result))
    if options.metrics:
        report.write_metrics(options.metrics, result)
        print_written("metrics", options.metrics)
    if options.html:
        page.write_report(options.html, result)
        print_written("page", options.html)
    return 0


def _ranked(options: argparse.Namespace, dataset: Any) -> tuple[str, Any, dict]:
    """(name, ranking, what it depends on) of --ranking."""
    from delf_jax import files
    from delf_jax.evaluation.ranking import rank_aggregated, read_rankings
    from delf_jax.extraction.delf_config import read_aggregation_config

    for name in ("distractors", "boxes"):
        if getattr(options, name):
            raise InputError(f"--{name} goes with --index, not with --ranking")
    index, comma, queries = options.ranking.partition(",")
    if pathlib.Path(options.ranking).is_dir():
        raise InputError(
            f"--ranking={options.ranking}: a folder; aggregated images come as two: "
            "--ranking=INDEX,QUERIES"
        )
    if not comma or pathlib.Path(options.ranking).exists():
        ranking = read_rankings(options.ranking, dataset)
        depends = {"file": files.sha256_of(options.ranking)}
        return pathlib.Path(options.ranking).stem, ranking, depends
    config = read_aggregation_config(options.config) if options.config else None
    name, ranking, compared = rank_aggregated(dataset, index, queries, config=config)
    return name, ranking, {"aggregated": compared}


def add_calibrate_options(parser: Parser) -> None:
    truth = "ground truth: .mat .pkl .json, folder of .txt, folders"
    parser.add_value("dataset", "DATASET", truth)
    parser.add_value("--images", "DIR", "its photos (default: jpg or images beside it)")
    where = "folder to keep features in"
    parser.add_value("--index", "DIR", where, required=True)
    only = "names of the landmarks whose queries count (default: all)"
    parser.add_value("--landmarks", "A,B,...", only)
    parser.add_settings()


def run_calibrate(options: argparse.Namespace) -> int:
    from delf_jax.evaluation import calibration, datasets, evaluation
    from delf_jax.search import matching
    from delf_jax.search.calibration import to_json, write_calibration

    if not options.model:
        raise InputError("--model: name the folder of the model, to be written to")
    dataset = datasets.read_dataset(options.dataset, options.images)
    if options.landmarks:
        dataset = datasets.of_landmarks(dataset, options.landmarks.split(","))
    model, settings = model_and_settings(options, options.index)
    how = matching.verification_settings(model=model)._replace(calibration=None)
    result = evaluation.evaluate(
        dataset, options.index, model, settings, [("global",)], verification=how
    )
    pairs, landmarks = calibration.verify_evaluated(result)
    found = calibration.fit(pairs, landmarks)._replace(threshold=how.threshold)
    fitted_to = f"{dataset.name} {dataset.version[:10]}"
    if options.landmarks:
        fitted_to += f": {options.landmarks}"
    write_calibration(options.model, fitted_to, inliers=to_json(found))
    if folder := (model.global_model or model).folder:  # Not the bundled one.
        write_calibration(folder, fitted_to, similarity=round(found.similarity, 3))
    print_results(*calibration.describe(pairs, found))
    print_written("calibration", options.model)
    return 0


def _add_conditions(parser: Parser) -> None:
    parser.add_flag("--partial", "score even if photos are missing")
    parser.add_value(
        "--distractors", "DIR", "photos, or a feature store, wrong for all queries"
    )
    parser.add_value(
        "--exclude_queries", "CSV", "queries seen in training: score without them, too"
    )


def _distractors(
    options: argparse.Namespace, model: Any, settings: Any, boxes: Any
) -> Any:
    """Those of --distractors, whose features are kept in the index."""
    from delf_jax.evaluation import distractors

    if not options.distractors:
        return None
    out = pathlib.Path(options.index) / "distractors"
    return distractors.open_distractors(
        options.distractors, out, model, settings, boxes=boxes, partial=options.partial
    )


def add_reproduce_options(parser: Parser) -> None:
    config = "an experiment of configs/; --config.FIELD=VALUE replaces one"
    parser.add_value("--config", "FILE", config, required=True)
    data = "gnd_roxford5k.pkl and jpg/, or a folder of each dataset with these"
    parser.add_value("--data", "DIR", data, required=True)
    parser.add_out("features and results (runs/reproduce/NAME)")
    _add_conditions(parser)
    parser.add_model()


def _finder_of(detector: str) -> Any:
    """What finds boxes for an experiment; None: it names no detector."""
    if not detector:
        return None
    return lambda photos, folder: finder(detector, str(folder))(photos)


def run_reproduce(options: argparse.Namespace) -> int:
    prepare_jax()
    from delf_jax.data.released_catalogue import command_for
    from delf_jax.evaluation import experiment, reproduce
    from delf_jax.extraction.config import open_model

    config = experiment.read_experiment_config(options.config, options.rest)
    name = pathlib.Path(options.config).stem
    command = command_for(config.model)
    if not command and config.experiment.weights:
        command = f"convert {config.experiment.weights} --out={config.model}"
    model, settings = open_model(config, options.model, command)
    inputs = reproduce.ExperimentInputs(
        pathlib.Path(options.data),
        pathlib.Path(options.out or pathlib.Path("runs", "reproduce", name)),
        model,
        settings,
        _finder_of(config.experiment.detector),
    )
    reproduce.reproduce(
        config.experiment,
        inputs,
        partial=options.partial,
        others=options.distractors,
        seen=options.exclude_queries,
    )
    return 0
