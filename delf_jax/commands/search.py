"""Commands on photos: match, search, rerank, demo."""

import argparse
import os
import pathlib
from typing import Any

from delf_jax.commands.options import (
    FAILED,
    Parser,
    model_and_settings,
    print_shortfall,
    print_written,
    write_result,
)
from delf_jax.files import InputError
from delf_jax.progress import format_count, print_failures, print_results, printable


def add_match_options(parser: Parser) -> None:
    what = "the two photos, or files of features (.delf, .delg_local)"
    parser.add_argument("images", nargs=2, metavar="IMAGE", help=what)
    parser.add_value("--photos", "PHOTO", "of files of features, to draw", nargs=2)
    figure = "figure to write (png, pdf, svg)"
    parser.add_file("--out", figure, "OUT", default="matches.png")
    parser.add_verification()
    parser.add_json("matches, and the map of photo 2 to photo 1, as JSON")
    parser.add_settings()


def run_match(options: argparse.Namespace) -> int:
    from delf_jax.report import figures
    from delf_jax.search import match, matching

    figures.figure_format(options.out)  # before any work
    a, b = map(match.open_source, options.images)
    pictures = _pictures(options.photos or options.images)
    model, settings = model_and_settings(options)
    how = matching.verification_settings(options.verification, model)
    found = matching.compare_photos(a, b, model, settings, how)
    print_results(matching.describe(found))
    figures.write_figure(match.draw_comparison(found, pictures), options.out)
    print_written("figure", options.out)
    write_result(options, matching.to_json(found, options.images))
    return 0


def _pictures(paths: list[str]) -> list[Any]:
    """The photos; None for a file of features."""
    from delf_jax.images import read_image
    from delf_jax.store.delf_files import is_feature_file

    return [None if is_feature_file(path) else read_image(path) for path in paths]


def add_search_options(parser: Parser) -> None:
    parser.usage = "%(prog)s QUERY ... --index DIR [option ...]"
    queries = "query photos, folders of them, or @LIST"
    parser.add_argument("paths", nargs="+", metavar="QUERY", help=queries)
    parser.add_value("--index", "DIR", "folder of the index", required=True)
    parser.add_number("--top", "results listed (10); 0: all", default=10)
    parser.add_flag("--no_rerank", "rank by global similarity alone")
    parser.add_codebook()
    kinds = ("asmk", "float_asmk", "vlad")
    parser.add_choice("--aggregation", kinds, "by visual words: ASMK* (asmk), ")
    kinds = ("float32", "bfloat16", "int8")
    parser.add_choice("--precision", kinds, "search exactly, by descriptors in ")
    parser.add_value(
        "--where", "SQL", "of an index with --vectors: \"folder = 'paris'\""
    )
    parser.add_flag("--distributed", "with other processes (Slurm, MPI, TPU)")
    parser.add_json()
    parser.add_file("--html", "results as a page")
    parser.add_settings()


def run_search(options: argparse.Namespace) -> int:
    from delf_jax import runtime
    from delf_jax.index import global_index, photo_index
    from delf_jax.search import page, query

    if options.top < 0:
        raise InputError(f"--top={options.top}: use a positive number, or 0 for all")
    by_words = options.codebook or options.aggregation
    if options.where and (by_words or options.precision):
        raise InputError(
            "--where: leave it out with --codebook, --aggregation or --precision"
        )
    is_first = runtime.join_processes("--distributed") if options.distributed else True
    queries = _query_paths(options.paths)
    index = photo_index.open_index(options.index)
    model, settings = model_and_settings(options, options.index)
    descriptors, summary = None, ""
    reduced = options.precision not in (None, "float32")
    if reduced and by_words:
        raise InputError("--precision: leave it out with --codebook or --aggregation")
    if options.precision and not by_words:
        descriptors, recall = global_index.open_descriptors(
            index.store, options.precision
        )
        summary = global_index.format_summary(descriptors, recall) if reduced else ""
    found = query.search(
        index,
        queries,
        model,
        settings,
        top=options.top,
        rerank=not options.no_rerank,
        codebook=options.codebook,
        aggregation=options.aggregation,
        descriptors=descriptors,
        where=options.where or "",
    )
    if not is_first:  # All find the same; the first prints it.
        return 0 if list(found) else FAILED
    if summary:
        print(summary, flush=True)
    answers, failed = [], []
    for answer in found:
        if isinstance(answer, InputError):
            failed.append(answer)
        else:
            answers.append(answer)
            _print_answer(answer)
    if not answers and len(failed) == 1:
        raise failed[0]
    print_failures(failed)
    if not answers:
        raise InputError(f"none of the {len(failed)} query photos could be used")
    if failed:
        searched = format_count(len(answers), "photo")
        print(f"{searched} searched for, {len(failed)} failed")
    if index.shortfall:
        print_results(index.shortfall)
    write_result(options, query.to_json(answers, index))
    if options.html:
        shown = (result.image for answer in answers for result in answer.results)
        outsiders = index.outsiders(shown)
        if outsiders:
            print_results(f"{options.html}: shows {outsiders}")
        description = f"{index}, with {outsiders}" if outsiders else str(index)
        page.write_page(options.html, answers, index.file, description)
        print_written("page", options.html)
    return 0


def _query_paths(paths: list[str]) -> list[pathlib.Path]:
    """Photos in the order of the paths; those of a folder or list by name."""
    from delf_jax.image_files import find_images, is_list

    found = []
    for path in paths:
        if os.path.isdir(path):
            found += [pathlib.Path(path, id) for id, _ in find_images([path])]
        elif is_list(path):
            found += [photo for _, photo in find_images([path])]
        else:
            found.append(pathlib.Path(path))
    return found


def _print_answer(answer: Any) -> None:
    """One query as a table."""
    lines = [
        "",
        printable(answer.image),
        *filter(None, [str(answer.verdict)]),
        f"{'':>6}  {'inliers':>7}  {'similarity':>10}  image",
    ]
    for rank, result in enumerate(answer.results, 1):
        inliers = "-" if result.inliers is None else result.inliers
        numbers = f"{rank:>6}  {inliers:>7}  {result.similarity:>10.3f}"
        lines.append(f"{numbers}  {printable(result.image)}")
    print_results(*lines)


def add_rerank_options(parser: Parser) -> None:
    parser.usage = "%(prog)s CANDIDATES --index DIR --out FILE [options]"
    parser.add_value(
        "candidates", "CANDIDATES", "JSON {query: [photo, ...]}, or CSV id,images"
    )
    parser.add_value("--index", "DIR", "index or feature store", required=True)
    parser.add_value(
        "--queries", "PATH", "photos, or index or store (default: --index)", nargs="+"
    )
    steps = "verification (default), superglobal, ... joined by +"
    default = "verification"
    parser.add_value("--with", "PIPELINE", steps, dest="pipeline", default=default)
    parser.add_number("--first", "rerank only the first N of each list (all)")
    parser.add_verification()
    parser.add_reranker()
    parser.add_file("--out", "rankings to write, as JSON", "OUT", required=True)
    parser.add_settings()


def run_rerank(options: argparse.Namespace) -> int:
    from delf_jax import files
    from delf_jax.search import learned, matching, rerank
    from delf_jax.search.pipeline import parse_pipeline

    if options.first is not None and options.first < 1:
        raise InputError(f"--first={options.first}: use a positive number")
    candidates = rerank.read_candidates(options.candidates)
    pipeline = parse_pipeline(options.pipeline, "--with", rerank.STEPS)
    reranker = learned.open_reranker(options.reranker, [pipeline])
    images = rerank.open_features(options.index)
    print_shortfall(images)
    model, _ = model_and_settings(options)
    same = images.manifest.get("model", {}).get("fingerprint") == model.fingerprint
    settings = matching.verification_settings(
        options.verification, model if same else None
    )
    queries = _candidate_queries(options, candidates, images)
    result = rerank.rerank(
        candidates,
        images,
        queries,
        pipeline,
        settings,
        first=options.first,
        reranker=reranker,
    )
    print_failures(result.failed.values())
    files.write_json(options.out, result.rankings)
    text = f"{format_count(len(candidates) - len(result.failed), 'query')} reranked"
    if result.failed:
        text += f", {len(result.failed)} failed"
    print_results(f"{options.out}: {text}")
    return FAILED if candidates and len(result.failed) == len(candidates) else 0


def _candidate_queries(
    options: argparse.Namespace, candidates: Any, images: Any
) -> Any:
    """The features of each query, from a store or from photos."""
    from delf_jax.search import rerank

    paths = [pathlib.Path(path) for path in options.queries or [options.index]]
    folders = (paths[0], paths[0] / "store")
    if len(paths) == 1 and any((f / "manifest.json").is_file() for f in folders):
        stored = rerank.open_features(paths[0])
        rerank.check_same_model(images, stored)
        return rerank.stored_queries(candidates, stored)
    model, settings = model_and_settings(options, options.index)
    return rerank.extracted_queries(candidates, paths, images, model, settings)


def add_demo_options(parser: Parser) -> None:
    parser.add_out("folder to write to (demo)", default="demo")
    parser.add_model()


def run_demo(options: argparse.Namespace) -> int:
    model, _ = model_and_settings(options)
    from delf_jax import demo

    demo.run(options.out, model)
    return 0
