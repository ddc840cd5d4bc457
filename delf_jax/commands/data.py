"""Commands on datasets: download, prepare."""

import argparse
import os
import pathlib
import shlex
from collections.abc import Sequence

from delf_jax import extras
from delf_jax.commands.options import FAILED, Parser, check_one_of_parts
from delf_jax.files import InputError
from delf_jax.progress import print_failures, print_results


def add_download_options(parser: Parser) -> None:
    which = "datasets and models (none: list what there is)"
    parser.add_value("names", "NAME", which, nargs="*")
    parser.add_flag("--yes", "download; else only list the files")
    parser.add_out("folder to write to")
    parser.add_value(
        "--only", "PATTERN", "of the files, such as '*_000.tar'", default="*"
    )
    parser.add_flag("--unpack", "archives of datasets, too, beside themselves")


def run_download(options: argparse.Namespace) -> int:
    from delf_jax.data import download
    from delf_jax.data.download_catalogue import DOWNLOADS

    if not options.names:
        width = max(map(len, DOWNLOADS))
        for name, each in DOWNLOADS.items():
            print_results(f"{name:<{width}} {each.about}")
        return 0
    plans = {name: download.plan(name, options.only) for name in options.names}
    if not options.yes:
        for name, plan in plans.items():
            print_results(*download.format_files(name, plan))
        print("nothing was downloaded; add --yes --out=DIR to download")
        return 0
    if not options.out:
        raise InputError("download: name a folder with --out")
    if not any(plans.values()):
        raise InputError("download: nothing to download; see the list without --yes")
    out = pathlib.Path(options.out)
    for name in [name for name in plans if _is_model(name) and (out / name).exists()]:
        print_results(f"{out / name}: is there; remove it to convert it again")
        del plans[name]
    report = download.fetch(
        [each for plan in plans.values() for each in plan],
        out,
        unpack=options.unpack,
        progress=not options.quiet,
    )
    counts = f"{report.fetched} fetched, {report.present} present"
    if options.unpack:
        counts += f", {report.unpacked} unpacked"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    print_results(f"{options.out}: {counts}")
    failed = len(report.failed)
    for name, plan in plans.items():
        if not any(each.path in report.failed for each in plan):
            failed += not _use(name, out)
    return FAILED if failed else 0


def _is_model(name: str) -> bool:
    from delf_jax.data.download_catalogue import DOWNLOADS

    use = DOWNLOADS[name].use
    return use is not None and use.kind == "model"


def _use(name: str, out: pathlib.Path) -> bool:
    """Makes of a released artefact what it is for, and says how to go on.

    Whether that went well; of a dataset it always does.
    """
    from delf_jax.conversion import convert
    from delf_jax.data import download
    from delf_jax.data.download_catalogue import DOWNLOADS

    use = DOWNLOADS[name].use
    if use is None:
        return True
    try:
        source = download.unpack_released(DOWNLOADS[name], out)
        if use.kind == "model":
            whitening = out / use.whitening if use.whitening else None
            convert.convert(source, out / name, whitening=whitening)
        else:
            print_results(*_introduce(use.kind, source))
    except InputError as error:
        print_failures([error])
        return False
    return True


def _introduce(kind: str, source: pathlib.Path) -> tuple[str, str]:
    """What a detector or a codebook is, and the next command."""
    path = shlex.quote(str(source))
    if kind == "detector":
        what = "a SavedModel, which TensorFlow runs: pip install 'delf_jax[tf]'"
        command = f"detect photos/ --model={path} --out=boxes"
    else:
        from delf_jax.index.codebook import load_codebook

        words, dimension = load_codebook(source).centroids.shape
        what = f"{words} visual words of {dimension} dimensions"
        command = f"aggregate FEATURES --codebook={path} --out=asmk"
    return f"{source}: {what}", f"next: python main.py {command}"


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
    parser.add_ray()


def run_prepare(options: argparse.Namespace) -> int:
    extras.require("train", "prepare")
    from delf_jax.formats import tables

    check_one_of_parts(options)
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
        ray=options.ray,
    )
    quarantine = f"{name}-quarantine.csv"
    ready, failed = len(prepared.images), len(prepared.failures)
    _print_ready(options.data, ready, len(listed), failed, quarantine)
    return 0


def _write_tfrecords(options: argparse.Namespace, excluded: frozenset[str]) -> int:
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
        ray=options.ray,
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
