"""Commands of training: train, prepare.

Everything slow is imported inside, by the command that needs it.
"""

import argparse
import os
import pathlib

from delf_jax.commands import shared


def add_train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="a config file")
    parser.add_argument(
        "--config.FIELD",
        dest="unused",
        metavar="VALUE",
        help="replaces one field of the config, as often as you like",
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="checkpoints and metrics"
    )


def run_train(options: argparse.Namespace) -> int:
    from delf_jax import configuration

    config = configuration.read_training_config(options.config, options.rest)
    shared.prepare_jax()
    from delf_jax import train

    train.train(config, options.workdir)
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
        "--max_side", type=int, default=1024, metavar="N", help="pixels kept (1024)"
    )
    shared.add_part(parser)
    parser.add_argument(
        "--beam", default="", metavar="RUNNER", help="build with Apache Beam instead"
    )


def run_prepare(options: argparse.Namespace) -> int:
    from delf_jax import preparation, records

    found = records.list_records(
        options.dataset, options.images, options.label_column, options.split
    )
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
