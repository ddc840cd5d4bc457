"""The command line: a table of commands, and how their errors are printed.

Nothing slow is imported here, so that --help and a mistyped option answer at once.
"""

import argparse
import atexit
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from delf_jax import __version__, progress
from delf_jax.commands import (
    completion,
    data,
    detection,
    evaluation,
    extraction,
    gldv2,
    index,
    models,
    options,
    search,
    serve,
    training,
)
from delf_jax.files import InputError

# JAX and matplotlib make a million objects that stay. To look for garbage among these
# after every 700 new ones, and once more at the end, took an eighth of a `match`.
_COLLECT_AFTER = 50_000
_BAD_INPUT, _INTERRUPTED = 2, 130
# XLA's own alarms, "Very slow compile?", say nothing that a user could act on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What was typed, as far as it shows in the path of the program.
_PROGRAM = {"main.py": "python main.py", "__main__.py": "python -m delf_jax"}.get(
    os.path.basename(sys.argv[0]), "delf_jax"
)


class Command(NamedTuple):
    """One command: what it does, examples, its options, and the function that runs."""

    summary: str
    example: str
    add_options: Callable[[options.Parser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, even if single images failed; 1 or 2 nothing useful done."""
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
    with progress.standard_streams() as (stdout, _):
        status = _run(arguments)
        stdout.flush()
        if stdout.error is not None:
            stdout.error.filename = "standard output"
            status = _print_error(_format_os_error(stdout.error), options.FAILED)
        return status


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    # `--config.FIELD=VALUE` is for the config to check.
    if rest and not (hasattr(parsed, "config") and rest[0].startswith("--config.")):
        parser.error(f"unknown option {rest[0]} (see {parsed.command} --help)")
    parsed.rest = rest
    # As Ctrl-C: a job that is terminated keeps what it has finished.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    parsed.quiet = getattr(parsed, "quiet", False)
    try:
        taken = options.takes_stdout(parsed)
        with (
            progress.output(quiet=parsed.quiet, taken=taken),
            options.copies_of_buckets(parsed),
        ):
            if hasattr(parsed, "model"):  # It is loaded, by JAX, in a second or two.
                progress.greet(_describe_start(parsed))
            return COMMANDS[parsed.command].run(parsed)
    except InputError as error:
        return _print_error(str(error), _BAD_INPUT)
    except KeyboardInterrupt:
        return _print_error("interrupted; what was finished is kept", _INTERRUPTED)
    except OSError as error:
        return _print_error(_format_os_error(error), options.FAILED)
    except UnicodeEncodeError as error:  # ASCII alone, where PYTHONUTF8=0 says so.
        return _print_error(
            f"{error.object}: cannot be named in {error.encoding}, the encoding of the "
            "system's file names; set PYTHONUTF8=1",
            options.FAILED,
        )
    except MemoryError as error:
        more = f" ({error})" if str(error) else ""
        return _print_error(f"the memory does not suffice{more}", options.FAILED)
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        return _print_error(
            "the system starts no more threads; raise the limits of memory (ulimit -v) "
            "and processes (ulimit -u)",
            options.FAILED,
        )
    finally:
        signal.signal(signal.SIGTERM, before)


def _describe_start(parsed: argparse.Namespace) -> str:
    """What is begun: match a.jpg, b.jpg: loading the model."""
    given = (getattr(parsed, name, None) for name in ("images", "paths"))
    paths = next((value for value in given if isinstance(value, list)), [])
    more = [f"{len(paths) - 2} more"] if len(paths) > 2 else []
    named = " ".join([parsed.command, ", ".join([*paths[:2], *more])]).rstrip()
    return f"{named}: loading the model"


def _print_error(message: str, status: int) -> int:
    print(f"error: {progress.printable(message)}", file=sys.stderr)
    return status


def _format_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{where}no space left on the disk; make room and run the same command "
            "again"
        )
    return f"{where}{error.strerror or error}"


def _parser() -> options.Parser:
    parser = options.Parser(
        prog=_PROGRAM,
        description="Deep local and global image features: match two photos, search "
        "many, train.",
        epilog=f"example:  {_PROGRAM} match a.jpg b.jpg --out=matches.png",
    )
    parser.add_argument(
        "--version", action="version", version=f"delf_jax {__version__}"
    )
    parser.add_argument(
        "--print-completion",
        action=completion.PrintCompletion,
        choices=("bash", "zsh"),
        metavar="SHELL",
        help="print a script for bash or zsh that completes commands",
    )
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        examples = (f"  {_PROGRAM} {e}" for e in command.example.split("\n"))
        subparser = parsers.add_parser(
            name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog="\n".join(["example:", *examples]),
        )
        command.add_options(subparser)
    return parser


COMMANDS = {
    "match": Command(
        "match two photos by their local features",
        "match a.jpg b.jpg --out=matches.png",
        search.add_match_options,
        search.run_match,
    ),
    "extract": Command(
        "extract features of images to a feature store",
        "extract photos --out=features\n"
        "extract a --out=b --config.extraction.max_features=500",
        extraction.add_extract_options,
        extraction.run_extract,
    ),
    "detect": Command(
        "find landmarks in photos: boxes, drawn and as files",
        "detect photos --out=boxes\ndetect a.jpg --out=boxes --model=ssd --format=coco",
        detection.add_detect_options,
        detection.run_detect,
    ),
    "index": Command(
        "index photos for search, or add and remove some",
        "index photos --index=photos_index\n"
        "index --index=photos_index --add more/new.jpg\n"
        "index --index=photos_index --remove a/1.jpg",
        index.add_index_options,
        index.run_index,
    ),
    "search": Command(
        "find photos of the same place",
        "search query.jpg --index=photos_index --html=results.html",
        search.add_search_options,
        search.run_search,
    ),
    "serve": Command(
        "serve a search page and an API over an index",
        "serve --index=photos_index\n"
        "serve --index=photos_index --host=0.0.0.0 --token=secret",
        serve.add_serve_options,
        serve.run_serve,
    ),
    "evaluate": Command(
        "score the search of a dataset with ground truth",
        "evaluate gnd_roxford5k.pkl --images=jpg --index=runs/oxford",
        evaluation.add_evaluate_options,
        evaluation.run_evaluate,
    ),
    "calibrate": Command(
        "measure what inliers and similarities are worth",
        "calibrate photos/ --index=runs/photos --model=runs/model",
        evaluation.add_calibrate_options,
        evaluation.run_calibrate,
    ),
    "reproduce": Command(
        "run an experiment of a paper, beside its figures",
        "reproduce --config=configs/r50delg_gld.py --data=data",
        evaluation.add_reproduce_options,
        evaluation.run_reproduce,
    ),
    "rerank": Command(
        "rerank candidates that another search found",
        "rerank found.json --index=photos_index --out=ranking.json\n"
        "rerank a.csv --index=store --with=superglobal --out=r.json",
        search.add_rerank_options,
        search.run_rerank,
    ),
    "download": Command(
        "list datasets and released models, and download them",
        "download gldv2_test --yes --out=data --only='*.csv'\n"
        "download delf_gld --yes --out=models",
        data.add_download_options,
        data.run_download,
    ),
    "gldv2": Command(
        "predict for Google Landmarks v2, and score predictions",
        "gldv2 retrieve data --features=features --out=found.csv\n"
        "gldv2 score retrieval found.csv --solution=right.csv",
        gldv2.add_gldv2_options,
        gldv2.run_gldv2,
    ),
    "train": Command(
        "train a model, or resume its training",
        "train --config=configs/delg_tiny.py --workdir=runs/tiny\n"
        "train --config=my.py --workdir=runs/mine --config.seed=3",
        training.add_train_options,
        training.run_train,
    ),
    "sweep": Command(
        "train a config with several values of some fields",
        "sweep --config=my.py --workdir=runs/sweep --jobs=2\n"
        "sweep --config=my.py --workdir=runs/sweep --dry_run",
        training.add_sweep_options,
        training.run_sweep,
    ),
    "plot": Command(
        "draw the curves of trainings",
        "plot runs/a runs/b --out=curves.png",
        training.add_plot_options,
        training.run_plot,
    ),
    "prepare": Command(
        "resize and store photos for training",
        "prepare --dataset=photos --data=data\n"
        "prepare --dataset=train_clean.csv --data=data --part=0/8",
        data.add_prepare_options,
        data.run_prepare,
    ),
    "convert": Command(
        "convert released or foreign weights to a model folder",
        "convert r50delg_gld_20200814 --out=models/r50delg_gld\n"
        "convert resnet50-0676ba61.pth --out=models/resnet50",
        models.add_convert_options,
        models.run_convert,
    ),
    "inspect": Command(
        "show what a file, a feature store or a model contains",
        "inspect resnet50.pth\ninspect photos_index",
        models.add_inspect_options,
        models.run_inspect,
    ),
    "features": Command(
        "convert a feature store to files of DELF and others",
        "features photos_store photos_delf --to=delf\n"
        "features photos_store photos_hloc --to=hdf5\n"
        "features photos_delf a_store --from=delf --name=delf_gld",
        extraction.add_features_options,
        extraction.run_features,
    ),
    "export": Command(
        "export a model that runs without this project",
        "export runs/tiny/model --format=stablehlo --out=exported",
        models.add_export_options,
        models.run_export,
    ),
    "fit": Command(
        "fit a codebook, PCA, reranker and others",
        "fit codebook features --out=codebook --words=65536\n"
        "fit pca features --out=pca --dimension=64\n"
        "fit whitening features --out=whitening --pairs=pairs.csv\n"
        "fit reranker features --out=reranker\n"
        "fit pairs features --out=pairs.csv",
        index.add_fit_options,
        index.run_fit,
    ),
    "aggregate": Command(
        "aggregate local features by visual words, for search",
        "aggregate index/store --codebook=words --out=index/asmk\n"
        "aggregate features --codebook=words --out=files --to=vlad",
        index.add_aggregate_options,
        index.run_aggregate,
    ),
    "demo": Command(
        "match and search photos of drawn landmarks",
        "demo --out=demo",
        search.add_demo_options,
        search.run_demo,
    ),
}
