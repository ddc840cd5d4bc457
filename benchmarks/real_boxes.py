"""Boxes that a detector finds in real photos, beside those drawn by hand.

    python benchmarks/real_boxes.py [--model=DIR] [--boxes=FILE] [--photos=DIR]

FILE is of COCO's form, DIR the folder that its names start from. boxes/validation.json
has 76 photos with a box, of the landmarks that no training of ours sees, and 68 without
a landmark. Prints AP50 and AP of the former and the overlap of the best box; and for a
few thresholds in how many photos of either kind a box is found: a detector that parts
them finds many of the former, none of the latter.
"""

import argparse
import pathlib

import numpy as np

from delf_jax.detection.detect import detect_images, open_detector
from delf_jax.evaluation.detection import Found, average_precision
from delf_jax.files import InputError
from delf_jax.formats.datasets.coco import read_coco
from delf_jax.models.detectors.anchors import intersection_over_union

BOXES = pathlib.Path(__file__).parent / "boxes" / "validation.json"
THRESHOLDS = (0.2, 0.3, 0.4, 0.5)


def overlap_of_best(found: Found) -> float:
    """The intersection over union of the best box and the one of the truth."""
    overlaps = intersection_over_union(found.boxes[:1], found.truth.astype(np.float32))
    return float(overlaps.max(initial=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--boxes", type=pathlib.Path, default=BOXES)
    parser.add_argument("--photos", type=pathlib.Path, default="../shared")
    options = parser.parse_args()
    if not options.photos.is_dir():
        print(f"skipped: {options.photos}, the folder of the photos, is not there")
        return
    truth = read_coco(options.boxes)
    paths = [options.photos / name for name in truth]
    with_one: list[Found] = []
    best: dict[bool, list[float]] = {True: [], False: []}
    for name, each in zip(
        truth, detect_images(open_detector(options.model), paths), strict=True
    ):
        if isinstance(each, InputError):
            raise each
        sides = np.array([*each.image_size] * 2)
        found = Found(each.boxes, each.scores, truth[name] * sides)
        best[len(found.truth) > 0].append(max(each.scores, default=0))
        if len(found.truth):
            with_one.append(found)
    average = average_precision(with_one)
    overlap = np.median([overlap_of_best(found) for found in with_one])
    print(f"{len(with_one)} photos with a box: AP50 {average['AP50']:.3f}, ", end="")
    print(f"AP {average['AP']:.3f}, overlap of the best box {overlap:.2f} (median)")
    for threshold in THRESHOLDS:
        shares = [np.mean(np.array(best[kind]) >= threshold) for kind in (True, False)]
        print(
            f"score of {threshold} or more: in {shares[0]:.0%} of these, and in "
            f"{shares[1]:.0%} of {len(best[False])} without one"
        )


if __name__ == "__main__":
    main()
