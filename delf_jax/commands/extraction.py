"""Commands that extract features, and convert stores to files: extract, features."""

import argparse

from delf_jax.commands.options import (
    Parser,
    model_and_settings,
    print_report,
    print_shortfall,
)
from delf_jax.files import InputError


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
    parser.add_part()
    parser.add_prune()
    parser.add_settings()


def run_extract(options: argparse.Namespace) -> int:
    from delf_jax.extraction.boxes import format_coverage, open_boxes
    from delf_jax.image_files import find_images
    from delf_jax.store import feature_store

    found = find_images(options.paths)
    boxes = None
    if options.boxes:
        boxes = open_boxes(options.boxes)
        print(format_coverage(boxes, [id for id, _ in found]))
    model, settings = model_and_settings(options)
    report = feature_store.extract_to_store(
        found,
        options.out,
        model,
        settings,
        boxes=boxes,
        part=options.part,
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
        choices=layouts,
        metavar="LAYOUT",
        help="delf: NAME.delf; delg: NAME.delg_local, NAME.delg_global",
    )
    kinds.add_argument(
        "--from",
        dest="layout",
        choices=layouts,
        metavar="LAYOUT",
        help="the same, from files to a store",
    )
    parser.add_argument(
        "--name", default="delf files", help="name of the model, for the new store"
    )
    parser.add_prune()


def run_features(options: argparse.Namespace) -> int:
    from delf_jax.store import delf_files, feature_store

    if options.prune and options.to:
        raise InputError("--prune goes with --from: files are never removed")
    if options.to:
        print_shortfall(feature_store.open_store(options.source))
        report = delf_files.write_files(options.source, options.target, options.to)
    else:
        report = delf_files.read_files(
            options.source,
            options.target,
            options.layout,
            name=options.name,
            prune=options.prune,
        )
    return print_report(report, options.target, done="written")
