"""Search results as one HTML file, and the cards that the served page shows as well."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.progress import format_count
from delf_jax.report import html
from delf_jax.report.html import Picture
from delf_jax.search.query import Answer, Result
from delf_jax.search.verdict import Verdict

# Thumbnails of few photos show detail by themselves, at 40 kB each; of many each takes
# 7 kB, so that 33 queries with ten photos each are less than 4 MB.
_FEW, _LARGE, _SMALL = 60, (560, 76), (224, 60)
# A page of the list; photos behind it are not embedded, but linked.
_PAGE = 60
# With --top=0, a page of thousands of photos would open in no browser.
_MOST_RESULTS = 600
# Places along a side of a photo, in which the viewer reads the ends of lines.
_UNIT = 10_000
# As many inliers fill the bar of a card: beyond, no one doubts.
_FULL_BAR = 60

_Photos = dict[pathlib.Path, Picture | None]


class Card(NamedTuple):
    """One result as the macro `found` of parts.html shows it."""

    rank: int
    image: str
    folder: str
    name: str
    similarity: str
    inliers: str | None
    """their number, with its unit; None: not verified"""
    confident: bool | None
    """shown in green: more than chance"""
    facts: str
    width: int
    """of the bar, in percent"""
    lines: str
    """JSON: (y, x) in the query and (y, x) here, in ten thousandths"""
    photo: Picture | None


def write_page(
    path: str | os.PathLike,
    answers: Sequence[Answer],
    file_of: Callable[[str], pathlib.Path],
    description: str = "",
) -> None:
    """Writes the page: each query with its best photos, match lines on demand.

    `file_of` gives the photo of a result; one that is gone is shown as absent.
    `description` says in a few words what was searched.
    """
    results = [r for answer in answers for r in answer.results[:_MOST_RESULTS]]
    first = [r for answer in answers for r in answer.results[:_PAGE]]
    small = {answer.path for answer in answers} | {file_of(r.image) for r in first}
    photos = _link_photos({file_of(r.image) for r in results} - small, path)
    photos |= _embed_photos(sorted(small), path)
    summary = format_count(len(answers), "query")
    html.write_page(
        "results.html",
        path,
        styles=["look.css", "results.css"],
        scripts=["viewer.js", "results.js"],
        summary=f"{summary} in {description}" if description else summary,
        photos=html.embedded([*photos.values()]),
        queries=[_query(answer, file_of, photos) for answer in answers],
    )


def format_cards(
    results: Iterable[Result],
    verdict: Verdict,
    picture: Callable[[str], Picture | None],
    first: int = 1,
) -> list[Card]:
    """The results as cards.

    Args:
      picture: of a result by its id.
      first: rank of the first.
    """
    return [
        _card(rank, result, verdict, picture(result.image))
        for rank, result in enumerate(results, first)
    ]


def format_doubt(verdict: Verdict) -> tuple[str, str] | None:
    """What stands above results none of which is more than chance, and why."""
    what, _, why = str(verdict).partition(": ")
    return (what[0].upper() + what[1:], why) if what else None


def encode_lines(lines: Float[np.ndarray, "P 4"]) -> str:
    """Lines in parts of photos as the JSON that the viewer reads."""
    places = np.rint(np.asarray(lines) * _UNIT).astype(int).tolist()
    return json.dumps(places, separators=(",", ":"))


def _query(
    answer: Answer, file_of: Callable[[str], pathlib.Path], photos: _Photos
) -> dict[str, Any]:
    """One query and the cards of its results."""
    results = answer.results[:_MOST_RESULTS]
    count = format_count(len(results), "result")
    if len(results) < len(answer.results):
        count = f"{len(results)} of {len(answer.results)} results"
    cards = format_cards(results, answer.verdict, lambda id: photos[file_of(id)])
    return {
        "image": answer.image,
        "name": "/".join(pathlib.PurePath(answer.image).parts[-2:]),
        "count": count,
        "photo": photos[answer.path],
        "doubt": format_doubt(answer.verdict),
        "cards": cards,
    }


def _card(rank: int, result: Result, verdict: Verdict, photo: Picture | None) -> Card:
    folder, _, name = result.image.rpartition("/")
    similarity = f"{result.similarity:.3f}"
    inliers = result.inliers
    words = None if inliers is None else format_count(inliers, "inlier")
    return Card(
        rank,
        result.image,
        folder,
        name,
        similarity,
        words,
        verdict.of(inliers),
        f"{words or 'not verified'}, similarity {similarity}",
        round(min(100, 100 * (inliers or 0) / _FULL_BAR)),
        encode_lines(result.lines),
        photo,
    )


def _embed_photos(paths: Sequence[pathlib.Path], page: str | os.PathLike) -> _Photos:
    """Photos whose thumbnails are in the page, by their paths; None if one is gone."""
    side, quality = _LARGE if len(paths) <= _FEW else _SMALL
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda path: html.read_thumbnail(path, side, quality), paths)
        found = [*zip(paths, read, strict=True)]
    return {
        path: photo
        and Picture(
            photo.source, html.relative_link(path, page), f"photo-{number}", photo.size
        )
        for number, (path, photo) in enumerate(found)
    }


def _link_photos(paths: Iterable[pathlib.Path], page: str | os.PathLike) -> _Photos:
    """Photos that are read when they are looked at."""
    found: _Photos = {}
    for path in paths:
        link = html.relative_link(path, page)
        found[path] = Picture(link, link) if path.is_file() else None
    return found
