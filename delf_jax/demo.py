"""The demo: draws a small world, matches two of its photos, searches the rest.

What is drawn is known exactly, so the demo measures how well it went.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax import files, images
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import settings_for
from delf_jax.index import photo_index
from delf_jax.progress import format_count, print_results
from delf_jax.report import figures
from delf_jax.retrieval import metrics, ranking
from delf_jax.search import matching, page, query
from delf_jax.search.query import Answer
from delf_jax.synthetic import landmarks

# The figure shows this landmark in these two of its views.
_PAIR_LANDMARK, _PAIR = 8, (0, 3)
# An inlier counts as right within this share of the photo's longer side.
_TOLERANCE = 0.02
_RESULTS = 8  # of each query on the page


class World(NamedTuple):
    """How much is drawn; views are numbered, queries first."""

    landmarks: int = 12
    queries: int = 2  # views of each landmark that are searched for
    views: int = 3  # further views of each landmark that are indexed
    distractors: int = 24  # landmarks that nobody searches for, one view each
    size: tuple[int, int] = (384, 512)  # height, width


DEFAULT = World()


class Outcome(NamedTuple):
    """How well the demo went."""

    before: float
    """mean average precision by global descriptors alone"""
    after: float
    """the same after reranking by local features"""


def run(
    out: str | os.PathLike,
    model: Model,
    world: World = DEFAULT,
    *,
    progress: bool = True,
) -> Outcome:
    """Writes photos, an index, a figure and a page to `out`; prints what it found."""
    out = pathlib.Path(out)
    settings = settings_for(model)
    local = settings.max_features > 0

    count = world.landmarks * (world.queries + world.views) + world.distractors
    print(f"drawing {count} photos of {world.landmarks + world.distractors} landmarks")
    queries = _draw_photos(out, world)

    if local:
        _match_pair(out / "matches.png", model, world.size)
    else:
        print(f"{model.name} has no local features: nothing is matched or reranked")

    photos = [out / "photos"]
    photo_index.make_index(photos, out / "index", model, settings, progress=progress)
    index = photo_index.open_index(out / "index")

    print(f"searching {index} for {len(queries)} queries")
    answers = []
    for answer in query.search(index, queries, model, settings, top=0):
        if isinstance(answer, files.InputError):
            raise answer
        answers.append(answer)

    ids = list(index.store.ids)
    before = mean_average_precision(answers, ids, reranked=False)
    after = mean_average_precision(answers, ids, reranked=True)
    print_results(f"mAP by global descriptors {before:.3f}")
    if local:
        print_results(f"mAP after reranking       {after:.3f}")

    best = [answer._replace(results=answer.results[:_RESULTS]) for answer in answers]
    page.write_page(out / "search.html", best, index.file, "drawn landmarks")
    print(f"photos: {out / 'photos'}")
    if local:
        print(f"figure: {out / 'matches.png'}")
    print(f"page:   {out / 'search.html'}")
    return Outcome(before, after)


def mean_average_precision(
    answers: list[Answer], ids: list[str], reranked: bool
) -> float:
    """mAP against the truth, which is the folder of a photo."""
    rows = {image: row for row, image in enumerate(ids)}
    folders = [pathlib.PurePosixPath(image).parent.name for image in ids]
    precisions = []
    for answer in answers:
        found = np.array([rows[result.image] for result in answer.results])
        if not reranked:
            order = np.argsort(found)
            similarities = [answer.results[i].similarity for i in order]
            found = found[order][ranking.top_k(np.array(similarities, np.float32))]
        truth = answer.path.parent.name
        positives = [row for row, folder in enumerate(folders) if folder == truth]
        precisions.append(metrics.average_precision(found, positives))
    return metrics.mean_over_queries(precisions)


def _draw_photos(out: pathlib.Path, world: World) -> list[pathlib.Path]:
    """The query photos, once all photos are written."""
    queries = []
    for number in range(world.landmarks + world.distractors):
        landmark = landmarks.draw_landmark(landmarks.HELD_OUT + number)
        known = number < world.landmarks
        for i in range(world.queries + world.views if known else 1):
            view = landmarks.draw_view(landmark, i, world.size)
            is_query = known and i < world.queries
            folder = out / ("queries" if is_query else "photos")
            path = folder / f"landmark-{number:02d}" / f"view-{i}.jpg"
            with files.atomic_write(path) as file:
                file.write(images.encode_jpeg(view.image, quality=92))
            if is_query:
                queries.append(path)
    return queries


def _match_pair(path: pathlib.Path, model: Model, size: tuple[int, int]) -> None:
    """Draws the figure, and prints how many inliers show the same place."""
    landmark = landmarks.draw_landmark(landmarks.HELD_OUT + _PAIR_LANDMARK)
    a, b = (landmarks.draw_view(landmark, number, size) for number in _PAIR)
    found = matching.compare_photos(a.image, b.image, model, settings_for(model))
    right = np.count_nonzero(true_inliers(a, b, matching.inlier_lines(found)))
    count = format_count(len(found.pair.matches), "match")
    title = f"{format_count(found.inliers, 'inlier')} of {count}"
    print_results(f"matched a pair: {title}, {right} of them truly the same place")
    local_a, local_b = (features.local for features in found.features)
    assert local_a is not None and local_b is not None
    figure = figures.draw_matches(a.image, b.image, local_a, local_b, found.pair, title)
    figures.write_figure(figure, path)


def true_inliers(
    a: landmarks.View, b: landmarks.View, lines: Float[np.ndarray, "P 4"]
) -> np.ndarray:
    """Which inliers, (y, x) in `a` and (y, x) in `b`, join pictures of one place.

    Whether the place is hidden in `b` does not matter: descriptors look around.
    """
    right = np.zeros(len(lines), bool)
    # Errors count in the picture that shows the place smaller, as in verification.
    for first, second, ends in ((a, b, lines), (b, a, np.roll(lines, 2, axis=1))):
        expected, known = landmarks.project(first, second, ends[:, :2])
        distances = np.linalg.norm(expected - ends[:, 2:], axis=1)
        right |= known & (distances < _TOLERANCE * max(second.camera.size))
    return right
