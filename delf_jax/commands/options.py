"""What several commands share: options, the model, results as JSON, the last line.

Everything slow is imported inside, by the function that needs it.
"""

import argparse
import json
import sys
from typing import Any

from delf_jax.progress import print_results

FAILED = 1
STDOUT = "-"  # As the path of --json.


def add_paths(
    parser: argparse.ArgumentParser, meaning: str, metavar: str = "PATH"
) -> None:
    parser.add_argument("paths", nargs="+", metavar=metavar, help=meaning)


def add_out(parser: argparse.ArgumentParser, meaning: str, **kwargs: Any) -> None:
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


def add_json(
    parser: argparse._ActionsContainer, meaning: str = "results as JSON"
) -> None:
    parser.add_argument(
        "--json", metavar="FILE", help=f"{meaning} (-: standard output)"
    )


def add_verification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verification",
        default="default",
        metavar="NAME",
        help="settings of verification: default, delg, d2r",
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
    **kwargs: Any,
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
    from delf_jax.extraction.config import open_model, read_extraction_config

    path = getattr(options, "config", None)
    config, lines = read_extraction_config(path, options.rest)
    print(*lines, sep="\n", end="\n" * bool(lines))
    return open_model(config, options.model)


def prepare_jax() -> None:
    from delf_jax import runtime

    runtime.enable_compilation_cache()


def write_result(options: argparse.Namespace, value: Any) -> None:
    """Writes what --json asks for, if it does."""
    if options.json == STDOUT:
        text = json.dumps(value, indent=1, allow_nan=False)
        print(text, file=options.stdout, flush=True)
    elif options.json:
        from delf_jax.files import write_json

        write_json(options.json, value)
        print(f"JSON: {options.json}")


def print_report(report: Any, out: str, done: str = "extracted") -> int:
    """Prints what was done, and why images failed; 1 if none could be used, else 0."""
    for reason in report.failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    counts = f"{report.extracted} {done}, {report.unchanged} unchanged"
    if report.removed:
        counts += f", {report.removed} removed"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    if report.damaged:
        counts += f", {report.damaged} damaged shards replaced"
    print_results(f"{out}: {counts}")
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
