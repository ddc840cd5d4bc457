"""Commands on datasets of others: download.

Everything slow is imported inside, by the command that needs it.
"""

import argparse
import os
import pathlib

from delf_jax.commands.options import FAILED, add_out, add_part
from delf_jax.files import InputError


def add_download_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "datasets",
        nargs="*",
        metavar="DATASET",
        help="which (none: list what there is)",
    )
    parser.add_argument(
        "--yes", action="store_true", help="fetch; else only tell what would be fetched"
    )
    add_out(parser, "folder to write to")
    parser.add_argument(
        "--only",
        default="*",
        metavar="PATTERN",
        help="of the files, such as '*_000.tar'",
    )
    parser.add_argument(
        "--unpack", action="store_true", help="archives, too, beside themselves"
    )


def run_download(options: argparse.Namespace) -> int:
    from delf_jax.data import download, download_catalogue

    if not options.datasets:
        for name, each in download_catalogue.DOWNLOADS.items():
            print(f"{name:<12} {each.about}")
        return 0
    plans = {name: download.plan(name, options.only) for name in options.datasets}
    if not options.yes:
        for name, chosen in plans.items():
            print(*download.format_files(name, chosen), sep="\n")
        print("nothing was fetched; --yes --out=DIR fetches")
        return 0
    if not options.out:
        raise InputError("download: name a folder with --out")
    chosen = [files for plan in plans.values() for files in plan]
    if not chosen:
        raise InputError("download: there is nothing to fetch; see without --yes")
    report = download.fetch(chosen, options.out, unpack=options.unpack)
    counts = f"{report.fetched} fetched, {report.present} were there"
    if options.unpack:
        counts += f", {report.unpacked} unpacked"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    print(f"{options.out}: {counts}")
    return FAILED if report.failed else 0


def add_prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="PATH",
        help="folder of class folders, CSV, GLD table, SfM-120k .pkl, TFRecords",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="where to; train finds it by --config.data.directory=DIR",
    )
    parser.add_argument("--images", default="", metavar="DIR", help="where photos are")
    parser.add_argument(
        "--label_column", default="label", metavar="NAME", help="of a CSV (label)"
    )
    parser.add_argument(
        "--split", default="", metavar="PART", help="train | validation (all)"
    )
    parser.add_argument(
        "--exclude", default="", metavar="FILE", help="as config.data.exclude of train"
    )
    parser.add_argument(
        "--max_side", type=int, default=1024, metavar="N", help="pixels kept (1024)"
    )
    add_part(parser)
    parser.add_argument(
        "--beam", default="", metavar="RUNNER", help="build with Apache Beam instead"
    )


def run_prepare(options: argparse.Namespace) -> int:
    from delf_jax.data import image_lists, prepare
    from delf_jax.formats import tables

    found = image_lists.list_records(
        options.dataset, options.images, options.label_column, options.split
    )
    if options.exclude:
        names = set(tables.read_names(options.exclude))
        found = [record for record in found if str(record.label) not in names]
    if not found:
        raise InputError(f"{options.exclude}: leaves no image of {options.dataset}")
    name = pathlib.Path(options.dataset).resolve().stem
    prepared = prepare.prepare(
        *(name, found, options.data),
        max_side=options.max_side,
        threads=os.cpu_count() or 1,
        part=options.part or (0, 1),
        beam=options.beam,
    )
    ready, failed = len(prepared.images), len(prepared.failures)
    text = f"{options.data}: {ready} of {len(found)} images ready"
    if failed:
        text += f", {failed} cannot be used, listed in {name}-quarantine.csv"
    print(text)
    return 0
