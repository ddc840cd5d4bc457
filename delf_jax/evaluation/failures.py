"""The queries that went worst, and what was found for them, to see why they fail."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.evaluation.evaluation import Evaluation, Row
from delf_jax.features import Features
from delf_jax.progress import track
from delf_jax.search import matching

# The protocol by which queries are sorted: the first of these that has results.
_FIRST = ("medium", "all")
# Photos shown of each ranking, and right ones that come later.
_TOP, _LATE = 8, 3
# More lines than these hide the photos.
_MOST_LINES = 60


class Found(NamedTuple):
    """A photo of the index beside a query."""

    image: str
    path: pathlib.Path | None
    rank: int
    """from 1, among the photos that are not junk; 0 of junk"""
    kind: str
    """"right", "wrong" or "junk\""""
    inliers: int | None
    """None where nothing was verified"""
    lines: Float[np.ndarray, "P 4"]
    """inliers as (y, x) in the query and (y, x) here, in parts of height and width"""


class Failure(NamedTuple):
    """One query and what was found for it."""

    query: int
    top: list[Found]
    late: list[Found]
    """right photos, best first, that are not in `top`"""


def main_row(evaluation: Evaluation) -> Row:
    """The result that decides: the last ranking, under the first protocol."""
    name = evaluation.rows[-1].ranking
    rows = {row.protocol: row for row in evaluation.rows if row.ranking == name}
    return next((rows[each] for each in _FIRST if each in rows), [*rows.values()][0])


def worst_first(row: Row) -> list[int]:
    """Queries with positives, by average precision, worst first."""
    values = row.metrics.average_precisions
    return [
        int(q) for q in np.argsort(values, kind="stable") if not np.isnan(values[q])
    ]


def find_failures(
    evaluation: Evaluation, count: int, *, progress: bool = True
) -> list[Failure]:
    """The worst queries of the main row, worst first; verified where its ranking is."""
    row = main_row(evaluation)
    queries = worst_first(row)[:count]
    verify = evaluation.collection is not None and "verification" in row.ranking
    failures = []
    shown = progress and verify
    with track("report", len(queries), "query", progress=shown) as advance:
        for query in queries:
            failures.append(_failure(evaluation, row, query, verify))
            advance()
    return failures


def _failure(evaluation: Evaluation, row: Row, query: int, verify: bool) -> Failure:
    protocol = evaluation.dataset.protocols[row.protocol]
    ranking = evaluation.rankings[row.ranking][row.protocol][query]
    is_junk = np.isin(ranking, protocol.junk[query])
    is_right = np.isin(ranking, protocol.positives[query])
    ranks = np.where(is_junk, 0, np.cumsum(~is_junk))
    late = np.flatnonzero(is_right)
    late = late[late >= _TOP][:_LATE].tolist()

    def found(place: int) -> Found:
        photo = evaluation.dataset.index[ranking[place]]
        kind = "junk" if is_junk[place] else "right" if is_right[place] else "wrong"
        compared = _compare(evaluation, query, int(ranking[place])) if verify else None
        inliers, lines = compared or (None, np.zeros((0, 4)))
        return Found(photo.name, photo.path, int(ranks[place]), kind, inliers, lines)

    top = [found(place) for place in range(min(_TOP, len(ranking)))]
    return Failure(query, top, [found(place) for place in late])


def _compare(
    evaluation: Evaluation, query: int, place: int
) -> tuple[int, Float[np.ndarray, "P 4"]]:
    """Number of inliers, and where some of them are."""
    collection = evaluation.collection
    asked = collection.queries[query]
    image = collection.store[int(collection.rows[place])]
    how = matching.verification_settings(evaluation.verification)
    found = matching.compare_features(asked, image, collection.max_image_size, how=how)
    lines = matching.inlier_lines(found)
    if len(lines) > _MOST_LINES:
        lines = lines[np.linspace(0, len(lines) - 1, _MOST_LINES).astype(int)]
    return found.inliers, _in_parts(lines, asked, image)


def _in_parts(
    lines: Float[np.ndarray, "P 4"], query: Features, image: Features
) -> Float[np.ndarray, "P 4"]:
    sizes = np.array([*query.image_size, *image.image_size], np.float64)
    return (lines + 0.5) / sizes
