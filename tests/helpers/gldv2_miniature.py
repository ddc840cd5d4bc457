"""Google Landmarks v2 in miniature: all its files in their formats, images drawn."""

import pathlib

from delf_jax import images
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2
from delf_jax.synthetic.landmarks import HELD_OUT, draw_landmark, draw_view

SIZE = (96, 128)
# Landmark ids of index and train are different numbers for the same place.
TRAIN_IDS, INDEX_IDS = (30, 7, 200000), (5, 6, 9)


def image_id(split: str, place: int, view: int) -> str:
    """16 characters, as in the release."""
    return f"{place:x}{view:x}0{split:0>13}"


def write(data: pathlib.Path) -> pathlib.Path:
    """The folder of the release: three places, each seen twice in index and train.

    A test image shows each of them, one shows nothing of the kind, one is ignored.
    """
    landmarks = [draw_landmark(HELD_OUT + n) for n in range(4)]

    def draw(split, place, view):
        path = gldv2.image_path(data / split, image_id(split, place, view))
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = draw_view(landmarks[min(place, 3)], view, SIZE)
        path.write_bytes(images.encode_jpeg(drawn.image, 92))
        return path.stem

    index = {n: [draw("index", n, view) for view in (1, 2)] for n in range(3)}
    train = {n: [draw("train", n, view) for view in (3, 4)] for n in range(3)}
    test = [draw("test", n, 0) for n in range(5)]
    index_rows = [(id, INDEX_IDS[n]) for n, ids in index.items() for id in ids]
    train_rows = [(id, TRAIN_IDS[n]) for n, ids in train.items() for id in ids]
    rows = [(id, "http://example.org/a.jpg", landmark) for id, landmark in train_rows]
    tables.write_rows(data / "train.csv", ("id", "url", "landmark_id"), rows)
    tables.write_rows(data / "index.csv", ("id",), [row[:1] for row in index_rows])
    tables.write_rows(
        data / "index_image_to_landmark.csv", ("id", "landmark_id"), index_rows
    )
    tables.write_rows(data / "test.csv", ("id",), [(id,) for id in test])
    retrieval = gldv2.Solution(
        {test[0]: index[0], test[1]: index[1]}, {test[2]: index[2]}, test[3:]
    )
    recognition = gldv2.Solution(
        {test[0]: [TRAIN_IDS[0]], test[3]: []},
        {test[1]: [TRAIN_IDS[1]], test[2]: [TRAIN_IDS[2], 12]},
        test[4:],
    )
    for task, solution in (("retrieval", retrieval), ("recognition", recognition)):
        path = data / f"{task}_solution_v2.1.csv"
        gldv2.write_solution(path, solution, task)
    return data
