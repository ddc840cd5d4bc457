"""Commands that extract features, and convert stores to files: extract, features."""

import argparse
from typing import Any

from delf_jax.commands.detection import finder
from delf_jax.commands.options import (
    Parser,
    check_one_of_parts,
    model_and_settings,
    print_report,
    print_shortfall,
)
from delf_jax.files import InputError
from delf_jax.progress import format_count

# Layouts of `features` that have a place for matches.
_WITH_MATCHES = ("hdf5", "colmap")


def add_extract_options(parser: Parser) -> None:
    images = "images, folders of images, or @LIST: a file of paths"
    parser.add_argument("paths", nargs="+", metavar="PATH", help=images)
    parser.add_out("folder of the feature store", required=True)
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="features of boxes, too: a CSV of image,y_min,x_min,y_max,x_max[,score] "
        "in pixels, or a folder of .boxes files",
    )
    parser.add_detect()
    parser.add_part()
    parser.add_ray()
    parser.add_prune()
    parser.add_settings()


def run_extract(options: argparse.Namespace) -> int:
    from delf_jax.extraction.boxes import format_coverage, open_boxes
    from delf_jax.image_files import find_images
    from delf_jax.store import feature_store

    check_one_of_parts(options)
    if options.detect and (options.boxes or options.part):
        raise InputError(
            "--detect goes without --boxes and --part: run detect first, and give what "
            "it has written as --boxes"
        )
    found = find_images(options.paths)
    boxes = None
    if options.boxes:
        boxes = open_boxes(options.boxes)
        print(format_coverage(boxes, [id for id, _ in found]))
    model, settings = model_and_settings(options, options.out)
    if find := finder(options.detect, options.out, options.ray):
        boxes = find(found)
    report = feature_store.extract_to_store(
        found,
        options.out,
        model,
        settings,
        boxes=boxes,
        part=options.part,
        ray=options.ray,
        prune=options.prune,
    )
    return print_report(report, options.out)


def add_features_options(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a feature store, or files")
    parser.add_argument("target", metavar="TARGET", help="folder to write to")
    kinds = parser.add_mutually_exclusive_group(required=True)
    layouts = ("delf", "delg")
    kinds.add_argument(
        "--to",
        choices=(*layouts, "hdf5", "npz", "csv", "colmap"),
        metavar="LAYOUT",
        help="delf: NAME.delf; delg: NAME.delg_local, NAME.delg_global; hdf5: hloc's; "
        "npz: NAME.npz; csv; colmap: keypoints/NAME.txt",
    )
    kinds.add_argument(
        "--from",
        dest="layout",
        choices=layouts,
        metavar="LAYOUT",
        help="delf or delg, from files to a store",
    )
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="of --to=hdf5 and colmap: the matches, too, of pairs, a line A B for each",
    )
    parser.add_argument(
        "--name", default="delf files", help="name of the model, for the new store"
    )
    parser.add_prune()


def run_features(options: argparse.Namespace) -> int:
    from delf_jax.store import delf_files, feature_store

    if options.prune and options.to:
        raise InputError("--prune goes with --from: files are never removed")
    if options.pairs and options.to not in _WITH_MATCHES:
        raise InputError("--pairs goes with --to=hdf5 or --to=colmap")
    if options.to:
        print_shortfall(feature_store.open_store(options.source))
    if options.layout:
        report = delf_files.read_files(
            options.source,
            options.target,
            options.layout,
            name=options.name,
            prune=options.prune,
        )
    elif options.to in delf_files.SUFFIXES:
        report = delf_files.write_files(options.source, options.target, options.to)
    else:
        report = _write_for_others(options)
    return print_report(report, options.target, done="written")


def _write_for_others(options: argparse.Namespace) -> Any:
    """Writes features, and matches of pairs, in a layout of other programs."""
    from delf_jax.search import pairs
    from delf_jax.store import feature_store, interchange

    images, listed = feature_store.open_store(options.source), []
    if options.pairs:
        listed = pairs.read_pairs(options.pairs, images)
    report = interchange.write_files(images, options.target, options.to)
    if images.manifest.get("with_boxes"):
        print("features of boxes are left out; --to=delf and delg have them")
    if listed:
        found = pairs.match_pairs(images, listed)
        path = interchange.write_matches(options.target, options.to, found)
        print(f"{path}: matches of {format_count(len(listed), 'pair')}")
    return report
