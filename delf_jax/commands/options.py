"""What several commands share: options, the model, results as JSON, the last line."""

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

from delf_jax.cluster import buckets
from delf_jax.files import STDOUT, InputError, is_stdout, write_json
from delf_jax.progress import print_failures, print_results

FAILED = 1
# They work on files for as long as they run, or on the network.
WITHOUT_BUCKETS = ("train", "sweep", "serve", "download")
# What commands write to, where it is not --out, or not that alone.
WRITTEN = {
    "index": ("index",),
    "evaluate": ("index",),
    "calibrate": ("index", "model"),
    "features": ("target",),
    "prepare": ("data",),
}
# Options whose value stands after `=`, as what follows them is a path; and what they
# mean without one.
ALONE = {"--ray": "", "--detect": "bundled"}
# Where workers of a cluster get photos themselves, and the options that name those.
FAR, PHOTOS = ("extract", "index", "detect", "prepare"), ("paths", "add", "images")


class Parser(argparse.ArgumentParser):
    """Of the program and of each command: all have --quiet; none takes empty values."""

    def __init__(self, **kwargs: Any):
        # Indented by two, as is usual, names of nine letters take a line of their own.
        formatter = functools.partial(
            argparse.RawDescriptionHelpFormatter, indent_increment=1
        )
        super().__init__(formatter_class=formatter, allow_abbrev=False, **kwargs)
        self.register("type", None, _not_empty)
        self.add_argument(
            "-q",
            "--quiet",
            action="store_true",
            # A default of a command would undo what stands before its name.
            default=argparse.SUPPRESS,
            help="print results and errors only",
        )

    def add_subparsers(self, **kwargs: Any) -> Any:
        parsers = super().add_subparsers(**kwargs)
        parsers.type = str  # What follows a command is for its own parser to check.
        return parsers

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        args = [f"{word}={ALONE[word]}" if word in ALONE else word for word in args]
        return super().parse_known_args(args, namespace)

    def add_value(self, name: str, metavar: str, meaning: str, **kwargs: Any) -> None:
        self.add_argument(name, metavar=metavar, help=meaning, **kwargs)

    def add_number(self, name: str, meaning: str, **kwargs: Any) -> None:
        self.add_value(name, "N", meaning, type=int, **kwargs)

    def add_flag(self, name: str, meaning: str) -> None:
        self.add_argument(name, action="store_true", help=meaning)

    def add_choice(
        self, name: str, choices: tuple[str, ...], meaning: str = "", **kwargs: Any
    ) -> None:
        meaning += " | ".join(choices)
        metavar = name.removeprefix("--").upper()
        self.add_value(name, metavar, meaning, choices=choices, **kwargs)

    def add_out(self, meaning: str, **kwargs: Any) -> None:
        self.add_value("--out", "OUT", meaning, **kwargs)

    def add_file(
        self, name: str, meaning: str, metavar: str = "FILE", **kwargs: Any
    ) -> None:
        """A file to write, which may be standard output; `files` lists the options."""
        self.add_value(name, metavar, meaning, **kwargs)
        files = self.get_default("files") or ()
        self.set_defaults(files=(*files, name.removeprefix("--")))

    def add_part(self) -> None:
        meaning = "the I-th of N shares only; I from 0 to N-1"
        self.add_value("--part", "I/N", meaning, type=parse_part)

    def add_ray(self) -> None:
        """--ray, one of `ALONE`."""
        meaning = "work on a Ray cluster, or without =ADDRESS here"
        self.add_value("--ray", "=ADDRESS", meaning, nargs="?", type=str)

    def add_json(self, meaning: str = "results as JSON") -> None:
        self.add_file("--json", f"{meaning} (-: standard output)")

    def add_prune(self) -> None:
        meaning = "forget images whose files are gone; says how many"
        self.add_flag("--prune", meaning)

    def add_verification(self) -> None:
        meaning = "settings of verification: default, delg, d2r"
        self.add_value("--verification", "NAME", meaning, default="default")

    def add_codebook(self) -> None:
        meaning = "visual words of ASMK* and VLAD; kept with the index"
        self.add_value("--codebook", "DIR", meaning)

    def add_detect(self) -> None:
        """--detect, one of `ALONE`."""
        meaning = "also features of boxes that a detector finds"
        self.add_value("--detect", "=DIR", meaning, nargs="?")

    def add_reranker(self) -> None:
        meaning = "of the step learned; see `fit reranker`"
        self.add_value("--reranker", "DIR", meaning)

    def add_settings(self) -> None:
        """The options that `model_and_settings` reads."""
        files = "a file of configs/, or a .pbtxt of DELF"
        fields = "--config.extraction.FIELD=VALUE replaces one"
        self.add_value("--config", "FILE", f"settings: {files}; {fields}")
        self.add_model()
        meaning = "folder of another model, for global descriptors"
        self.add_value("--global_model", "DIR", meaning)
        self.add_choice("--engine", ("jax", "openvino"), "what runs the network: ")

    def add_model(self) -> None:
        meaning = "folder of a model (default: the bundled one)"
        self.add_value("--model", "DIR", meaning)


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a value, got an empty one")
    return text


def model_and_settings(
    options: argparse.Namespace, index: str | None = None
) -> tuple[Any, Any]:
    """The model and the settings that options choose.

    Args:
      index: the folder of one, or of a store, that may say which models made it.
    """
    prepare_jax()
    from delf_jax.data.released_catalogue import command_for
    from delf_jax.extraction.config import open_model, read_extraction_config

    path, folder = getattr(options, "config", None), options.model
    other = getattr(options, "global_model", None) or _recorded(index, "global_model")
    config, lines = read_extraction_config(
        path, options.rest, global_model=other is not None
    )
    print(*lines, sep="\n", end="\n" * bool(lines))
    if getattr(options, "engine", None):
        config.extraction.engine = options.engine
    if not folder and not config.model:
        folder = _recorded(index, "model")
    return open_model(config, folder, command_for(config.model), global_model=other)


def _recorded(index: str | None, name: str) -> str | None:
    from delf_jax.index.photo_index import recorded_model

    return None if index is None else recorded_model(index, name)


def prepare_jax() -> None:
    from delf_jax import runtime

    runtime.enable_compilation_cache()


def check_one_of_parts(options: argparse.Namespace) -> None:
    """InputError if work is dealt out twice."""
    if options.part and options.ray is not None:
        raise InputError("--part, --ray: use one of them; --ray deals out the parts")


@contextlib.contextmanager
def copies_of_buckets(options: argparse.Namespace) -> Iterator[None]:
    """While it lasts, paths of a command that lead to buckets are those of copies."""
    values = vars(options)
    urls = buckets.addresses(values)
    if not urls:
        yield
        return
    if options.command in WITHOUT_BUCKETS:
        raise InputError(
            f"{urls[0]}: {options.command} works on files of the system; mount the "
            "bucket, as by gcsfuse or mount-s3, and name the folder"
        )
    from delf_jax import runtime

    kept = runtime.cache_directory()
    if kept is None:
        raise InputError(
            f"{urls[0]}: what lies in buckets is copied to the cache folder; let "
            "DELF_JAX_CACHE name one"
        )
    # Workers of a cluster get photos for themselves.
    far = options.command in FAR and options.ray is not None
    written = [*WRITTEN.get(options.command, ("out",)), *getattr(options, "files", ())]
    with buckets.mirrored(values, kept.parent, written, PHOTOS if far else ()):
        yield


def takes_stdout(options: argparse.Namespace) -> bool:
    """Whether a file is written to standard output; InputError if several are."""
    names = getattr(options, "files", ())
    paths = {name: getattr(options, name) for name in names}
    found = [f"--{name}" for name, path in paths.items() if path and is_stdout(path)]
    if len(found) > 1:
        raise InputError(f"{' and '.join(found)}: only one can be standard output")
    if getattr(options, "out", None) == STDOUT and "out" not in names:
        raise InputError(f"--out={STDOUT}: name a folder, not standard output")
    return bool(found)


def write_result(options: argparse.Namespace, value: Any) -> None:
    """Writes what --json asks for, if it does."""
    if options.json:
        write_json(options.json, value)
        print_written("JSON", options.json)


def print_written(kind: str, path: str) -> None:
    """Prints where a file was written, unless to standard output."""
    if not is_stdout(path):
        print(f"{kind}: {path}")


def print_report(
    report: Any, out: str, done: str = "extracted", kept: str = "kept from before"
) -> int:
    """Prints what was done, and why images failed; 1 if none could be used, else 0."""
    print_failures(report.failed.values())
    counts = f"{report.extracted} {done}, {report.unchanged} unchanged"
    if report.removed:
        counts += f", {report.removed} removed"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    if report.kept:
        counts += f", {report.kept} {kept}"
    if report.damaged:
        counts += f", {report.damaged} damaged shards replaced"
    print_results(f"{out}: {counts}")
    return 0 if report.extracted + report.unchanged else FAILED


def print_shortfall(store: Any) -> None:
    """Prints that a feature store is incomplete, if it is."""
    if store.shortfall:
        advice = "run the command that made it again to finish it"
        print_results(f"{store.path}: {store.shortfall}; {advice}")


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
