"""A drawn dataset in the shape of Revisited Oxford, in a folder as it is downloaded.

python -m tests.drawn FOLDER
"""

import pathlib
import sys

import numpy as np

from delf_jax import images, synthetic
from delf_jax.formats import revisited

SIZE = (144, 192)
LANDMARKS, VIEWS, QUERIES, OTHERS = 4, 6, 2, 6


def draw_dataset(folder: pathlib.Path, *, training: int = 4) -> pathlib.Path:
    """Writes FOLDER/drawn: gnd_drawn.json and jpg/; and training/ beside it.

    Of each landmark two views are asked for; of the others two are easy, one is hard
    and one is junk. Half of a landmark's queries are cropped.
    """
    root = folder / "drawn"
    index = [f"place{n}_{v}" for n in range(LANDMARKS) for v in range(QUERIES, VIEWS)]
    queries = [f"place{n}_{v}" for n in range(LANDMARKS) for v in range(QUERIES)]
    for number in range(LANDMARKS):
        for view in range(VIEWS):
            _write(root / "jpg" / f"place{number}_{view}.jpg", number, view)
    for number in range(OTHERS):
        index.append(f"other{number}")
        _write(root / "jpg" / f"other{number}.jpg", LANDMARKS + number, 0)
    for number in range(training):
        path = folder / "training" / f"{number}.jpg"
        _write(path, LANDMARKS + OTHERS + number, 0)
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


def _write(path: pathlib.Path, number: int, view: int) -> None:
    landmark = synthetic.draw_landmark(synthetic.HELD_OUT + number)
    drawn = synthetic.draw_view(landmark, view, SIZE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode_jpeg(drawn.image, 92))


if __name__ == "__main__":
    print(draw_dataset(pathlib.Path(sys.argv[1])))
