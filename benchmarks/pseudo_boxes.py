"""Boxes of real photos that nobody drew: where verified matches lie, as COCO's JSON.

    python main.py extract PHOTOS --out=runs/features
    python main.py fit pairs runs/features --out=runs/pairs.csv
    python benchmarks/pseudo_boxes.py runs/pairs.csv PHOTOS --out=runs/boxes.json

Photos of one place by several people share the place and little else. Each match of a
photo gives the region that both show; the box reaches from the first to the last tenth
of where these begin and end, so that one that is wrong moves little. Photos with fewer
than two matches are left out. `--empty=FILE` lists photos without a landmark, a name a
line, which a training learns from, too.
"""

import argparse
import collections
import json
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from delf_jax.formats.confirmed_pairs import ConfirmedPair, read_pairs
from delf_jax.formats.tables import read_names
from delf_jax.images import read_size

# Matches of a photo, at least, and how much of where they begin and end is outside.
LEAST, OUTSIDE = 2, 0.1
Box = Float[np.ndarray, "4"]


def region_of_counterpart(pair: ConfirmedPair) -> Box:
    """Of the second photo what matches lie in: the first's region, as it maps there."""
    low, high = (pair.y_min, pair.x_min), (pair.y_max, pair.x_max)
    corners = [(y, x, 1) for y in (low[0], high[0]) for x in (low[1], high[1])]
    affine = [[pair.yy, pair.yx, pair.y0], [pair.xy, pair.xx, pair.x0]]
    mapped = np.array(corners) @ np.transpose(affine)
    return np.clip([*mapped.min(axis=0), *mapped.max(axis=0)], 0, 1)


def boxes_of(pairs: Iterable[ConfirmedPair]) -> dict[str, Box]:
    """A box of each photo that has enough matches, in parts of its sides."""
    regions: dict[str, list[Box]] = collections.defaultdict(list)
    for pair in pairs:
        own = np.array([pair.y_min, pair.x_min, pair.y_max, pair.x_max])
        regions[pair.image].append(own)
        regions[pair.counterpart].append(region_of_counterpart(pair))
    found = {}
    for name, each in regions.items():
        if len(each) >= LEAST:
            low, high = np.split(np.array(each), 2, axis=1)
            first = np.quantile(low, OUTSIDE, axis=0)
            last = np.quantile(high, 1 - OUTSIDE, axis=0)
            found[name] = np.array([*first, *last])
    return found


def to_coco(found: dict[str, Box], photos: pathlib.Path) -> dict[str, list]:
    """As [COCO] has them; of a photo without a landmark the box is empty."""
    images, annotations = [], []
    for number, (name, box) in enumerate(sorted(found.items())):
        height, width = read_size(photos / name)
        size = {"height": height, "width": width}
        images.append({"id": number, "file_name": name, **size})
        if len(box):
            y_min, x_min, y_max, x_max = box * [height, width, height, width]
            sides = np.round([x_min, y_min, x_max - x_min, y_max - y_min], 1)
            annotations.append({"image_id": number, "bbox": sides.tolist()})
    return {"images": images, "annotations": annotations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=pathlib.Path)
    parser.add_argument("photos", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--empty", type=pathlib.Path)
    options = parser.parse_args()
    found = boxes_of(read_pairs(options.pairs))
    empty = read_names(options.empty) if options.empty else ()
    content = to_coco(found | dict.fromkeys(empty, np.zeros(0)), options.photos)
    options.out.write_text(json.dumps(content, indent=1))
    print(f"{options.out}: boxes of {len(found)} photos, {len(empty)} without one")


if __name__ == "__main__":
    main()
