"""The command that finds landmarks in photos: detect."""

import argparse
import functools
from typing import Any

from delf_jax.commands.options import (
    Parser,
    prepare_jax,
    print_report,
    write_result,
)
from delf_jax.progress import format_count


def add_detect_options(parser: Parser) -> None:
    images = "images, folders of images, or @LIST: a file of paths"
    parser.add_argument("paths", nargs="+", metavar="PATH", help=images)
    parser.add_out("folder of boxes and figures", required=True)
    meaning = "folder of a detector (default: the bundled one)"
    parser.add_value("--model", "DIR", meaning)
    meaning = "least score of a box (0.3)"
    parser.add_value("--threshold", "SCORE", meaning, type=float, default=0.3)
    meaning = "of OUT/boxes.csv, OUT/NAME.boxes or OUT/coco.json: "
    parser.add_choice("--format", ("csv", "boxes", "coco"), meaning, default="csv")
    parser.add_json("boxes as JSON")
    parser.add_ray()


def finder(detector: str | None, folder: str, ray: str | None = None) -> Any:
    """What finds the boxes of photos and keeps them in `folder`; None without one."""
    if not detector:
        return None
    from delf_jax.detection.detect import open_detector
    from delf_jax.detection.results import detected_boxes

    model = open_detector(detector)
    out = f"{folder}/boxes"
    return functools.partial(detected_boxes, out=out, model=model, ray=ray)


def run_detect(options: argparse.Namespace) -> int:
    prepare_jax()
    from delf_jax.detection.detect import open_detector
    from delf_jax.detection.one_call import check_threshold
    from delf_jax.detection.results import detect_to_folder, to_json
    from delf_jax.image_files import find_images

    check_threshold(options.threshold)
    model = open_detector(options.model)
    report, found = detect_to_folder(
        find_images(options.paths),
        options.out,
        model,
        options.threshold,
        options.format,
        ray=options.ray,
    )
    write_result(options, to_json(found, model))
    boxes = sum(len(each.scores) for each in found.values())
    print(f"{format_count(boxes, 'box')} in {format_count(len(found), 'photo')}")
    return print_report(report, options.out, done="detected")
