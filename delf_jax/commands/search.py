"""Commands on photos: match, extract, index, search, demo.

Everything slow is imported inside, by the command that needs it.
"""

import argparse
import pathlib
import sys
from typing import Any

from delf_jax.commands.evaluation import add_verification
from delf_jax.commands.options import (
    FAILED,
    add_choice,
    add_codebook,
    add_config,
    add_index,
    add_model,
    add_out,
    add_paths,
    model_and_settings,
)
from delf_jax.files import InputError


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
    add_verification(parser)
    add_out(parser, "rankings to write, as JSON", required=True)
    add_config(parser)
    add_model(parser)


def run_rerank(options: argparse.Namespace) -> int:
    from delf_jax import files
    from delf_jax.search import matching, rerank

    if options.first is not None and options.first < 1:
        raise InputError(f"--first={options.first}: use a positive number")
    lists = rerank.read_candidates(options.candidates)
    way = rerank.parse_pipeline(options.way)
    how = matching.verification_settings(options.verification)
    images = rerank.open_features(options.index)
    queries = _candidate_queries(options, lists, images)
    found = rerank.rerank(lists, images, queries, way, how, first=options.first)
    for reason in found.failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    files.write_json(options.out, found.rankings)
    count = f"{len(lists) - len(found.failed)} queries reranked"
    failed = f", {len(found.failed)} failed" if found.failed else ""
    print(f"{options.out}: {count}{failed}")
    return FAILED if lists and len(found.failed) == len(lists) else 0


def _candidate_queries(options: argparse.Namespace, lists: Any, images: Any) -> Any:
    """The features of each query, from where they are or from photos."""
    from delf_jax.search import rerank

    given = [pathlib.Path(path) for path in options.queries or [options.index]]
    folders = (given[0], given[0] / "store")
    if len(given) == 1 and any((f / "manifest.json").is_file() for f in folders):
        stored = rerank.open_features(given[0])
        rerank.check_same_model(images, stored)
        return rerank.stored_queries(lists, stored)
    model, settings = model_and_settings(options)
    return rerank.extracted_queries(lists, given, images, model, settings)


def add_match_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs=2, metavar="IMAGE", help="the two photos")
    add_out(parser, "figure to write (png, pdf, svg)", default="matches.png")
    parser.add_argument(
        "--json", metavar="FILE", help="matches, and map of photo 2 to photo 1, as JSON"
    )
    add_config(parser)
    add_model(parser)


def run_match(options: argparse.Namespace) -> int:
    from delf_jax import files
    from delf_jax.images import read_image
    from delf_jax.report import figures

    figures.figure_format(options.out)  # before any work
    photos = [read_image(path) for path in options.images]
    model, settings = model_and_settings(options)
    from delf_jax.search import matching

    found = matching.compare_photos(*options.images, model, settings)
    text = f"{found.inliers} inliers of {len(found.pair.matches)} matches"
    if found.similarity is not None:
        text += f", similarity {found.similarity:.3f}"
    print(text, flush=True)
    local = [features.local for features in found.features]
    figures.draw_matches(*photos, *local, found.pair, text, options.out)
    print(f"figure: {options.out}")
    if options.json:
        files.write_json(options.json, matching.to_json(found, options.images))
        print(f"JSON: {options.json}")
    return 0


def add_search_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s QUERY ... --index DIR [option ...]"
    add_paths(parser, "query photos, or folders of them", metavar="QUERY")
    add_index(parser)
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="results shown (10); 0: all"
    )
    parser.add_argument(
        "--no_rerank", action="store_true", help="rank by global similarity alone"
    )
    add_codebook(parser)
    add_choice(
        parser,
        "precision",
        ("float32", "bfloat16", "int8"),
        "to find candidates by: ",
        default="float32",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="with other processes (Slurm, MPI, TPU)",
    )
    parser.add_argument("--json", metavar="FILE", help="results as JSON")
    parser.add_argument("--html", metavar="FILE", help="results as a page")
    add_config(parser)
    add_model(parser)


def run_search(options: argparse.Namespace) -> int:
    from delf_jax import files, runtime
    from delf_jax.index import global_index, photo_index
    from delf_jax.search import page, query

    if options.top < 0:
        raise InputError(f"--top={options.top}: use a positive number, or 0 for all")
    speaks = runtime.join_processes("--distributed") if options.distributed else True
    queries = _query_paths(options.paths)
    index = photo_index.open_index(options.index)
    model, settings = model_and_settings(options)
    descriptors, said = None, ""
    if options.precision != "float32":
        if options.codebook:
            raise InputError("--precision is of global descriptors, not of --codebook")
        descriptors, recall = global_index.open_descriptors(
            index.store, options.precision
        )
        said = global_index.format_summary(descriptors, recall)
    found = query.search(
        *(index, queries, model, settings),
        top=options.top,
        rerank=not options.no_rerank,
        codebook=options.codebook,
        descriptors=descriptors,
    )
    if not speaks:  # The first process does for all: they find the same.
        return 0 if list(found) else FAILED
    if said:
        print(said, flush=True)
    answers, failed = [], []
    for answer in found:
        if isinstance(answer, InputError):
            failed.append(answer)
            continue
        answers.append(answer)
        _print_answer(answer)
    if not answers and len(failed) == 1:
        raise failed[0]
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    if not answers:
        raise InputError(f"none of the {len(failed)} query photos could be used")
    if failed:
        print(f"{len(answers)} photos searched for, {len(failed)} failed")
    if options.json:
        files.write_json(options.json, query.to_json(answers))
        print(f"JSON: {options.json}")
    if options.html:
        page.write_page(options.html, answers, index.file, str(index))
        print(f"page: {options.html}")
    return 0


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    add_out(parser, "folder to write to (demo)", default="demo")
    add_model(parser)


def run_demo(options: argparse.Namespace) -> int:
    model, _ = model_and_settings(options)
    from delf_jax import demo

    demo.run(options.out, model)
    return 0


def _query_paths(paths: list[str]) -> list[pathlib.Path]:
    """Photos in the order given; those of a folder by name."""
    from delf_jax.images import find_images

    found = []
    for path in map(pathlib.Path, paths):
        inside = find_images([path]) if path.is_dir() else [("", path)]
        found += [path / image for image, _ in inside]
    return found


def _print_answer(answer: Any) -> None:
    """One query as a table."""
    print(f"\n{answer.image}")
    print(f"{'':>6}  {'inliers':>7}  {'similarity':>10}  image")
    for rank, result in enumerate(answer.results, 1):
        inliers = "-" if result.inliers is None else result.inliers
        print(f"{rank:>6}  {inliers:>7}  {result.similarity:>10.3f}  {result.image}")
