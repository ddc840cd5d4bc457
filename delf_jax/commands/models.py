"""Commands on models and files: convert, inspect, export."""

import argparse
import json
from typing import Any

from delf_jax.commands.options import Parser, model_and_settings
from delf_jax.progress import print_results


def add_convert_options(parser: Parser) -> None:
    tensorflow = "a TensorFlow checkpoint, SavedModel or frozen graph (.pb)"
    parser.add_value("source", "SOURCE", f"{tensorflow}, .h5, .pth or .safetensors")
    parser.add_out("model folder to write", required=True)
    parser.add_value("--mapping", "FILE", "JSON with the names of other tensors")
    whitening = "SfM-120k's .pkl for the global descriptors of this network"
    parser.add_value("--whitening", "FILE", whitening)
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        metavar="NAME=VALUE",
        help="a field of the architecture or the extraction, such as "
        "block3_strides=false or attention_threshold=175",
    )


def run_convert(options: argparse.Namespace) -> int:
    from delf_jax.conversion import convert

    convert.convert(
        options.source,
        options.out,
        mapping=options.mapping,
        settings=dict(options.set or ()),
        whitening=options.whitening,
    )
    return 0


def add_inspect_options(parser: Parser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, folder or prefix")
    parser.add_flag("--all", "list each tensor of weights, too")


def run_inspect(options: argparse.Namespace) -> int:
    from delf_jax.inspection import describe

    print_results(describe.format_contents(options.path, everything=options.all))
    return 0


def add_export_options(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a model")
    forms = ("stablehlo", "savedmodel", "onnx", "hub-folder")
    parser.add_argument(
        *("--format", "--to"),
        metavar="FORMAT",
        choices=forms,
        required=True,
        help=" | ".join(forms),
    )
    parser.add_choice("--what", ("both", "local", "global"), default="both")
    parser.add_out("folder to write, which must not exist", required=True)
    parser.add_value("--scales", "S,S", "image scales to use and to fix", type=_numbers)
    pools = ("none", "average", "sum")
    meaning = "scales of a global savedmodel: "
    parser.add_choice("--pool", pools, meaning, default="none")
    parser.add_flag("--normalize", "the descriptors after --pool")
    iou = "overlap above which the weaker of two features goes (the model's)"
    parser.add_value("--iou", "IOU", iou, type=float)
    parser.add_value("--size", "HxW", "of onnx: size of the largest image", type=_size)


def run_export(options: argparse.Namespace) -> int:
    model, _ = model_and_settings(options)
    from delf_jax.export import export
    from delf_jax.export.options import ExportOptions

    names = ExportOptions._fields
    export_options = ExportOptions(**{name: getattr(options, name) for name in names})
    summary = export.export_model(model, options.format, options.out, export_options)
    for title, arrays in (("in", summary.inputs), ("out", summary.outputs)):
        for name, signature in arrays.items():
            print_results(f"{title:>4}  {name:<24} {signature}")
    for note in summary.notes:
        print(f"note: {note}")
    print(f"{options.format}: {options.out}")
    return 0


def _setting(text: str) -> tuple[str, Any]:
    """(name, value) of `name=value`; the value is JSON, or else text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value, parse_constant=str)
    except ValueError:
        return name, value


def _numbers(text: str) -> tuple[float, ...]:
    """(a, b) of `a,b`."""
    from delf_jax.formats.tables import read_float

    try:
        return tuple(map(read_float, text.split(",")))
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
