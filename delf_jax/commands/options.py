"""What several commands share: options, the model, the report of a long job.

Everything slow is imported inside, by the function that needs it.
"""

import argparse
import sys
from typing import Any

FAILED = 1


def add_paths(
    parser: argparse.ArgumentParser, meaning: str, metavar: str = "PATH"
) -> None:
    parser.add_argument("paths", nargs="+", metavar=metavar, help=meaning)


def add_out(parser: argparse.ArgumentParser, meaning: str, **kwargs) -> None:
    parser.add_argument("--out", metavar="OUT", help=meaning, **kwargs)


def add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--index", required=True, metavar="DIR", help="folder of the index"
    )


def add_part(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--part",
        type=parse_part,
        metavar="I/N",
        help="do every N-th share only, as one of N processes; I from 0 to N-1",
    )


def add_codebook(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--codebook", metavar="DIR", help="visual words of ASMK*; kept with the index"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings: a file of configs/, or a .pbtxt of DELF; "
        "--config.extraction.FIELD=VALUE replaces one",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="DIR", help="folder of a model (default: the bundled one)"
    )


def add_choice(
    parser: argparse.ArgumentParser,
    name: str,
    choices: tuple[str, ...],
    meaning: str = "",
    **kwargs,
) -> None:
    parser.add_argument(
        f"--{name}",
        choices=choices,
        metavar=name.upper(),
        help=meaning + " | ".join(choices),
        **kwargs,
    )


def model_and_settings(options: argparse.Namespace) -> tuple[Any, Any]:
    prepare_jax()
    from delf_jax.extraction import settings
    from delf_jax.extraction.model_folder import load_model

    folder, chosen, config = options.model, {}, None
    if options.rest or getattr(options, "config", None):
        from delf_jax.extraction.config import (
            check_projections,
            chosen_settings,
            model_folder,
            read_extraction_config,
        )

        config, lines = read_extraction_config(options.config, options.rest)
        print(*lines, sep="\n", end="\n" * bool(lines))
        folder = folder or model_folder(config)
        chosen = chosen_settings(config)
    model = load_model(folder)
    if config is not None:
        check_projections(config, model)
    return model, settings.settings_for(model, **chosen)


def prepare_jax() -> None:
    from delf_jax import runtime

    runtime.enable_compilation_cache()


def print_report(report: Any, out: str, done: str = "extracted") -> int:
    """0, or 1 if none of the images could be used; the failed ones by name."""
    for reason in report.failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    counts = f"{report.extracted} {done}, {report.unchanged} unchanged"
    if report.removed:
        counts += f", {report.removed} removed"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    if report.damaged:
        counts += f", {report.damaged} damaged shards replaced"
    print(f"{out}: {counts}")
    return 0 if report.extracted + report.unchanged else FAILED


def parse_part(text: str) -> tuple[int, int]:
    """(i, n) of `i/n`."""
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 0/4") from None
    if not 0 <= part < parts:
        raise argparse.ArgumentTypeError(
            f"{text}: the parts of {parts} are 0/{parts} to {parts - 1}/{parts}"
        )
    return part, parts
