"""Features of images on their way to a store: by this process, or by a cluster.

Each worker of a cluster writes the images of a share as a shard of its own, and tells
the failures alone.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from delf_jax import runtime
from delf_jax.cluster import jobs
from delf_jax.cluster.shares import Share
from delf_jax.extraction.boxes import RegionBoxes
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.regions import extract_regions
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.store.shards import Record, checksum
from delf_jax.store.writer import Writer, write_share

Todo = Sequence[tuple[Record, pathlib.Path]]
Failures = dict[str, str]


def extract_and_write(
    writer: Writer,
    todo: Todo,
    model: Model,
    settings: ExtractionSettings,
    boxes: RegionBoxes | None,
    ray: str | None,
) -> Iterator[tuple[int, Failures]]:
    """(number, reasons by id of those that failed) of images that were done.

    Args:
      ray: see `feature_store.extract_to_store`.
    """
    if ray is not None:
        yield from _by_cluster(writer, todo, model, settings, boxes, ray)
        return
    for record, features in _extract(todo, model, settings, boxes):
        writer.add(record, features)
        yield 1, {} if features is not None else {record.id: record.reason}


def _by_cluster(
    writer: Writer,
    todo: Todo,
    model: Model,
    settings: ExtractionSettings,
    boxes: RegionBoxes | None,
    ray: str,
) -> Iterator[tuple[int, Failures]]:
    items = [
        (record, path, None if boxes is None else boxes.table.get(record.id, []))
        for record, path in todo
    ]
    place = boxes and boxes.path
    work = functools.partial(_open, writer.out, writer.key, model, settings, place)
    shards = writer.out / "shards"
    seen = next((path for record, path in todo if record.file_size >= 0), "")
    for share, failures, reason in jobs.run(ray, work, items, shards, seen=seen):
        if reason:
            failures = {}
            for record, path, _ in share:
                failures[record.id] = f"{path}: {reason}"
                why = failures[record.id]
                writer.add(record._replace(outcome="failed", reason=why))
        yield len(share), failures


def _open(
    out: pathlib.Path,
    key: str,
    model: Model,
    settings: ExtractionSettings,
    boxes: pathlib.Path | None,
) -> Callable[[Share], Failures]:
    """What a worker does with a share: (record, path, boxes) of some images."""
    runtime.enable_compilation_cache()

    def extract(share: Sequence[tuple[Record, pathlib.Path, Any]]) -> Failures:
        todo = [(record, path) for record, path, _ in share]
        table = {record.id: own for record, _, own in share}
        regions = None if boxes is None else RegionBoxes(boxes, table)
        done = list(_extract(todo, model, settings, regions))
        records = [record for record, _ in done]
        write_share(out, key, records, [x for _, x in done if x is not None])
        return {r.id: r.reason for r in records if r.outcome == "failed"}

    return extract


def _extract(
    todo: Todo,
    model: Model,
    settings: ExtractionSettings,
    boxes: RegionBoxes | None,
) -> Iterator[tuple[Record, Features | None]]:
    """Records with their features, or with the reason why there are none."""
    if boxes is None:
        results = extract_features(model, (path for _, path in todo), settings)
    else:
        found = [(record.id, path) for record, path in todo]
        results = extract_regions(model, found, settings, boxes)
    for (record, path), result in zip(todo, results, strict=True):
        if isinstance(result, InputError):
            yield record._replace(outcome="failed", reason=str(result)), None
        else:
            yield record._replace(sha256=checksum(path, record)), result
