"""The queries that went worst, and what was found for them, to see why they fail."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.evaluation.evaluation import Evaluation, Row
from delf_jax.progress import track
from delf_jax.search import matching
from delf_jax.search.matching import Verified
from delf_jax.search.pipeline import RankingInputs

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
    order = np.argsort(values, kind="stable")
    return order[~np.isnan(values[order])].tolist()


def find_failures(
    evaluation: Evaluation, count: int, *, progress: bool = True
) -> list[Failure]:
    """The worst queries of the main row, worst first; verified where its ranking is."""
    row = main_row(evaluation)
    queries = worst_first(row)[:count]
    inputs = evaluation.inputs if "verification" in row.ranking else None
    failures = []
    progress = progress and inputs is not None
    with track("report", len(queries), "query", progress=progress) as advance:
        for query in queries:
            failures.append(_failure(evaluation, row, query, inputs))
            advance()
    return failures


def _failure(
    evaluation: Evaluation, row: Row, query: int, inputs: RankingInputs | None
) -> Failure:
    """A query and what was found for it; verified if there are `inputs`."""
    protocol = evaluation.dataset.protocols[row.protocol]
    ranking = evaluation.rankings[row.ranking][row.protocol][query]
    is_junk = np.isin(ranking, protocol.junk[query])
    is_right = np.isin(ranking, protocol.positives[query])
    ranks = np.where(is_junk, 0, np.cumsum(~is_junk))
    late = (_TOP + np.flatnonzero(is_right[_TOP:])[:_LATE]).tolist()
    top = list(range(min(_TOP, len(ranking))))
    verified: dict[int, Verified] = {}
    if inputs is not None:
        (verified,) = matching.verify(
            [inputs.queries[query]],
            [ranking[[*top, *late]]],
            inputs.image,
            inputs.bounds,
            evaluation.verification,
        )

    def found(place: int) -> Found:
        photo = evaluation.dataset.index[ranking[place]]
        kind = "junk" if is_junk[place] else "right" if is_right[place] else "wrong"
        inliers, lines = verified.get(int(ranking[place]), (None, np.zeros((0, 4))))
        if len(lines) > _MOST_LINES:
            lines = lines[np.linspace(0, len(lines) - 1, _MOST_LINES).astype(int)]
        return Found(photo.name, photo.path, int(ranks[place]), kind, inliers, lines)

    return Failure(query, list(map(found, top)), list(map(found, late)))
