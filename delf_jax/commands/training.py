"""Commands of training: train, sweep, plot, prepare.

Everything slow is imported inside, by the command that needs it.
"""

import argparse
import os
import pathlib

from delf_jax.commands import shared
from delf_jax.files import InputError


def add_train_options(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="checkpoints and metrics"
    )
    parser.add_argument(
        "--multihost",
        nargs="?",
        type=_hosts,
        const=("", None),
        metavar="ADDRESS:PORT,I/N",
        help="one of N hosts that train together; found out on TPU pods and in Slurm",
    )


def run_train(options: argparse.Namespace) -> int:
    from delf_jax import configuration

    config = configuration.read_training_config(options.config, options.rest)
    shared.prepare_jax()
    from delf_jax import hosts, train

    if options.multihost:
        hosts.join_hosts(*options.multihost)
    train.train(config, options.workdir)
    return 0


def _hosts(text: str) -> tuple[str, tuple[int, int]]:
    """(address:port, (i, n)) of `address:port,i/n`."""
    coordinator, _, part = text.rpartition(",")
    if ":" not in coordinator:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ADDRESS:PORT,I/N, such as 10.0.0.1:1234,0/2"
        )
    return coordinator, shared.parse_part(part)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="a config file")
    parser.add_argument(
        "--config.FIELD",
        dest="unused",
        metavar="VALUE",
        help="replaces one field of the config, as often as you like",
    )


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="a folder for each trial"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trials side by side (1)"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands, to run elsewhere"
    )


def run_sweep(options: argparse.Namespace) -> int:
    from delf_jax import sweeps

    if options.jobs < 1:
        raise InputError("--jobs: at least one trial must run")
    trials = sweeps.plan(options.config, options.workdir, options.rest)
    if options.dry_run:
        print(*sweeps.commands(trials), sep="\n")
        return 0
    return 0 if sweeps.run(trials, options.workdir, options.jobs) else shared.FAILED


def add_plot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdirs of trainings")
    shared.add_out(parser, "the figure (.png, .pdf, .svg)", required=True)
    parser.add_argument(
        "--metrics", default="", metavar="NAMES", help="such as loss,validation/mAP"
    )


def run_plot(options: argparse.Namespace) -> int:
    from delf_jax import curves

    runs = curves.name_runs(options.runs)
    found = {name: curves.read_curves(path) for name, path in runs.items()}
    chosen = [name for name in options.metrics.split(",") if name]
    curves.draw_curves(found, options.out, metrics=chosen)
    print(f"curves: {options.out}")
    return 0


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
    shared.add_part(parser)
    parser.add_argument(
        "--beam", default="", metavar="RUNNER", help="build with Apache Beam instead"
    )


def run_prepare(options: argparse.Namespace) -> int:
    from delf_jax import exclusions, preparation, records

    found = records.list_records(
        options.dataset, options.images, options.label_column, options.split
    )
    if options.exclude:
        names = set(exclusions.read_names(options.exclude))
        found = [record for record in found if str(record.label) not in names]
    if not found:
        raise InputError(f"{options.exclude}: leaves no image of {options.dataset}")
    name = pathlib.Path(options.dataset).resolve().stem
    prepared = preparation.prepare(
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
