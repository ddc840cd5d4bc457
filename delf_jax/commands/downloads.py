"""Commands on datasets of others: download.

Everything slow is imported inside, by the command that needs it.
"""

import argparse

from delf_jax.commands import shared
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
    shared.add_out(parser, "folder to write to")
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
    from delf_jax import download_table, downloads

    if not options.datasets:
        for name, each in download_table.DOWNLOADS.items():
            print(f"{name:<12} {each.about}")
        return 0
    plans = {name: downloads.plan(name, options.only) for name in options.datasets}
    if not options.yes:
        for name, chosen in plans.items():
            print(*downloads.describe(name, chosen), sep="\n")
        print("nothing was fetched; --yes --out=DIR fetches")
        return 0
    if not options.out:
        raise InputError("download: name a folder with --out")
    chosen = [files for plan in plans.values() for files in plan]
    if not chosen:
        raise InputError("download: there is nothing to fetch; see without --yes")
    report = downloads.fetch(chosen, options.out, unpack=options.unpack)
    counts = f"{report.fetched} fetched, {report.present} were there"
    if options.unpack:
        counts += f", {report.unpacked} unpacked"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    print(f"{options.out}: {counts}")
    return shared.FAILED if report.failed else 0
