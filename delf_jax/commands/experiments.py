"""Commands of experiments in retrieval: evaluate, reproduce, rerank.

Everything slow is imported inside, by the command that needs it.
"""

import argparse
import pathlib
import sys
from typing import Any

from delf_jax.commands import shared
from delf_jax.files import InputError


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s DATASET (--index DIR | --ranking FILE) ..."
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="ground truth (.mat, .pkl, .json, folder of .txt), or folder of folders",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="its photos (default: jpg or images beside it)"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--index", metavar="DIR", help="folder to keep features in")
    source.add_argument("--ranking", metavar="FILE", help="rankings made elsewhere")
    ways = "global,verification"
    parser.add_argument(
        "--rerank",
        default=ways,
        metavar="WAYS",
        help=f"ways to rank ({ways}), such as superglobal, asmk+verification",
    )
    _add_verification(parser)
    shared.add_codebook(parser)
    parser.add_argument(
        "--boxes", metavar="FILE", help="boxes of index photos, as of extract: R-ASMK*"
    )
    _add_conditions(parser)
    parser.add_argument("--json", metavar="FILE", help="all results as JSON")
    parser.add_argument("--metrics", metavar="FILE", help="metrics.txt of the original")
    parser.add_argument("--html", metavar="FILE", help="results, and failures, as page")
    shared.add_config(parser)
    shared.add_model(parser)


def run_evaluate(options: argparse.Namespace) -> int:
    from delf_jax import (
        datasets,
        evaluation,
        evaluation_page,
        evaluation_report,
        files,
        rankings,
        region_boxes,
        unseen,
        ways,
    )

    dataset = datasets.read_dataset(options.dataset, options.images)
    if options.exclude_queries:
        (dataset,) = unseen.leave_out([dataset], options.exclude_queries)
    if options.ranking:
        if options.distractors:
            raise InputError("--distractors goes with --index, not with --ranking")
        if options.boxes:
            raise InputError("--boxes goes with --index, not with --ranking")
        ranking = rankings.read_rankings(options.ranking, dataset)
        found = evaluation.score(
            dataset,
            {
                pathlib.Path(options.ranking).stem: dict.fromkeys(
                    dataset.protocols, ranking
                )
            },
            depends={"file": files.sha256_of(options.ranking)},
        )
    else:
        chosen = ways.parse_ways(options.rerank)
        boxes = region_boxes.open_boxes(options.boxes) if options.boxes else None
        model, settings = shared.model_and_settings(options)
        found = evaluation.evaluate(
            *(dataset, options.index, model, settings, chosen),
            distractors=_distractors(options, model, settings, boxes),
            verification=options.verification,
            partial=options.partial,
            codebook=options.codebook,
            boxes=boxes,
        )
    print(*evaluation_report.table(found), sep="\n")
    if options.json:
        files.write_json(options.json, evaluation_report.describe(found))
        print(f"JSON: {options.json}")
    if options.metrics:
        evaluation_report.write_metrics(options.metrics, found)
        print(f"metrics: {options.metrics}")
    if options.html:
        evaluation_page.write_report(options.html, found)
        print(f"page: {options.html}")
    return 0


def _add_conditions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--partial", action="store_true", help="score although photos are missing"
    )
    parser.add_argument(
        "--distractors",
        metavar="DIR",
        help="photos, or a feature store, wrong for all queries",
    )
    parser.add_argument(
        "--exclude_queries",
        metavar="FILE",
        help="queries or landmarks seen in training: also without",
    )


def _distractors(
    options: argparse.Namespace, model: Any, settings: Any, boxes: Any
) -> Any:
    """Those that are asked for, with features of photos kept in the index."""
    from delf_jax import distractors

    if not options.distractors:
        return None
    out = pathlib.Path(options.index) / "distractors"
    return distractors.open_distractors(
        *(options.distractors, out, model, settings),
        boxes=boxes,
        partial=options.partial,
    )


def add_reproduce_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="an experiment of configs/; --config.FIELD=VALUE replaces one",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="gnd_roxford5k.pkl and jpg/, or a folder of each dataset with these",
    )
    shared.add_out(parser, "features and results (runs/reproduce/NAME)")
    _add_conditions(parser)
    shared.add_model(parser)


def run_reproduce(options: argparse.Namespace) -> int:
    shared.prepare_jax()
    from delf_jax import (
        experiment_config,
        extraction_config,
        reproduction,
        settings,
        weights,
    )

    config = experiment_config.read_experiment_config(options.config, options.rest)
    name = pathlib.Path(options.config).stem
    folder = options.model or extraction_config.model_folder(
        config, config.experiment.weights
    )
    model = weights.load_model(folder)
    chosen = extraction_config.chosen_settings(config)
    sources = reproduction.Sources(
        pathlib.Path(options.data),
        pathlib.Path(options.out or pathlib.Path("runs", "reproduce", name)),
        model,
        settings.settings_for(model, **chosen),
    )
    reproduction.reproduce(
        config.experiment,
        sources,
        partial=options.partial,
        others=options.distractors,
        seen=options.exclude_queries,
    )
    return 0


def add_rerank_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s CANDIDATES --index DIR --out FILE [options]"
    parser.add_argument(
        "candidates",
        metavar="CANDIDATES",
        help="JSON {query: [photo, ...]}, or CSV id,images",
    )
    parser.add_argument(
        "--index", required=True, metavar="DIR", help="index or feature store"
    )
    parser.add_argument(
        "--queries",
        nargs="+",
        metavar="PATH",
        help="photos, or index or store (default: --index)",
    )
    parser.add_argument(
        "--with",
        dest="way",
        default="verification",
        metavar="WAY",
        help="verification (default), superglobal, ... joined by +",
    )
    parser.add_argument(
        "--first",
        type=int,
        metavar="N",
        help="rerank the first N of each list only (all)",
    )
    _add_verification(parser)
    shared.add_out(parser, "rankings to write, as JSON", required=True)
    shared.add_config(parser)
    shared.add_model(parser)


def run_rerank(options: argparse.Namespace) -> int:
    from delf_jax import candidates, files, pairs

    if options.first is not None and options.first < 1:
        raise InputError(f"--first={options.first}: use a positive number")
    lists = candidates.read_candidates(options.candidates)
    way = candidates.parse_way(options.way)
    how = pairs.verification_settings(options.verification)
    images = candidates.open_features(options.index)
    queries = _candidate_queries(options, lists, images)
    found = candidates.rerank(lists, images, queries, way, how, first=options.first)
    for reason in found.failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    files.write_json(options.out, found.rankings)
    count = f"{len(lists) - len(found.failed)} queries reranked"
    failed = f", {len(found.failed)} failed" if found.failed else ""
    print(f"{options.out}: {count}{failed}")
    return shared.FAILED if lists and len(found.failed) == len(lists) else 0


def _candidate_queries(options: argparse.Namespace, lists: Any, images: Any) -> Any:
    """The features of each query, from where they are or from photos."""
    from delf_jax import candidates

    given = [pathlib.Path(path) for path in options.queries or [options.index]]
    folders = (given[0], given[0] / "store")
    if len(given) == 1 and any((f / "manifest.json").is_file() for f in folders):
        stored = candidates.open_features(given[0])
        candidates.check_same_model(images, stored)
        return candidates.stored_queries(lists, stored)
    model, settings = shared.model_and_settings(options)
    return candidates.extracted_queries(lists, given, images, model, settings)


def _add_verification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verification",
        default="default",
        metavar="NAME",
        help="settings of verification: default, delg, d2r",
    )
