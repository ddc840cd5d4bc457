"""The demo: matches two photos of a drawn village, and searches the rest.

What is drawn is known exactly, so the demo measures how well it went.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax import files
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import settings_for
from delf_jax.index import photo_index
from delf_jax.progress import format_count, print_results
from delf_jax.report import figures
from delf_jax.retrieval import metrics, ranking
from delf_jax.search import matching, page, query
from delf_jax.search.query import Answer
from delf_jax.synthetic.correspondence import View, load_views, project

# Drawn beforehand by synthetic/village.py, which needs packages of training.
VILLAGE = pathlib.Path(__file__).parent / "bundled" / "village"
# An inlier counts as right within this share of the photo's longer side.
_TOLERANCE = 0.02
_RESULTS = 8  # of each query on the page


class Outcome(NamedTuple):
    """How well the demo went."""

    before: float
    """mean average precision by global descriptors alone"""
    after: float
    """the same after reranking by local features"""


def run(
    out: str | os.PathLike,
    model: Model,
    village: str | os.PathLike = VILLAGE,
    *,
    progress: bool = True,
) -> Outcome:
    """Writes photos, an index, a figure and a page to `out`; prints what it found."""
    out, village = pathlib.Path(out), pathlib.Path(village)
    settings = settings_for(model)
    local = settings.max_features > 0

    queries = _copy_photos(village, out)
    if local:
        _match_pair(out / "matches.png", model, load_views(village / "pair.npz"))
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


def _copy_photos(village: pathlib.Path, out: pathlib.Path) -> list[pathlib.Path]:
    """The query photos, once all photos are in `out`."""
    photos = sorted(path.relative_to(village) for path in village.glob("*/*/*.jpg"))
    landmarks = {path.parent.name for path in photos}
    print(f"{len(photos)} drawn photos of {len(landmarks)} landmarks")
    for path in photos:
        with files.atomic_write(out / path) as file:
            file.write((village / path).read_bytes())
    return [out / path for path in photos if path.parts[0] == "queries"]


def _match_pair(path: pathlib.Path, model: Model, pair: list[View]) -> None:
    """Draws the figure, and prints how many inliers show the same place."""
    a, b = pair
    found = matching.compare_photos(a.image, b.image, model, settings_for(model))
    right = np.count_nonzero(true_inliers(a, b, matching.inlier_lines(found)))
    count = format_count(len(found.pair.matches), "match")
    title = f"{format_count(found.inliers, 'inlier')} of {count}"
    print_results(f"matched a pair: {title}, {right} of them truly the same place")
    local_a, local_b = (features.local for features in found.features)
    assert local_a is not None and local_b is not None
    figure = figures.draw_matches(a.image, b.image, local_a, local_b, found.pair, title)
    figures.write_figure(figure, path)


def true_inliers(a: View, b: View, lines: Float[np.ndarray, "P 4"]) -> np.ndarray:
    """Which inliers, (y, x) in `a` and (y, x) in `b`, join pictures of one place.

    Whether the place is hidden in `b` does not matter: descriptors look around.
    """
    right = np.zeros(len(lines), bool)
    # Errors count in the picture that shows the place smaller, as in verification.
    for first, second, ends in ((a, b, lines), (b, a, np.roll(lines, 2, axis=1))):
        expected, known = project(first, second, ends[:, :2])
        distances = np.linalg.norm(expected - ends[:, 2:], axis=1)
        right |= known & (distances < _TOLERANCE * max(second.camera.size))
    return right
