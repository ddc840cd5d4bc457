"""Commands on datasets: download, prepare."""

import argparse
import os
import pathlib
from collections.abc import Sequence

from delf_jax.commands.options import FAILED, Parser
from delf_jax.files import InputError
from delf_jax.progress import print_results


def add_download_options(parser: Parser) -> None:
    which = "which (none: list what there is)"
    parser.add_value("datasets", "DATASET", which, nargs="*")
    parser.add_flag("--yes", "download; else only list the files")
    parser.add_out("folder to write to")
    parser.add_value(
        "--only", "PATTERN", "of the files, such as '*_000.tar'", default="*"
    )
    parser.add_flag("--unpack", "archives, too, beside themselves")


def run_download(options: argparse.Namespace) -> int:
    from delf_jax.data import download, download_catalogue

    if not options.datasets:
        for name, each in download_catalogue.DOWNLOADS.items():
            print_results(f"{name:<12} {each.about}")
        return 0
    plans = {name: download.plan(name, options.only) for name in options.datasets}
    if not options.yes:
        for name, plan in plans.items():
            print_results(*download.format_files(name, plan))
        print("nothing was downloaded; add --yes --out=DIR to download")
        return 0
    if not options.out:
        raise InputError("download: name a folder with --out")
    files = [each for plan in plans.values() for each in plan]
    if not files:
        raise InputError("download: nothing to download; see the list without --yes")
    report = download.fetch(
        files, options.out, unpack=options.unpack, progress=not options.quiet
    )
    counts = f"{report.fetched} fetched, {report.present} present"
    if options.unpack:
        counts += f", {report.unpacked} unpacked"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    print_results(f"{options.out}: {counts}")
    return FAILED if report.failed else 0


def add_prepare_options(parser: Parser) -> None:
    photos = "folder of class folders, CSV, GLD table, SfM-120k .pkl, TFRecords"
    kinds = "array_record", "tfrecord"
    parser.add_value("--dataset", "PATH", photos, required=True)
    out = "folder to write to: config.data.directory of train"
    parser.add_value("--data", "DIR", out, required=True)
    parser.add_value("--images", "DIR", "folder of the photos")
    parser.add_value("--label_column", "NAME", "of a CSV (label)", default="label")
    parser.add_value("--split", "PART", "train | validation (all)")
    parser.add_value("--exclude", "FILE", "as config.data.exclude of train")
    parser.add_number("--max_side", "pixels kept (1024; in TFRecords: all)")
    parser.add_choice("--to", kinds, "what train reads, or what the original reads: ")
    parser.add_number("--shards", "files of TFRecords (128)")
    parser.add_part()
    parser.add_value("--beam", "RUNNER", "build with Apache Beam instead")


def run_prepare(options: argparse.Namespace) -> int:
    from delf_jax.formats import tables

    for name in ("max_side", "shards"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise InputError(f"--{name}={number}: use a positive number")
    excluded = frozenset(tables.read_names(options.exclude) if options.exclude else ())
    if options.to == "tfrecord":
        return _write_tfrecords(options, excluded)
    if options.shards:
        raise InputError("--shards is for --to=tfrecord")
    from delf_jax.data import image_lists, prepare

    listed = image_lists.list_records(
        options.dataset, options.images or "", options.label_column, options.split or ""
    )
    listed = [image for image in listed if str(image.label) not in excluded]
    _check_left(options, listed)
    name = pathlib.Path(options.dataset).resolve().stem
    prepared = prepare.prepare(
        name,
        listed,
        options.data,
        max_side=options.max_side or 1024,
        threads=os.cpu_count() or 1,
        part=options.part or (0, 1),
        beam=options.beam or "",
    )
    quarantine = f"{name}-quarantine.csv"
    ready, failed = len(prepared.images), len(prepared.failures)
    _print_ready(options.data, ready, len(listed), failed, quarantine)
    return 0


def _write_tfrecords(options: argparse.Namespace, excluded: frozenset[str]) -> int:
    if options.beam:
        raise InputError("--beam builds what train reads; leave it out for TFRecords")
    from delf_jax.data import tfrecords

    plan = tfrecords.plan(
        options.dataset,
        options.images or "",
        options.label_column,
        options.split or "",
        excluded,
    )
    _check_left(options, plan.records)
    written = tfrecords.write(
        plan,
        options.data,
        shards=options.shards or tfrecords.SHARDS,
        max_side=options.max_side,
        threads=os.cpu_count() or 1,
        part=options.part or (0, 1),
    )
    quarantine, failed = f"quarantine-{plan.split}.csv", len(written.failures)
    count = len(plan.records)
    _print_ready(options.data, written.images, count, failed, quarantine)
    return 0


def _check_left(options: argparse.Namespace, records: Sequence) -> None:
    if not records:
        raise InputError(f"{options.exclude}: leaves no image of {options.dataset}")


def _print_ready(
    folder: str, ready: int, count: int, failed: int, quarantine: str
) -> None:
    text = f"{folder}: {ready} of {count} images ready"
    if failed:
        text += f", {failed} cannot be used, listed in {quarantine}"
    print_results(text)
