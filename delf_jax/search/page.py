"""Search results as one HTML file that needs nothing but itself."""

import html
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from delf_jax.progress import format_count
from delf_jax.report.html import breakable, fill_template, read_thumbnail
from delf_jax.search.query import Answer, Result
from delf_jax.search.verdict import Verdict

# Enough to see detail under match lines, at about 40 kB a photo.
_THUMBNAIL = 560
# With --top=0, a page of thousands of photos would open in no browser.
_MOST_RESULTS = 60
# Places along a side of a photo, in which the template reads the ends of lines.
_UNIT = 10_000
# As many inliers fill the bar of a card: beyond, no one doubts.
_FULL_BAR = 60

_Photos = dict[pathlib.Path, str | None]


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
    photos = _read_photos(
        {answer.path for answer in answers}
        | {file_of(result.image) for result in results}
    )
    summary = format_count(len(answers), "query")
    summary += f" in {description}" if description else ""
    parts = {
        "summary": html.escape(summary),
        "navigation": _navigation(answers, photos) if len(answers) > 1 else "",
        "queries": "\n".join(
            _section(number, answer, file_of, photos)
            for number, answer in enumerate(answers, 1)
        ),
    }
    fill_template("page.html", parts, path)


def _navigation(answers: Sequence[Answer], photos: _Photos) -> str:
    links = (
        f'<a href="#query-{number}" title="{html.escape(answer.image)}">'
        f"{_picture(photos[answer.path], answer.image)}</a>"
        for number, answer in enumerate(answers, 1)
    )
    return f'<nav aria-label="Queries">{"".join(links)}</nav>'


def _section(
    number: int, answer: Answer, file_of: Callable[[str], pathlib.Path], photos: _Photos
) -> str:
    """One query and the cards of its results."""
    results = answer.results[:_MOST_RESULTS]
    cards = "\n".join(
        f"<li>{_card(rank, result, photos[file_of(result.image)], answer.verdict)}</li>"
        for rank, result in enumerate(results, 1)
    )
    name = breakable("/".join(pathlib.PurePath(answer.image).parts[-2:]))
    count = format_count(len(results), "result")
    if len(results) < len(answer.results):
        count = f"{len(results)} of {len(answer.results)} results"
    return (
        f'<section id="query-{number}">\n<figure class="query">'
        f"{_picture(photos[answer.path], 'query')}"
        f'<figcaption><h2 title="{html.escape(answer.image)}">{name}</h2>'
        f'<p class="quiet">Query {number} &middot; {count}</p></figcaption></figure>\n'
        f"<div>{_doubt(answer.verdict)}<ol>\n{cards}\n</ol></div>\n</section>"
    )


def _doubt(verdict: Verdict) -> str:
    """What stands above results none of which is more than chance."""
    if not (text := str(verdict)):
        return ""
    what, _, why = text.partition(": ")
    what = what[0].upper() + what[1:]
    return f'<p class="doubt"><strong>{what}</strong> &middot; {why}</p>\n'


def _card(rank: int, result: Result, photo: str | None, verdict: Verdict) -> str:
    """One result: a button that opens the two photos with their matches.

    Its number of inliers is green where it is more than chance.
    """
    folder, _, name = result.image.rpartition("/")
    similarity = f"{result.similarity:.3f}"
    if result.inliers is None:
        score, facts = '<span class="none">not verified</span>', "not verified"
    else:
        facts = format_count(result.inliers, "inlier")
        mark = "b" if verdict.of(result.inliers) else "span"
        score = f"<{mark}>{facts}</{mark}>"
    width = min(100, 100 * (result.inliers or 0) / _FULL_BAR)
    lines = np.rint(np.asarray(result.lines) * _UNIT).astype(int).tolist()
    image = html.escape(result.image)
    return (
        f'<button type="button" class="card" data-image="{image}" '
        f'data-facts="{facts}, similarity {similarity}" '
        f'data-lines="{json.dumps(lines, separators=(",", ":"))}">'
        f'<span class="photo">{_picture(photo, result.image)}'
        f'<span class="rank">{rank}</span></span>'
        f'<span class="facts"><span class="name" title="{image}">{breakable(name)}'
        f'</span><span class="folder">{html.escape(folder)}</span>'
        f'<span class="scores">{score}'
        f'<span class="none">similarity {similarity}</span></span>'
        f'<span class="bar"><i style="width:{width:.0f}%"></i></span></span></button>'
    )


def _picture(photo: str | None, label: str) -> str:
    if photo is None:
        return '<span class="absent">photo not found</span>'
    return f'<img src="{photo}" alt="{html.escape(label)}" loading="lazy">'


def _read_photos(paths: set[pathlib.Path]) -> _Photos:
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda path: read_thumbnail(path, _THUMBNAIL), paths)
        return {p: each and each.source for p, each in zip(paths, read, strict=True)}
