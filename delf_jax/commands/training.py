"""Commands of training: train.

Everything slow is imported inside, by the command that needs it.
"""

import argparse

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
