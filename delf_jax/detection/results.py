"""A folder of boxes: what `detect` found in photos, drawn and as files.

    detections.json   all boxes of all photos, whatever their score: what resumes
    NAME_boxes.jpg    a photo with the boxes from the threshold on
    boxes.csv         those boxes in pixels of the photos; or
    NAME.boxes        as the original stores them; or
    coco.json         as [COCO] has them

NAME is the id of a photo without its extension. Every file is written whole. An index
or a store, whose features are of boxes, too, keeps the first file alone.
"""

import collections
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from delf_jax import runtime
from delf_jax.cluster import jobs
from delf_jax.cluster.shares import Share
from delf_jax.detection.detect import (
    Detections,
    Detector,
    detect_images,
    open_detector,
    select,
)
from delf_jax.detection.saved_model import SavedDetector
from delf_jax.extraction.boxes import RegionBoxes
from delf_jax.files import InputError, sha256_of, write_bytes, write_json
from delf_jax.formats import tables
from delf_jax.formats.delf.boxes import write_boxes
from delf_jax.image_files import open_file
from delf_jax.images import encode_jpeg, read_image
from delf_jax.manifests import (
    MODEL,
    POSITIVE,
    SHA256,
    one_of,
    owned,
    read_manifest,
    write_manifest,
)
from delf_jax.progress import track
from delf_jax.report.boxes import draw_boxes
from delf_jax.store.delf_files import file_names
from delf_jax.store.feature_store import StoreReport

Id = str
FORMATS = ("csv", "boxes", "coco")
STATE, CSV, COCO = "detections.json", "boxes.csv", "coco.json"
COLUMNS = ("image", "y_min", "x_min", "y_max", "x_max", "score", "class")
_SCHEMA = {
    "format": one_of(1),
    "model": MODEL,
    "images": {
        str: {
            "sha256": SHA256,
            "size": [POSITIVE],
            "boxes": [[float]],
            "scores": [float],
            "classes": [int],
            "drawn?": float,
        }
    },
}
_REPAIR = "remove it, and the same command detects again"
# Seconds between two states on disk: what a killed job has to do again.
_EVERY = 10.0
_FIGURE_QUALITY = 88


def detect_to_folder(
    found: Sequence[tuple[Id, pathlib.Path]],
    out: str | os.PathLike,
    model: Detector,
    threshold: float = 0.0,
    layout: str = "",
    *,
    ray: str | None = None,
    progress: bool = True,
) -> tuple[StoreReport, dict[Id, Detections]]:
    """Brings a folder up to date with photos; what was done, and the boxes of each.

    What it has of other photos stays. Photos whose files have the same bytes are not
    looked at again. InputError if two photos would share a file, or the folder has
    boxes of another model.

    Args:
      threshold: least score of a box in figures, files and what is returned.
      layout: one of FORMATS; without, no figures and files are written.
      ray: address of a cluster that detects and draws; "": one on this machine.
    """
    out = pathlib.Path(out)
    state = _open_state(out / STATE, model)
    names = _names(state, found, out) if layout else {}
    images, failed, detected = state["images"], {}, 0
    before, job = [*images], _Job(out, model, threshold)
    written = time.monotonic()
    with track("detection", len(found), progress=progress) as advance:
        try:
            for id, entry, is_new in _looked_at(job, found, images, names, ray):
                if isinstance(entry, str):
                    failed[id] = entry
                    images.pop(id, None)
                else:
                    detected += is_new
                    images[id] = entry
                advance()
                if time.monotonic() - written > _EVERY:
                    write_manifest(out / STATE, state)
                    written = time.monotonic()
        finally:
            # Workers are done in any order.
            order = dict.fromkeys([*before, *(id for id, _ in found)])
            images = {id: images[id] for id in order if id in images}
            write_manifest(out / STATE, state | {"images": images})
    chosen = {id: select(_detections(id, x), threshold) for id, x in images.items()}
    if layout:
        _WRITERS[layout](out, dict(sorted(chosen.items())))
    asked = {id for id, _ in found} - failed.keys()
    unchanged, kept = len(asked) - detected, len(images) - len(asked)
    report = StoreReport(detected, unchanged, 0, failed, kept=kept)
    return report, {id: chosen[id] for id in sorted(asked)}


def detected_boxes(
    found: Sequence[tuple[Id, pathlib.Path]],
    out: str | os.PathLike,
    model: Detector,
    *,
    ray: str | None = None,
    progress: bool = True,
) -> RegionBoxes:
    """All boxes of photos, as extraction takes them; what is known stays in `out`."""
    _, boxes = detect_to_folder(found, out, model, ray=ray, progress=progress)
    table: dict[Id, list[Any]] = {
        id: [np.c_[each.boxes, each.scores].astype(float)] if len(each.scores) else []
        for id, each in boxes.items()
    }
    return RegionBoxes(pathlib.Path(out), table)


def to_json(found: Mapping[Id, Detections], model: Detector) -> dict[str, Any]:
    """What --json writes: boxes in pixels by photo, best first."""
    return {
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "images": {
            id: {
                "size": list(each.image_size),
                "boxes": each.boxes.tolist(),
                "scores": each.scores.tolist(),
                "classes": each.class_indices.tolist(),
            }
            for id, each in found.items()
        },
    }


def _open_state(path: pathlib.Path, model: Detector) -> dict[str, Any]:
    """What is there, or nothing yet; InputError if another model found it."""
    known = {"name": model.name, "fingerprint": model.fingerprint}
    if not path.exists():
        return {"format": 1, "model": known, "images": {}}
    state = read_manifest(path, _SCHEMA, _REPAIR)
    if state["model"]["fingerprint"] != model.fingerprint:
        raise InputError(
            f"{path.parent}: has boxes of model {state['model']['name']}, not of "
            f"{model.name}: choose another --out, or remove {path}"
        )
    for id, entry in state["images"].items():
        counts = {len(entry[name]) for name in ("boxes", "scores", "classes")}
        sides = {len(box) for box in entry["boxes"]} | {4}
        if len(counts) != 1 or sides != {4} or len(entry["size"]) != 2:
            raise InputError(f"{path}: images.{id}: damaged; {_REPAIR}")
    return state


def _names(
    state: Mapping[str, Any],
    found: Sequence[tuple[Id, pathlib.Path]],
    out: pathlib.Path,
) -> dict[Id, str]:
    """By id the name of a photo's files, which no other photo's files have."""
    ids = [*{id: None for id, _ in found} | dict.fromkeys(state["images"])]
    return dict(zip(ids, file_names(ids, out), strict=True))


class _Job(NamedTuple):
    """What is done with photos."""

    out: pathlib.Path
    model: Any
    """a detector, or the folder of one"""
    threshold: float


# What became of a photo: its entry, or why there is none, and whether it is new.
_Outcome = tuple[Id, dict[str, Any] | str, bool]


def _looked_at(
    job: _Job,
    found: Sequence[tuple[Id, pathlib.Path]],
    known: Mapping[Id, Any],
    names: Mapping[Id, str],
    ray: str | None,
) -> Iterator[_Outcome]:
    """What became of each photo; figures of those with names are brought up to date."""
    if ray is None:
        yield from _detect_and_draw(job, found, known, names)
        return
    if isinstance(job.model, SavedDetector):  # Of TensorFlow: it cannot be sent.
        job = job._replace(model=job.model.folder)
    items = [(id, path, known.get(id), names.get(id)) for id, path in found]
    work, seen = functools.partial(_open_work, job), found[0][1] if found else ""
    for share, outcomes, reason in jobs.run(ray, work, items, job.out, seen=seen):
        for id, path, _, _ in share if reason else ():
            yield id, f"{path}: {reason}", False
        yield from outcomes or ()
    jobs.clear_after(_figure(job.out, name) for name in names.values())


def _open_work(job: _Job) -> Callable[[Share], list[_Outcome]]:
    """What a worker of a cluster does with a share: photos, known entries, names."""
    runtime.enable_compilation_cache()
    job = job._replace(model=open_detector(job.model))

    def work(share: Share) -> list[_Outcome]:
        found = [(id, path) for id, path, _, _ in share]
        known = {id: entry for id, _, entry, _ in share if entry is not None}
        names = {id: name for id, _, _, name in share if name is not None}
        return list(_detect_and_draw(job, found, known, names))

    return work


def _detect_and_draw(
    job: _Job,
    found: Sequence[tuple[Id, pathlib.Path]],
    known: Mapping[Id, Any],
    names: Mapping[Id, str],
) -> Iterator[_Outcome]:
    for id, path, entry in _detect(found, job.model, known):
        is_new = entry is not known.get(id)
        use = None if isinstance(entry, InputError) else entry
        if id in names:
            _draw(job.out, names[id], path, use, job.threshold)
        yield id, str(entry) if use is None else use, is_new


def _detect(
    found: Sequence[tuple[Id, pathlib.Path]], model: Detector, known: Mapping[Id, Any]
) -> Iterator[tuple[Id, pathlib.Path, dict[str, Any] | InputError]]:
    """The entry of each photo, which is the known one where its bytes are the same."""
    waiting: collections.deque[_Photo] = collections.deque()

    def todo() -> Iterator[pathlib.Path]:
        for id, path in found:
            photo = _look_at(id, path, known.get(id))
            waiting.append(photo)
            if photo.entry is None:
                yield path

    for each in detect_images(model, todo()):
        while waiting[0].entry is not None:
            yield waiting.popleft().result
        photo = waiting.popleft()
        entry = each if isinstance(each, InputError) else _entry(each, photo.sha256)
        yield photo._replace(entry=entry).result
    yield from (photo.result for photo in waiting)


class _Photo(NamedTuple):
    """A photo, and what is known of it before it is decoded."""

    id: Id
    path: pathlib.Path
    sha256: str
    entry: Any
    """None: it is to be looked at"""

    @property
    def result(self) -> tuple[Id, pathlib.Path, Any]:
        return self.id, self.path, self.entry


def _look_at(id: Id, path: pathlib.Path, known: Mapping[str, Any] | None) -> _Photo:
    try:
        with open_file(path):  # A FIFO is not waited for.
            sha256 = sha256_of(path)
    except InputError as error:
        return _Photo(id, path, "", error)
    same = known is not None and known["sha256"] == sha256
    return _Photo(id, path, sha256, known if same else None)


def _entry(found: Detections, sha256: str) -> dict[str, Any]:
    return {
        "sha256": sha256,
        "size": list(found.image_size),
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
        "classes": found.class_indices.tolist(),
    }


def _detections(id: Id, entry: Mapping[str, Any]) -> Detections:
    return Detections(
        np.array(entry["boxes"], np.float32).reshape(-1, 4),
        np.array(entry["scores"], np.float32),
        np.array(entry["classes"], np.int32),
        (entry["size"][0], entry["size"][1]),
        id,
    )


def _draw(
    out: pathlib.Path,
    name: str,
    path: pathlib.Path,
    entry: dict[str, Any] | None,
    threshold: float,
) -> None:
    """Writes the figure of a photo, if it is not there with this threshold.

    Without an entry it goes, as does the file that an earlier run has written.
    """
    figure = owned(_figure(out, name))
    if entry is None:
        figure.unlink(missing_ok=True)
        (out / f"{name}.boxes").unlink(missing_ok=True)
        return
    if entry.get("drawn") == threshold and figure.exists():
        return
    found = select(_detections(name, entry), threshold)
    drawn = draw_boxes(read_image(path), found.boxes, found.scores)
    write_bytes(figure, encode_jpeg(drawn, quality=_FIGURE_QUALITY))
    entry["drawn"] = float(threshold)


def _figure(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / f"{name}_boxes.jpg"


def _write_csv(out: pathlib.Path, found: Mapping[Id, Detections]) -> None:
    rows = (
        (id, *box, score, index)
        for id, each in found.items()
        for box, score, index in _rows(each)
    )
    tables.write_rows(owned(out / CSV), COLUMNS, rows)


def _write_boxes(out: pathlib.Path, found: Mapping[Id, Detections]) -> None:
    for name, each in zip(file_names([*found], out), found.values(), strict=True):
        parts = each.boxes / np.array([*each.image_size] * 2, np.float32)
        path = owned(out / f"{name}.boxes")
        write_boxes(path, parts, each.scores, each.class_indices)


def _write_coco(out: pathlib.Path, found: Mapping[Id, Detections]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (id, each) in enumerate(found.items(), 1):
        height, width = each.image_size
        images.append({"id": number, "file_name": id, "height": height, "width": width})
        for (y_min, x_min, y_max, x_max), score, index in _rows(each):
            sides = x_max - x_min, y_max - y_min
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": index,
                "bbox": [x_min, y_min, *sides],
                "area": sides[0] * sides[1],
                "iscrowd": 0,
                "score": score,
            }
            annotations.append(annotation)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "landmark"}],
    }
    write_json(owned(out / COCO), content)


def _rows(found: Detections) -> Iterator[tuple[list[float], float, int]]:
    numbers = found.boxes.tolist(), found.scores.tolist(), found.class_indices.tolist()
    return zip(*numbers, strict=True)


_WRITERS = {"csv": _write_csv, "boxes": _write_boxes, "coco": _write_coco}
