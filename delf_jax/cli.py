"""The command line: a table of commands, and how their errors are told.

Nothing slow is imported here, so that --help and a mistyped option answer at once.
"""

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from delf_jax import commands
from delf_jax.files import InputError

_BAD_INPUT, _INTERRUPTED = 2, 130
# What was typed, as far as it shows in the path of the program.
_PROGRAM = {"main.py": "python main.py", "__main__.py": "python -m delf_jax"}.get(
    os.path.basename(sys.argv[0]), "delf_jax"
)


class Command(NamedTuple):
    """One command: what it does, an example, its options, and the function behind."""

    summary: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, even if single images failed; 1 or 2 nothing useful done."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # `--config.FIELD=VALUE` is for the config to check.
    if rest and not (hasattr(options, "config") and rest[0].startswith("--config.")):
        parser.error(f"unknown option {rest[0]} (see {options.command} --help)")
    options.rest = rest
    # As Ctrl-C: a job that is told to end keeps what it has finished.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return COMMANDS[options.command].run(options)
    except InputError as error:
        return _tell(str(error), _BAD_INPUT)
    except KeyboardInterrupt:
        return _tell("interrupted; what was finished is kept", _INTERRUPTED)
    except BrokenPipeError:  # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _tell(_describe(error), commands.FAILED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{where}no space left on the disk; make room and run the same command "
            "again"
        )
    return f"{where}{error.strerror or error}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        _PROGRAM,
        description="Deep local and global image features: match two photos, search "
        "many, train.",
        epilog=f"example:  {_PROGRAM} match a.jpg b.jpg --out=matches.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        options = commands.add_parser(
            name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog="\n".join(
                [
                    "example:",
                    *(f"  {_PROGRAM} {e}" for e in command.example.split("\n")),
                ]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_options(options)
    return parser


def _match_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs=2, metavar="IMAGE", help="the two photos")
    _add_out(parser, "figure to write (png, pdf, svg)", default="matches.png")
    parser.add_argument(
        "--json", metavar="FILE", help="matches, and map of photo 2 to photo 1, as JSON"
    )
    _add_config(parser)
    _add_model(parser)


def _extract_options(parser: argparse.ArgumentParser) -> None:
    _add_paths(parser, "images, or folders of images")
    _add_out(parser, "folder of the feature store", required=True)
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="take every N-th image only, as one of N processes; I from 0 to N-1",
    )
    _add_config(parser)
    _add_model(parser)


def _index_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="images or folders")
    _add_index(parser)
    parser.add_argument("--add", nargs="+", metavar="PATH", help="images to add")
    parser.add_argument("--remove", nargs="+", metavar="ID", help="images to remove")
    _add_config(parser)
    _add_model(parser)


def _search_options(parser: argparse.ArgumentParser) -> None:
    _add_paths(parser, "query photos, or folders of them", metavar="QUERY")
    _add_index(parser)
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="results shown (10); 0: all"
    )
    parser.add_argument(
        "--no_rerank", action="store_true", help="rank by global similarity alone"
    )
    parser.add_argument("--json", metavar="FILE", help="results as JSON")
    parser.add_argument("--html", metavar="FILE", help="results as a page")
    _add_config(parser)
    _add_model(parser)


def _train_options(parser: argparse.ArgumentParser) -> None:
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


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a TensorFlow checkpoint or SavedModel, .h5, .pth or .safetensors",
    )
    _add_out(parser, "model folder to write", required=True)
    parser.add_argument(
        "--mapping", metavar="FILE", help="JSON that names what is not recognised"
    )
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        metavar="NAME=VALUE",
        help="a field of the architecture or the extraction, such as "
        "block3_strides=false or attention_threshold=175",
    )


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, folder or prefix")


def _features_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a feature store, or files")
    parser.add_argument("target", metavar="TARGET", help="folder to write to")
    kinds = parser.add_mutually_exclusive_group(required=True)
    layouts = {"choices": ("delf", "delg"), "metavar": "LAYOUT"}
    kinds.add_argument(
        "--to",
        help="delf: NAME.delf; delg: NAME.delg_local, NAME.delg_global",
        **layouts,
    )
    kinds.add_argument(
        "--from", dest="layout", help="the same, from files to a store", **layouts
    )
    parser.add_argument(
        "--name", default="delf files", help="what the new store says made them"
    )


def _fit_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    codebook = kinds.add_parser("codebook", help="visual words, by k-means")
    pca = kinds.add_parser("pca", help="a projection of local descriptors")
    for kind in (codebook, pca):
        kind.add_argument("store", metavar="STORE", help="folder of a feature store")
        _add_out(kind, "folder to write to", required=True)
    for name, default, meaning in (
        ("words", 1024, "visual words (1024)"),
        ("iterations", 20, "passes over the store at most (20)"),
        ("seed", 0, "of all that is drawn (0)"),
    ):
        codebook.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=meaning
        )
    codebook.add_argument(
        "--start",
        choices=("sample", "kmeans++"),
        default="sample",
        help="descriptors to start from: any (sample), or some far apart",
    )
    pca.add_argument(
        "--dimension", type=int, required=True, metavar="N", help="components kept"
    )
    pca.add_argument(
        "--whiten", action="store_true", help="components get unit variance"
    )


def _demo_options(parser: argparse.ArgumentParser) -> None:
    _add_out(parser, "folder to write to (demo)", default="demo")
    _add_model(parser)


def _add_paths(
    parser: argparse.ArgumentParser, meaning: str, metavar: str = "PATH"
) -> None:
    parser.add_argument("paths", nargs="+", metavar=metavar, help=meaning)


def _add_out(parser: argparse.ArgumentParser, meaning: str, **kwargs) -> None:
    parser.add_argument("--out", metavar="OUT", help=meaning, **kwargs)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--index", required=True, metavar="DIR", help="folder of the index"
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="settings: a file of configs/, or a .pbtxt of DELF; "
        "--config.extraction.FIELD=VALUE replaces one",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="DIR", help="folder of a model (default: the bundled one)"
    )


def _setting(text: str) -> tuple[str, Any]:
    """(name, value) of `name=value`; the value is JSON, or else text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _part(text: str) -> tuple[int, int]:
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


COMMANDS = {
    "match": Command(
        "find what two photos have in common",
        "match a.jpg b.jpg --out=matches.png",
        _match_options,
        commands.run_match,
    ),
    "extract": Command(
        "extract features of images and folders to a feature store",
        "extract photos --out=features\n"
        "extract a --out=b --config.extraction.max_features=500",
        _extract_options,
        commands.run_extract,
    ),
    "index": Command(
        "index photos for search, or add and remove some",
        "index photos --index=photos_index\n"
        "index --index=photos_index --add more/new.jpg\n"
        "index --index=photos_index --remove a/1.jpg",
        _index_options,
        commands.run_index,
    ),
    "search": Command(
        "find photos of the same place",
        "search query.jpg --index=photos_index --html=results.html",
        _search_options,
        commands.run_search,
    ),
    "train": Command(
        "train a model; again with the same workdir, it goes on",
        "train --config=configs/delg_tiny.py --workdir=runs/tiny\n"
        "train --config=my.py --workdir=runs/mine --config.seed=3",
        _train_options,
        commands.run_train,
    ),
    "convert": Command(
        "turn released or foreign weights into a model folder",
        "convert r50delg_gld_20200814 --out=models/r50delg_gld\n"
        "convert resnet50-0676ba61.pth --out=models/resnet50",
        _convert_options,
        commands.run_convert,
    ),
    "inspect": Command(
        "tell what a file of weights or features, a store or a config holds",
        "inspect resnet50.pth\ninspect photos_index",
        _inspect_options,
        commands.run_inspect,
    ),
    "features": Command(
        "turn a feature store into files of DELF, one per image, and back",
        "features photos_store photos_delf --to=delf\n"
        "features photos_delf a_store --from=delf --name=delf_gld",
        _features_options,
        commands.run_features,
    ),
    "fit": Command(
        "fit a codebook or a PCA to the local descriptors of a feature store",
        "fit codebook features --out=codebook --words=65536\n"
        "fit pca features --out=pca --dimension=64",
        _fit_options,
        commands.run_fit,
    ),
    "demo": Command(
        "draw landmarks, match and search them, and say how well it went",
        "demo --out=demo",
        _demo_options,
        commands.run_demo,
    ),
}
