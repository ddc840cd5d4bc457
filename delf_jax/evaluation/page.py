"""Results on a dataset as one HTML file: how well each query went, and why some fail.

Photos are drawn as SVG, so that each stands in the file once and boxes and match lines
lie on top of it; only sorting needs a script.
"""

import html
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from delf_jax.evaluation import failures, report
from delf_jax.evaluation.evaluation import Evaluation, Row
from delf_jax.evaluation.failures import Failure, Found
from delf_jax.evaluation.overlap import UNSEEN
from delf_jax.progress import format_count
from delf_jax.report.html import Thumbnail, breakable, fill_template, read_thumbnail

# About 12 kB a photo, each once: twelve for each query are some 3 MB of page.
_SIDE, _QUERIES = 320, 20
# Rows of a table of average precisions.
_MOST_ROWS = 500
_GAP = 8

_Photos = dict[pathlib.Path, tuple[str, Thumbnail]]
_Box = Float[np.ndarray, "4"]


def write_report(
    path: str | os.PathLike, evaluation: Evaluation, *, progress: bool = True
) -> None:
    """Writes the page: settings, results, average precisions, the worst queries."""
    worst = failures.find_failures(evaluation, _QUERIES, progress=progress)
    photos = _read_photos(evaluation, worst)
    row = failures.main_row(evaluation)
    queries = format_count(len(failures.worst_first(row)), "query")
    name = html.escape(evaluation.dataset.name)
    parts = {
        "title": name,
        "photos": "".join(map(_symbol, photos.values())),
        "name": name,
        "summary": "<br>".join(map(html.escape, report.notes(evaluation))),
        "results": _results(evaluation),
        "settings": _settings(evaluation),
        "precisions": "\n".join(_precisions(evaluation, worst)),
        "intro": html.escape(
            f"{len(worst)} of {queries}, by average precision of the ranking "
            f"{row.ranking} under the protocol {row.protocol}"
        ),
        "queries": "\n".join(_section(evaluation, each, photos) for each in worst),
    }
    fill_template("evaluation.html", parts, path)


def _read_photos(evaluation: Evaluation, worst: Sequence[Failure]) -> _Photos:
    """Small photos with the ids that they have on the page."""
    paths = {
        path
        for each in worst
        for path in (
            evaluation.dataset.queries[each.query].path,
            *(found.path for found in (*each.top, *each.late)),
        )
        if path is not None
    }
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda path: read_thumbnail(path, _SIDE), sorted(paths))
        found = zip(sorted(paths), read, strict=True)
        return {
            path: (f"photo-{number}", thumbnail)
            for number, (path, thumbnail) in enumerate(found)
            if thumbnail is not None
        }


def _symbol(photo: tuple[str, Thumbnail]) -> str:
    name, (source, (height, width), _) = photo
    return (
        f'<symbol id="{name}" viewBox="0 0 {width} {height}">'
        f'<image href="{source}" width="{width}" height="{height}"/></symbol>\n'
    )


def _results(evaluation: Evaluation) -> str:
    header, *rows = report.cells(evaluation)
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _settings(evaluation: Evaluation) -> str:
    facts = {"ground truth (SHA-256)": evaluation.dataset.version}
    if evaluation.inputs is not None:
        manifest = evaluation.inputs.store.manifest
        facts["model"] = manifest["model"]["name"]
        facts["weights (SHA-256)"] = manifest["model"]["fingerprint"]
        if "global_model" in manifest:
            facts["global model"] = manifest["global_model"]["name"]
            fingerprint = manifest["global_model"]["fingerprint"]
            facts["its weights (SHA-256)"] = fingerprint
        settings = manifest["settings"]
        facts |= {name: json.dumps(value) for name, value in settings.items()}
    return "\n".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in facts.items()
    )


def _precisions(evaluation: Evaluation, worst: Sequence[Failure]) -> Iterable[str]:
    """For each protocol a table of queries and rankings, worst queries first."""
    main = failures.main_row(evaluation)
    linked = {each.query for each in worst}
    for protocol, rows in _by_protocol(evaluation).items():
        queries = failures.worst_first(rows[-1])
        head = "".join(
            f'<th scope="col"><button type="button">{html.escape(name)}</button></th>'
            for name in ("query", *(row.ranking for row in rows))
        )
        body = "\n".join(
            _precision_row(evaluation, query, rows, query in linked)
            for query in queries[:_MOST_ROWS]
        )
        more = len(queries) - _MOST_ROWS
        note = f'<p class="quiet">and {more} better ones</p>' if more > 0 else ""
        yield (
            f"<details{' open' if protocol == main.protocol else ''}>"
            f"<summary>{html.escape(protocol)}: "
            f"{format_count(len(queries), 'query')}</summary>"
            f'<div class="wide" tabindex="0" role="region" aria-label="Average '
            f'precisions, {html.escape(protocol)}"><table class="sortable"><thead><tr>'
            f"{head}</tr></thead><tbody>\n{body}\n</tbody></table>{note}</div></details>"
        )


def _precision_row(
    evaluation: Evaluation, query: int, rows: Sequence, linked: bool
) -> str:
    name = breakable(evaluation.dataset.queries[query].name)
    if linked:
        name = f'<a href="#query-{query}">{name}</a>'
    cells = "".join(
        f'<td class="bar" style="--part:{100 * value:.1f}%">{100 * value:.1f}</td>'
        for value in (row.metrics.average_precisions[query] for row in rows)
    )
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _section(evaluation: Evaluation, failure: Failure, photos: _Photos) -> str:
    """One query with its box, the photos found first, right ones that came later."""
    dataset, query = evaluation.dataset, failure.query
    photo = dataset.queries[query]
    picture = photos.get(photo.path) if photo.path else None
    box = _box(evaluation, query, picture and picture[1])
    lists = ""
    kinds = {"Found first": failure.top, "Right, and found later": failure.late}
    for title, found in kinds.items():
        cards = [f"<li>{_card(each, picture, box, photos)}</li>" for each in found]
        if cards:
            lists += f"<h4>{title}</h4>\n<ol>\n" + "\n".join(cards) + "\n</ol>\n"
    return (
        f'<section id="query-{query}">\n<figure class="query">'
        f"{_picture(picture, f'query {photo.name}', box)}"
        f"<figcaption><h3>{breakable(photo.name)}</h3>"
        f'<p class="quiet">{_scores(evaluation, query)}</p></figcaption></figure>\n'
        f"<div>{lists}</div>\n</section>"
    )


def _scores(evaluation: Evaluation, query: int) -> str:
    """What a query shows, and its average precisions, a line for each protocol."""
    lines = []
    for protocol, rows in _by_protocol(evaluation).items():
        values = {r.ranking: r.metrics.average_precisions[query] for r in rows}
        scores = ", ".join(
            f"{html.escape(name)} <b>{100 * value:.1f}</b>"
            for name, value in values.items()
        )
        if not np.isnan([*values.values()]).any():
            lines.append(f"{html.escape(protocol)}: {scores}")
    landmarks = evaluation.dataset.landmarks
    first = [] if landmarks is None else [html.escape(landmarks[query])]
    return "<br>".join([*first, *lines])


def _by_protocol(evaluation: Evaluation) -> dict[str, list[Row]]:
    """Rows of each protocol, but for queries unseen: their precisions are the same."""
    rows: dict[str, list[Row]] = {}
    for row in evaluation.rows:
        if not row.protocol.endswith(UNSEEN):
            rows.setdefault(row.protocol, []).append(row)
    return rows


def _card(
    found: Found, query: tuple[str, Thumbnail] | None, box: _Box, photos: _Photos
) -> str:
    photo = photos.get(found.path) if found.path else None
    rank = "junk" if found.kind == "junk" else f"{found.rank}"
    score = ""
    if found.inliers is not None:
        score = format_count(found.inliers, "inlier")
        if len(found.lines) and photo and query:
            drawn = _pair(query, photo, found, box)
            score = f"<details><summary>{score}</summary>{drawn}</details>"
    picture = _picture(photo, f"{found.kind}: {found.image}")
    return (
        f'<figure class="{found.kind}">{picture}'
        f'<figcaption><b class="mark">{rank} {_MARKS[found.kind]}</b>'
        f'<span class="name">{breakable(found.image)}</span>'
        f'<span class="score">{score}</span></figcaption></figure>'
    )


# Words, for those who do not see colours.
_MARKS = {
    "right": "&#10003; right",
    "wrong": "&#10007; wrong",
    "junk": "&middot; ignored",
}


def _picture(
    photo: tuple[str, Thumbnail] | None, label: str, box: _Box | None = None
) -> str:
    """A photo, with a box in parts of height and width drawn on it."""
    if photo is None:
        return '<span class="absent">photo not found</span>'
    name, (_, (height, width), _) = photo
    drawn = ""
    if box is not None and not np.array_equal(box, [0, 0, 1, 1]):
        top, left, bottom, right = box * [height, width, height, width]
        drawn = (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}"/>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label)}"><use href="#{name}" width="{width}" '
        f'height="{height}"/>{drawn}</svg>'
    )


def _pair(
    query: tuple[str, Thumbnail], photo: tuple[str, Thumbnail], found: Found, box: _Box
) -> str:
    """Query and photo side by side at one height, inliers joined."""
    names, height = (query[0], photo[0]), _SIDE
    widths = [height * (size[1] / size[0]) for _, size, _ in (query[1], photo[1])]
    ends = np.array(found.lines)
    ends[:, :2] = box[:2] + ends[:, :2] * (box[2:] - box[:2])
    ends *= [height, widths[0], height, widths[1]]
    ends[:, 3] += widths[0] + _GAP
    path = "".join(f"M{xa:.0f},{ya:.0f}L{xb:.0f},{yb:.0f}" for ya, xa, yb, xb in ends)
    uses = "".join(
        f'<use href="#{name}" x="{left:.1f}" width="{width:.1f}" height="{height}"/>'
        for name, left, width in zip(names, (0, widths[0] + _GAP), widths, strict=True)
    )
    matches = format_count(found.inliers or 0, "match")
    label = html.escape(f"{matches} of the query with {found.image}")
    return (
        f'<svg viewBox="0 0 {sum(widths) + _GAP:.1f} {height}" role="img" '
        f'aria-label="{label}">{uses}<path class="rim" d="{path}"/>'
        f'<path d="{path}"/></svg>'
    )


def _box(evaluation: Evaluation, query: int, photo: Thumbnail | None) -> _Box:
    """The box of a query in parts of its photo's height and width."""
    boxes = evaluation.dataset.boxes
    if boxes is None or photo is None:
        return np.array([0.0, 0, 1, 1])
    return np.round(boxes[query]) / np.tile(photo.photo_size, 2)
