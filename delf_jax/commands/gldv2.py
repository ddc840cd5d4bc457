"""Commands of Google Landmarks v2: gldv2 retrieve, recognize, score."""

import argparse
from typing import Any

from delf_jax.commands.options import Parser, model_and_settings, write_result
from delf_jax.files import InputError, is_stdout
from delf_jax.progress import print_results


def add_gldv2_options(parser: Parser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    retrieve = kinds.add_parser(
        "retrieve", help="index images that show what each test image shows"
    )
    recognize = kinds.add_parser(
        "recognize", help="the landmark of each test image, by its nearest in train"
    )
    score = kinds.add_parser("score", help="score predictions by a solution")
    for kind, others in ((retrieve, "index"), (recognize, "train")):
        data = f"folder of test.csv, {others}.csv, test/, {others}/ as released"
        kind.add_value("data", "DATA", data)
        kind.add_value("--features", "DIR", "folder of features", required=True)
        kind.add_file("--out", "CSV of the challenge to write", "OUT", required=True)
        for name in ("test", others):
            kind.add_value(f"--{name}_list", "FILE", f"CSV of {name} images to use")
        kind.add_value("--solution", "FILE", "score by this solution")
        kind.add_flag("--partial", "predict even if images are missing")
        _add_exclude(kind)
    pipelines = "such as verification or alpha_qe+verification (global)"
    retrieve.add_value("--rerank", "PIPELINE", pipelines, default="global")
    recognize.add_number("--verify", "nearest to verify (0)", default=0)
    recognize.add_number("--voters", "nearest that vote (3)", default=3)
    recognize.add_value(
        "--non_landmarks", "DIR", "photos of none, to demote similar ones"
    )
    for kind in (retrieve, recognize):
        kind.add_settings()
    score.add_argument("task", choices=("retrieval", "recognition"))
    score.add_value("predictions", "CSV", "others compare with the first", nargs="+")
    score.add_value("--solution", "FILE", "the ground truth", required=True)
    score.add_value("--known", "FILE", "index or train table that ids must be in")
    _add_exclude(score)
    score.set_defaults(files=("json",))
    forms = score.add_mutually_exclusive_group()
    forms.add_argument(
        "--json", metavar="FILE", help="results as JSON (-: standard output)"
    )
    forms.add_argument(
        "--original", action="store_true", help="print what the original prints, only"
    )


def _add_exclude(parser: Parser) -> None:
    ids = "ids of landmarks to leave out, one a line; also scored without them"
    parser.add_value("--exclude", "FILE", ids)


def run_gldv2(options: argparse.Namespace) -> int:
    if options.kind == "score":
        return _score(options)
    for name in ("voters", "verify"):
        if getattr(options, name, 1) < (name == "voters"):
            raise InputError(f"--{name}={getattr(options, name)}: use a larger number")
    if options.solution and is_stdout(options.out):
        raise InputError("--solution: scores a file; name one with --out")
    model, settings = model_and_settings(options)
    from delf_jax.gldv2 import predict, recognition_task, retrieval_task
    from delf_jax.search.pipeline import parse_pipeline

    inputs = predict.PredictionInputs(
        options.data,
        options.features,
        model,
        settings,
        options.test_list,
        other_list=getattr(options, "index_list", getattr(options, "train_list", None)),
        exclude=_excluded(options),
        solution=options.solution,
        partial=options.partial,
    )
    if options.kind == "retrieve":
        allowed = retrieval_task.ALLOWED
        pipeline = parse_pipeline(options.rerank, "--rerank", allowed)
        lines = predict.retrieve(inputs, options.out, pipeline)
    else:
        voting = recognition_task.Options(options.voters, options.verify)
        lines = predict.recognise(inputs, options.out, voting, options.non_landmarks)
    print_results(*lines)
    if options.solution:
        task = "retrieval" if options.kind == "retrieve" else "recognition"
        known = _index_landmarks(options) if options.kind == "retrieve" else None
        _print_scores(options, task, [options.out], known)
    return 0


def _index_landmarks(options: argparse.Namespace) -> Any:
    """The landmark of each index image, which --exclude needs."""
    from delf_jax.gldv2 import collection, scores

    if not options.exclude:
        return None
    listed = options.index_list
    table = collection.find_table(options.data, "index", listed, labelled=True)
    return scores.read_known(table)


def _score(options: argparse.Namespace) -> int:
    from delf_jax.gldv2 import report, scores

    if options.original:
        for path in options.predictions:
            found = scores.score(
                options.task, options.solution, [path], intervals=False
            )
            print_results(*report.original_lines(found))
        return 0
    known = scores.read_known(options.known) if options.known else None
    found = _print_scores(options, options.task, options.predictions, known)
    write_result(options, report.to_json(found))
    return 0


def _print_scores(
    options: argparse.Namespace, task: str, predictions: list[str], known: Any
) -> Any:
    from delf_jax.gldv2 import report, scores

    found = scores.score(
        task, options.solution, predictions, exclude=_excluded(options), known=known
    )
    print_results(*report.table(found))
    return found


def _excluded(options: argparse.Namespace) -> frozenset[int]:
    if not options.exclude:
        return frozenset()
    from delf_jax.formats import tables

    return tables.read_landmark_ids(options.exclude)
