"""A drawn dataset in the shape of Revisited Oxford, in a folder as it is downloaded.

python -m tests.helpers.drawn FOLDER
"""

import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from delf_jax import images
from delf_jax.formats.datasets import revisited
from delf_jax.synthetic import landmarks

SIZE = (144, 192)
LANDMARKS, VIEWS, QUERIES, OTHERS, TRAINING = 3, 6, 2, 4, 3


def draw_dataset(folder: pathlib.Path) -> pathlib.Path:
    """Writes FOLDER/drawn: gnd_drawn.json and jpg/; and training/ beside it.

    Of each landmark two views are queries, the second one cropped; of the others two
    are easy, one is hard and one is junk.
    """
    root, others = folder / "drawn", LANDMARKS + OTHERS
    index = [f"place{n}_{v}" for n in range(LANDMARKS) for v in range(QUERIES, VIEWS)]
    queries = [f"place{n}_{v}" for n in range(LANDMARKS) for v in range(QUERIES)]
    for n in range(LANDMARKS):
        views = {v: root / "jpg" / f"place{n}_{v}.jpg" for v in range(VIEWS)}
        _draw(n, views)
    for n in range(OTHERS):
        index.append(f"other{n}")
        _draw(LANDMARKS + n, {0: root / "jpg" / f"other{n}.jpg"})
    for n in range(TRAINING):
        _draw(others + n, {0: folder / "training" / f"{n}.jpg"})
    first = np.repeat(np.arange(LANDMARKS) * (VIEWS - QUERIES), QUERIES)
    height, width = SIZE
    boxes = [[0, 0, height, width], [10, 8, height - 6, width - 12]]
    truth = revisited.GroundTruth(
        index,
        queries,
        boxes=np.array(boxes * LANDMARKS, np.float64),
        easy=[np.array([i, i + 1], np.int32) for i in first],
        hard=[np.array([i + 2], np.int32) for i in first],
        junk=[np.array([i + 3], np.int32) for i in first],
    )
    revisited.write_ground_truth(root / "gnd_drawn.json", truth)
    return folder


def _draw(number: int, views: Mapping[int, pathlib.Path]) -> None:
    landmark = landmarks.draw_landmark(landmarks.HELD_OUT + number)
    for view, path in views.items():
        drawn = landmarks.draw_view(landmark, view, SIZE)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode_jpeg(drawn.image, 92))


if __name__ == "__main__":
    print(draw_dataset(pathlib.Path(sys.argv[1])))
