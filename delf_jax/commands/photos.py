"""Commands on photos: match, extract, index, search, demo.

Everything slow is imported inside, by the command that needs it.
"""

import argparse
import pathlib
import sys
from typing import Any

from delf_jax.commands import shared
from delf_jax.files import InputError


def add_match_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs=2, metavar="IMAGE", help="the two photos")
    shared.add_out(parser, "figure to write (png, pdf, svg)", default="matches.png")
    parser.add_argument(
        "--json", metavar="FILE", help="matches, and map of photo 2 to photo 1, as JSON"
    )
    shared.add_config(parser)
    shared.add_model(parser)


def run_match(options: argparse.Namespace) -> int:
    from delf_jax import figures, files, images

    figures.figure_format(options.out)  # before any work
    photos = [images.read_image(path) for path in options.images]
    model, settings = shared.model_and_settings(options)
    from delf_jax import pairs

    found = pairs.compare_photos(*options.images, model, settings)
    text = f"{found.inliers} inliers of {len(found.pair.matches)} matches"
    if found.similarity is not None:
        text += f", similarity {found.similarity:.3f}"
    print(text, flush=True)
    local = [features.local for features in found.features]
    figures.draw_matches(*photos, *local, found.pair, text, options.out)
    print(f"figure: {options.out}")
    if options.json:
        files.write_json(options.json, pairs.describe(found, options.images))
        print(f"JSON: {options.json}")
    return 0


def add_extract_options(parser: argparse.ArgumentParser) -> None:
    shared.add_paths(parser, "images, or folders of images")
    shared.add_out(parser, "folder of the feature store", required=True)
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="features of boxes, too: a CSV of image,y_min,x_min,y_max,x_max[,score] "
        "in pixels, or a folder of .boxes files",
    )
    shared.add_part(parser)
    shared.add_config(parser)
    shared.add_model(parser)


def run_extract(options: argparse.Namespace) -> int:
    from delf_jax import region_boxes, store

    found = store.find_images(options.paths)
    boxes = None
    if options.boxes:
        boxes = region_boxes.open_boxes(options.boxes)
        print(region_boxes.tell_coverage(boxes, [id for id, _ in found]))
    model, settings = shared.model_and_settings(options)
    report = store.extract_to_store(
        found, options.out, model, settings, boxes=boxes, part=options.part
    )
    return shared.tell_report(report, options.out)


def add_index_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="images or folders")
    shared.add_index(parser)
    parser.add_argument("--add", nargs="+", metavar="PATH", help="images to add")
    parser.add_argument("--remove", nargs="+", metavar="ID", help="images to remove")
    shared.add_config(parser)
    shared.add_model(parser)


def run_index(options: argparse.Namespace) -> int:
    from delf_jax import photo_index

    asked = [name for name in ("paths", "add", "remove") if getattr(options, name)]
    if len(asked) != 1:
        raise InputError("index: give photos to index, or --add, or --remove")
    if options.remove:
        left = photo_index.remove_images(options.index, options.remove)
        print(f"{options.index}: {len(options.remove)} removed, {left} left")
        return 0
    model, settings = shared.model_and_settings(options)
    change = photo_index.add_images if options.add else photo_index.make_index
    paths = options.add or options.paths
    report = change(paths, options.index, model, settings)
    return shared.tell_report(report, options.index)


def add_search_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s QUERY ... --index DIR [option ...]"
    shared.add_paths(parser, "query photos, or folders of them", metavar="QUERY")
    shared.add_index(parser)
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="results shown (10); 0: all"
    )
    parser.add_argument(
        "--no_rerank", action="store_true", help="rank by global similarity alone"
    )
    shared.add_codebook(parser)
    shared.add_choice(
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
    shared.add_config(parser)
    shared.add_model(parser)


def run_search(options: argparse.Namespace) -> int:
    from delf_jax import files, global_descriptors, page, photo_index, search

    if options.top < 0:
        raise InputError(f"--top={options.top}: use a positive number, or 0 for all")
    speaks = shared.join_processes() if options.distributed else True
    queries = _query_paths(options.paths)
    index = photo_index.open_index(options.index)
    model, settings = shared.model_and_settings(options)
    descriptors, said = None, ""
    if options.precision != "float32":
        if options.codebook:
            raise InputError("--precision is of global descriptors, not of --codebook")
        descriptors, recall = global_descriptors.open_descriptors(
            index.store, options.precision
        )
        said = global_descriptors.describe(descriptors, recall)
    found = search.search(
        *(index, queries, model, settings),
        top=options.top,
        rerank=not options.no_rerank,
        codebook=options.codebook,
        descriptors=descriptors,
    )
    if not speaks:  # The first process does for all: they find the same.
        return 0 if list(found) else shared.FAILED
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
        files.write_json(options.json, search.describe(answers))
        print(f"JSON: {options.json}")
    if options.html:
        page.write_page(options.html, answers, index.file, str(index))
        print(f"page: {options.html}")
    return 0


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    shared.add_out(parser, "folder to write to (demo)", default="demo")
    shared.add_model(parser)


def run_demo(options: argparse.Namespace) -> int:
    model, _ = shared.model_and_settings(options)
    from delf_jax import demo

    demo.run(options.out, model)
    return 0


def _query_paths(paths: list[str]) -> list[pathlib.Path]:
    """Photos in the order given; those of a folder by name."""
    from delf_jax import store

    found = []
    for path in map(pathlib.Path, paths):
        inside = store.find_images([path]) if path.is_dir() else [("", path)]
        found += [path / image for image, _ in inside]
    return found


def _print_answer(answer: Any) -> None:
    """One query as a table."""
    print(f"\n{answer.image}")
    print(f"{'':>6}  {'inliers':>7}  {'similarity':>10}  image")
    for rank, result in enumerate(answer.results, 1):
        inliers = "-" if result.inliers is None else result.inliers
        print(f"{rank:>6}  {inliers:>7}  {result.similarity:>10.3f}  {result.image}")
