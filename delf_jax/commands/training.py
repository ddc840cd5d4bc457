"""Commands of training: train, sweep, plot."""

import argparse

from delf_jax import extras
from delf_jax.commands.options import (
    FAILED,
    Parser,
    parse_part,
    prepare_jax,
    print_written,
)
from delf_jax.files import InputError
from delf_jax.progress import print_results


def add_train_options(parser: Parser) -> None:
    _add_config(parser)
    parser.add_value("--workdir", "DIR", "checkpoints and metrics", required=True)
    parser.add_argument(
        "--multihost",
        nargs="?",
        type=_hosts,
        const=("", None),
        metavar="ADDRESS:PORT,I/N",
        help="one of N hosts that train together; TPU pods and Slurm need no value",
    )


def run_train(options: argparse.Namespace) -> int:
    extras.require("train", "train")
    from delf_jax.training.config import read_training_config

    config = read_training_config(options.config, options.rest, options.workdir)
    prepare_jax()
    from delf_jax import runtime
    from delf_jax.training import train

    if options.multihost:
        runtime.join_processes("--multihost", *options.multihost)
    train.train(config, options.workdir)
    return 0


def _hosts(text: str) -> tuple[str, tuple[int, int]]:
    """(address:port, (i, n)) of `address:port,i/n`."""
    coordinator, _, part = text.rpartition(",")
    if ":" not in coordinator:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ADDRESS:PORT,I/N, such as 10.0.0.1:1234,0/2"
        )
    return coordinator, parse_part(part)


def _add_config(parser: Parser) -> None:
    parser.add_value("--config", "FILE", "a config file", required=True)
    field = "replaces one field of the config; can be repeated"
    parser.add_value("--config.FIELD", "VALUE", field, dest="unused")


def add_sweep_options(parser: Parser) -> None:
    _add_config(parser)
    parser.add_value("--workdir", "DIR", "a folder for each trial", required=True)
    parser.add_number("--jobs", "trials side by side (1)", default=1)
    parser.add_flag("--dry_run", "print the commands, to run elsewhere")


def run_sweep(options: argparse.Namespace) -> int:
    extras.require("train", "sweep")
    from delf_jax.training import sweep

    if options.jobs < 1:
        raise InputError(f"--jobs={options.jobs}: use a positive number")
    trials = sweep.plan(options.config, options.workdir, options.rest)
    if options.dry_run:
        print_results(*sweep.commands(trials))
        return 0
    return 0 if sweep.run(trials, options.workdir, options.jobs) else FAILED


def add_plot_options(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdirs of trainings")
    parser.add_file("--out", "the figure (.png, .pdf, .svg)", "OUT", required=True)
    parser.add_value("--metrics", "NAMES", "such as loss,validation/mAP")


def run_plot(options: argparse.Namespace) -> int:
    from delf_jax.report import curves

    runs = curves.name_runs(options.runs)
    found = {name: curves.read_curves(path) for name, path in runs.items()}
    metrics = [name for name in (options.metrics or "").split(",") if name]
    curves.draw_curves(found, options.out, metrics=metrics)
    print_written("curves", options.out)
    return 0
