"""The village of the demo: photos of drawn landmarks, and the truth of one pair.

The package has it drawn, in `bundled/village`; this drew it:

    python -c "from delf_jax.synthetic import village; village.draw(FOLDER)"

and `jpegtran -optimize -progressive` made its photos smaller by a twentieth, with the
same pixels.
"""

import os
import pathlib
from typing import NamedTuple

from delf_jax import files, images
from delf_jax.synthetic import landmarks
from delf_jax.synthetic.correspondence import save_views

# This landmark is matched in these two of its views.
_PAIR_LANDMARK, _PAIR = 8, (0, 3)


class World(NamedTuple):
    """How much is drawn; views are numbered, queries first."""

    landmarks: int = 12
    queries: int = 2  # views of each landmark that are searched for
    views: int = 3  # further views of each landmark that are indexed
    distractors: int = 24  # landmarks that nobody searches for, one view each
    size: tuple[int, int] = (384, 512)  # height, width


WORLD = World()


def draw(folder: str | os.PathLike, world: World = WORLD) -> None:
    """Writes queries/LANDMARK/VIEW.jpg, photos/ likewise, and pair.npz."""
    folder = pathlib.Path(folder)
    for number in range(world.landmarks + world.distractors):
        landmark = landmarks.draw_landmark(landmarks.HELD_OUT + number)
        known = number < world.landmarks
        for i in range(world.queries + world.views if known else 1):
            view = landmarks.draw_view(landmark, i, world.size)
            side = "queries" if known and i < world.queries else "photos"
            path = folder / side / f"landmark-{number:02d}" / f"view-{i}.jpg"
            with files.atomic_write(path) as file:
                file.write(
                    images.encode_jpeg(view.image, quality=50)
                )  # The wheel stays small.
    landmark = landmarks.draw_landmark(landmarks.HELD_OUT + _PAIR_LANDMARK)
    pair = [landmarks.draw_view(landmark, number, world.size) for number in _PAIR]
    save_views(folder / "pair.npz", pair)
