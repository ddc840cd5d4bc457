"""Commands of experiments in retrieval: evaluate, reproduce, rerank, fit.

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
        ranking = evaluation.read_rankings(options.ranking, dataset)
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


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    codebook = kinds.add_parser("codebook", help="visual words, by k-means")
    pca = kinds.add_parser("pca", help="a projection of descriptors")
    learned = kinds.add_parser(
        "whitening", help="a projection of global descriptors, from matching pairs"
    )
    for kind in (codebook, pca, learned):
        kind.add_argument("store", metavar="STORE", help="folder of a feature store")
        shared.add_out(kind, "folder to write to", required=True)
    for name, default, meaning in (
        ("words", None, "visual words (1024, or as --config says)"),
        ("iterations", 20, "passes over the store, or over as many batches (20)"),
        ("batch", None, "draw so many at a time; without it all descriptors are taken"),
        ("seed", 0, "of all that is drawn (0)"),
    ):
        codebook.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=meaning
        )
    codebook.add_argument(
        "--start",
        choices=("sample", "kmeans++"),
        default="sample",
        help="descriptors to start from: any (sample), or some far apart",
    )
    codebook.add_argument(
        "--config", metavar="FILE", help="a .pbtxt of DELF that says codebook_size"
    )
    pca.add_argument(
        "--dimension", type=int, required=True, metavar="N", help="components kept"
    )
    shared.add_choice(pca, "of", ("local", "global"), "descriptors: ", default="local")
    learned.add_argument(
        "--pairs",
        metavar="FILE",
        help="images that match: a CSV of query,positive, or a .pkl of SfM-120k "
        "(default: those of one folder match)",
    )
    learned.add_argument(
        "--dimension", type=int, metavar="N", help="components kept (all)"
    )
    pca.add_argument(
        "--whiten", action="store_true", help="components get unit variance"
    )


def run_fit(options: argparse.Namespace) -> int:
    shared.prepare_jax()
    if options.kind != "codebook":
        return _fit_projection(options)
    from delf_jax import fitting

    given = {"store": options.store, "out": options.out}
    codebook = fitting.fit_codebook(
        **given,
        words=_words(options),
        iterations=options.iterations,
        batch=options.batch,
        seed=options.seed,
        start=options.start,
    )
    info = codebook.info
    print(
        f"{options.out}: {info['words']} words of {info['dimension']} dimensions, from "
        f"{info['descriptors']} descriptors of {info['images']} images in "
        f"{info['iterations']} iterations"
    )
    return 0


def _fit_projection(options: argparse.Namespace) -> int:
    from delf_jax import image_pairs, projections

    if options.kind == "pca":
        chosen = projections.fit_pca(
            *(options.store, options.out),
            dimension=options.dimension,
            of=options.of,
            whiten=options.whiten,
        )
    else:
        pairs = image_pairs.read_pairs(options.pairs) if options.pairs else None
        chosen = projections.fit_whitening(
            options.store, pairs, options.out, dimension=options.dimension
        )
    print(projections.describe(options.out))
    print("to extract with them:")
    print(*(f"  --config.{name}={value}" for name, value in chosen.items()), sep="\n")
    return 0


def _words(options: argparse.Namespace) -> int:
    """How many visual words are asked for, by an option or a config of the original."""
    if options.rest:
        raise InputError(f"{options.rest[0]}: fit takes no fields; use --words")
    if not options.config:
        return 1024 if options.words is None else options.words
    from delf_jax import descriptors, original_config

    config = original_config.read_aggregation_config(options.config)
    found = descriptors.open_descriptors(options.store).dimension
    if config.dimension != found:
        raise InputError(
            f"{options.config}: feature_dimensionality is {config.dimension}; the "
            f"descriptors of {options.store} have {found}"
        )
    return config.codebook_size if options.words is None else options.words
