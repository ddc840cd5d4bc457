"""Results on a dataset as one HTML file: how well each query went, and why some fail.

Photos are embedded as SVG symbols, so that each stands in the file once and the boxes
of queries lie on top of it; the viewer of all pages shows two with their matches.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float

from delf_jax.evaluation import failures, report
from delf_jax.evaluation.evaluation import Evaluation, Row
from delf_jax.evaluation.failures import Failure, Found
from delf_jax.evaluation.overlap import UNSEEN
from delf_jax.progress import format_count
from delf_jax.report import html
from delf_jax.report.html import Picture, Thumbnail
from delf_jax.search.page import encode_lines

# About 12 kB a photo, each once: twelve for each query are some 3 MB of page.
_SIDE, _QUERIES = 320, 20
# Rows of a table of average precisions.
_MOST_ROWS = 500
# Words, for those who do not see colours.
_MARKS = {"right": "\u2713 right", "wrong": "\u2717 wrong", "junk": "\u00b7 ignored"}

_Photos = Mapping[pathlib.Path, tuple[Picture, Thumbnail]]
_Box = Float[np.ndarray, "4"]


def write_report(
    path: str | os.PathLike, evaluation: Evaluation, *, progress: bool = True
) -> None:
    """Writes the page: settings, results, average precisions, the worst queries."""
    worst = failures.find_failures(evaluation, _QUERIES, progress=progress)
    photos = _read_photos(evaluation, worst, path)
    row = failures.main_row(evaluation)
    queries = format_count(len(failures.worst_first(row)), "query")
    html.write_page(
        "evaluation.html",
        path,
        styles=["look.css", "evaluation.css"],
        scripts=["viewer.js", "evaluation.js"],
        name=evaluation.dataset.name,
        photos=[photo for photo, _ in photos.values()],
        notes=list(report.notes(evaluation)),
        results=report.cells(evaluation),
        settings=_settings(evaluation),
        precisions=list(_precisions(evaluation, worst)),
        intro=f"{len(worst)} of {queries}, by average precision of the ranking "
        f"{row.ranking} under the protocol {row.protocol}",
        queries=[_query(evaluation, each, photos) for each in worst],
    )


def _read_photos(
    evaluation: Evaluation, worst: Sequence[Failure], page: str | os.PathLike
) -> _Photos:
    """Small photos as they are embedded in the page."""
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
        read = pool.map(lambda path: html.read_thumbnail(path, _SIDE), sorted(paths))
        found = [*zip(sorted(paths), read, strict=True)]
    photos = {}
    for number, (path, small) in enumerate(found):
        if small is not None:
            link = html.relative_link(path, page)
            picture = Picture(small.source, link, f"photo-{number}", small.size)
            photos[path] = picture, small
    return photos


def _settings(evaluation: Evaluation) -> dict[str, str]:
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
    return facts


def _precisions(
    evaluation: Evaluation, worst: Sequence[Failure]
) -> Iterable[dict[str, Any]]:
    """For each protocol a table of queries and rankings, worst queries first."""
    main = failures.main_row(evaluation)
    linked = {each.query for each in worst}
    for protocol, rows in _by_protocol(evaluation).items():
        queries = failures.worst_first(rows[-1])
        yield {
            "protocol": protocol,
            "open": protocol == main.protocol,
            "count": format_count(len(queries), "query"),
            "head": ["query", *(row.ranking for row in rows)],
            "rows": [
                {
                    "query": query,
                    "name": evaluation.dataset.queries[query].name,
                    "linked": query in linked,
                    "precisions": [
                        100 * row.metrics.average_precisions[query] for row in rows
                    ],
                }
                for query in queries[:_MOST_ROWS]
            ],
            "more": len(queries) - _MOST_ROWS,
        }


def _query(evaluation: Evaluation, failure: Failure, photos: _Photos) -> dict[str, Any]:
    """One query with its box, the photos found first, right ones that came later."""
    dataset, number = evaluation.dataset, failure.query
    query = dataset.queries[number]
    photo, small = photos.get(query.path, (None, None)) if query.path else (None, None)
    box = _box(evaluation, number, small)
    whole = np.array_equal(box, [0, 0, 1, 1])
    lists = {"Found first": failure.top, "Right, and found later": failure.late}
    return {
        "number": number,
        "name": query.name,
        "photo": photo,
        "box": None if whole or photo is None else _rectangle(box, photo),
        "viewed": "" if whole else json.dumps(box.round(4).tolist()),
        "landmark": "" if dataset.landmarks is None else dataset.landmarks[number],
        "scores": _scores(evaluation, number),
        "lists": {
            title: [_card(each, box, photos) for each in found]
            for title, found in lists.items()
        },
    }


def _scores(evaluation: Evaluation, query: int) -> list[dict[str, Any]]:
    """The average precisions of a query, a line for each protocol."""
    lines = []
    for protocol, rows in _by_protocol(evaluation).items():
        values = {r.ranking: r.metrics.average_precisions[query] for r in rows}
        if not np.isnan([*values.values()]).any():
            scores = [(name, f"{100 * value:.1f}") for name, value in values.items()]
            lines.append({"protocol": protocol, "precisions": scores})
    return lines


def _by_protocol(evaluation: Evaluation) -> dict[str, list[Row]]:
    """Rows of each protocol, but for queries unseen: their precisions are the same."""
    rows: dict[str, list[Row]] = {}
    for row in evaluation.rows:
        if not row.protocol.endswith(UNSEEN):
            rows.setdefault(row.protocol, []).append(row)
    return rows


def _card(found: Found, box: _Box, photos: _Photos) -> dict[str, Any]:
    photo, _ = photos.get(found.path, (None, None)) if found.path else (None, None)
    inliers = "" if found.inliers is None else format_count(found.inliers, "inlier")
    lines = np.array(found.lines)
    # Ends in the box of the query become ends in its photo.
    lines[:, :2] = box[:2] + lines[:, :2] * (box[2:] - box[:2])
    return {
        "image": found.image,
        "kind": found.kind,
        "mark": _MARKS[found.kind],
        "place": "junk" if found.kind == "junk" else found.rank,
        "inliers": inliers,
        "facts": f"{found.kind}, {inliers}" if inliers else found.kind,
        "lines": encode_lines(lines),
        "photo": photo,
    }


def _rectangle(box: _Box, photo: Picture) -> list[str]:
    """x, y, width and height of a box on the thumbnail of a photo."""
    height, width = photo.size
    top, left, bottom, right = box * [height, width, height, width]
    return [f"{value:.1f}" for value in (left, top, right - left, bottom - top)]


def _box(evaluation: Evaluation, query: int, photo: Thumbnail | None) -> _Box:
    """The box of a query in parts of its photo's height and width."""
    boxes = evaluation.dataset.boxes
    if boxes is None or photo is None:
        return np.array([0.0, 0, 1, 1])
    return np.round(boxes[query]) / np.tile(photo.photo_size, 2)
