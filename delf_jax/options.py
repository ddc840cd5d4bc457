"""The options of each command, and what their values may look like.

Nothing slow is imported here.
"""

import argparse
import json
from typing import Any


def match(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs=2, metavar="IMAGE", help="the two photos")
    _add_out(parser, "figure to write (png, pdf, svg)", default="matches.png")
    parser.add_argument(
        "--json", metavar="FILE", help="matches, and map of photo 2 to photo 1, as JSON"
    )
    _add_config(parser)
    _add_model(parser)


def extract(parser: argparse.ArgumentParser) -> None:
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


def index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="images or folders")
    _add_index(parser)
    parser.add_argument("--add", nargs="+", metavar="PATH", help="images to add")
    parser.add_argument("--remove", nargs="+", metavar="ID", help="images to remove")
    _add_config(parser)
    _add_model(parser)


def search(parser: argparse.ArgumentParser) -> None:
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


def evaluate(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s DATASET (--index DIR | --ranking FILE) ..."
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="ground truth (.mat, .pkl, .json), or a folder of folders",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="its photos (default: jpg or images beside it)"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--index", metavar="DIR", help="folder to keep features in")
    source.add_argument("--ranking", metavar="FILE", help="rankings made elsewhere")
    ways = "global,verification"
    parser.add_argument(
        "--rerank",
        default=ways,
        metavar="WAYS",
        help=f"ways to rank ({ways}), such as superglobal, alpha_qe+verification",
    )
    parser.add_argument(
        "--partial", action="store_true", help="score although photos are missing"
    )
    parser.add_argument("--json", metavar="FILE", help="all results as JSON")
    parser.add_argument("--metrics", metavar="FILE", help="metrics.txt of the original")
    _add_config(parser)
    _add_model(parser)


def train(parser: argparse.ArgumentParser) -> None:
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


def convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a TensorFlow checkpoint, SavedModel or frozen graph (.pb), .h5, .pth or "
        ".safetensors",
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


def inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, folder or prefix")


def features(parser: argparse.ArgumentParser) -> None:
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


def export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a model")
    _add_choice(parser, "format", ("stablehlo", "savedmodel", "onnx"), required=True)
    _add_choice(parser, "what", ("both", "local", "global"), default="both")
    _add_out(parser, "folder to write, which must not exist", required=True)
    parser.add_argument(
        "--scales", type=_numbers, metavar="S,S", help="image scales to use and to fix"
    )
    pools = ("none", "average", "sum")
    _add_choice(
        parser, "pool", pools, "scales of a global savedmodel: ", default="none"
    )
    parser.add_argument(
        "--normalize", action="store_true", help="the descriptors after --pool"
    )
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="of onnx: size of the largest image"
    )


def _add_choice(
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


def fit(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    codebook = kinds.add_parser("codebook", help="visual words, by k-means")
    pca = kinds.add_parser("pca", help="a projection of local descriptors")
    for kind in (codebook, pca):
        kind.add_argument("store", metavar="STORE", help="folder of a feature store")
        _add_out(kind, "folder to write to", required=True)
    for name, default, meaning in (
        ("words", None, "visual words (1024, or as --config says)"),
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
    codebook.add_argument(
        "--config", metavar="FILE", help="a .pbtxt of DELF that says codebook_size"
    )
    pca.add_argument(
        "--dimension", type=int, required=True, metavar="N", help="components kept"
    )
    pca.add_argument(
        "--whiten", action="store_true", help="components get unit variance"
    )


def demo(parser: argparse.ArgumentParser) -> None:
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


def _numbers(text: str) -> tuple[float, ...]:
    """(a, b) of `a,b`."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers, such as 0.7071,1,1.4142"
        ) from None


def _size(text: str) -> tuple[int, int]:
    """(height, width) of `heightxwidth`."""
    try:
        height, width = (int(number) for number in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size, such as 768x1024"
        ) from None
    return height, width
