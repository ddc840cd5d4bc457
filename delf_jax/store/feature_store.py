"""Feature stores: folders that hold the features of many images in a few shards.

    manifest.json        model, settings, number of images, what failed and why
    shards/*.safetensors see shards.py

A shard is written whole and never changed, so a killed job leaves a good store and
resumes where it was, and processes that fill one store do not meet: each adds shards of
its own. What is known of an image is the record of the latest run that touched it.
"""

import functools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from delf_jax.extraction.boxes import RegionBoxes, boxes_of, of_images
from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.regions import extract_regions
from delf_jax.extraction.settings import ExtractionSettings, settings_to_json
from delf_jax.features import Features
from delf_jax.files import InputError, digest
from delf_jax.progress import track
from delf_jax.store import writer as store_files
from delf_jax.store.shards import FORMAT, Record, checksum, is_changed, look_at
from delf_jax.store.writer import Place


class StoreReport(NamedTuple):
    """What a run did, in numbers of images."""

    extracted: int
    unchanged: int
    removed: int
    failed: dict[str, str]
    """id -> reason, of the images of this run"""
    damaged: int = 0
    """shards that were deleted, and their images extracted again"""


class FeatureStore:
    """The images of a store in the order of their ids: store[i] is a `Features`."""

    def __init__(
        self, path: pathlib.Path, manifest: dict[str, Any], records: dict[str, Place]
    ):
        self.records = records
        current = sorted(records.items())
        self._places = [place for _, place in current if place.extracted]
        self.path = path
        self.ids = [place.record.id for place in self._places]
        failed = (p.record for _, p in current if p.record.outcome == "failed")
        self.failed = {record.id: record.reason for record in failed}
        self.manifest = manifest | {"images": len(self.ids), "failed": self.failed}
        self._rows = {id: row for row, id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Features:
        return self._places[row].features()._replace(image=self.ids[row])

    def __iter__(self) -> Iterator[Features]:
        return (self[row] for row in range(len(self)))

    def row(self, id: str) -> int:
        """The place of an image; InputError if the store has none of this id."""
        if id not in self._rows:
            raise InputError(f"{self.path}: no image {id!r}")
        return self._rows[id]

    def read_global(
        self, rows: Iterable[int] | Int[np.ndarray, " N"]
    ) -> Float[np.ndarray, "N G"]:
        """Global descriptors of some images, and of these only."""
        found = []
        for place in (self._places[row] for row in rows):
            descriptors = place.shard.arrays.get("global_descriptors")
            if descriptors is None:
                raise InputError(f"{self.path}: has no global descriptors")
            found.append(descriptors[place.row])
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    @property
    def stamps(self) -> list[str]:
        """One per image, in the order of `ids`: another once it is extracted again."""
        return [digest(place.record, 16) for place in self._places]

    @functools.cached_property
    def global_descriptors(self) -> Float[np.ndarray, "M G"]:
        """One row per image, in the order of `ids`; read once, then kept."""
        return self.read_global(range(len(self)))

    @functools.cached_property
    def state(self) -> str:
        """A short hex string that changes with the images."""
        records = (place.record for place in self._places)
        parts = [json.dumps([r.id, r.sequence, r.sha256, r.modified]) for r in records]
        return digest("".join([str(self.manifest["key"]), *parts]), 16)


def open_store(
    path: str | os.PathLike, *, damaged: list[pathlib.Path] | None = None
) -> FeatureStore:
    """The store at `path`, mapped; InputError if it is absent, damaged or truncated.

    With a list `damaged`, damaged shards are left out and listed there.
    """
    path = pathlib.Path(path)
    manifest = store_files.open_manifest(path)
    shards = store_files.read_shards(path, manifest["key"], damaged)
    return FeatureStore(path, manifest, store_files.current_records(shards))


def join_stores(first: FeatureStore, second: FeatureStore) -> FeatureStore:
    """The images of both as one store, with the manifest of the first.

    InputError if both have an image of one id, or differ in model or settings.
    """
    if first.manifest["key"] != second.manifest["key"]:
        raise InputError(
            f"{second.path}: model or settings do not match those of {first.path}"
        )
    if twice := sorted(first.records.keys() & {*second.ids}):
        raise InputError(
            f"{second.path}: {twice[0]!r} is the id of another image in {first.path}; "
            "extract from a folder above, so that the ids differ"
        )
    return FeatureStore(first.path, first.manifest, second.records | first.records)


def extract_to_store(
    images: Sequence[tuple[str, pathlib.Path]],
    out: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    boxes: RegionBoxes | None = None,
    part: tuple[int, int] | None = None,
    prune: bool = False,
    progress: bool = True,
) -> StoreReport:
    """Brings a store up to date with (id, path) of images; what was done.

    Images whose file is as it was are not extracted again, unless the model or a
    setting is another; those that failed are tried again. However it ends, what was
    finished is written.

    Args:
      boxes: of the images, whose features are extracted, too; where they change, again.
      part: (i, n) takes every n-th image: n processes side by side give the store that
        one would. By default a process takes its part under jax.distributed, else all.
      prune: remove images of the store that are not among `images`.
    """
    out = pathlib.Path(out)
    part = part or (jax.process_index(), jax.process_count())
    manifest = manifest_for(model, settings, boxes is not None)
    key = manifest["key"]
    if store_files.begin(out, manifest) and progress:
        print(f"{out}: made with another model or settings; extracting all again")
    damaged: list[pathlib.Path] = []
    known = store_files.current_records(store_files.read_shards(out, key, damaged))
    for path in damaged:  # They took their names once whole: no work in progress.
        path.unlink(missing_ok=True)
    writer = store_files.Writer(out, key, known.values())
    boxes = boxes and of_images(boxes, [id for id, _ in images])
    ids = {id for id, _ in images}
    others = [id for id, place in known.items() if place.extracted and id not in ids]
    removed = sorted(others)[part[0] :: part[1]] if prune else []
    for id in removed:
        writer.add(Record(id, writer.sequence, "removed"))
    mine = sorted(images)[part[0] :: part[1]]
    todo = []
    for id, path in mine:
        record = look_at(Record(id, writer.sequence, "extracted"), path)
        if (
            id not in known
            or is_changed(path, known[id].record, record)
            or _has_other_boxes(known[id], boxes, settings)
        ):
            todo.append((record, path))
    failed = {}
    try:
        with track("extract", len(todo), progress=progress) as advance:
            for record, features in _extract(todo, model, settings, boxes):
                if features is None:
                    failed[record.id] = record.reason
                writer.add(record, features)
                advance()
    finally:
        writer.flush()
    store_files.finish(out, writer, alone=part[1] == 1)
    extracted, unchanged = len(todo) - len(failed), len(mine) - len(todo)
    return StoreReport(extracted, unchanged, len(removed), failed, len(damaged))


def remove_from_store(path: str | os.PathLike, ids: Iterable[str]) -> None:
    """Removes images; InputError, and none is removed, if one is not there."""
    store = open_store(path)
    ids = list(ids)
    for id in ids:
        if id not in store.failed:
            store.row(id)
    key = store.manifest["key"]
    writer = store_files.Writer(store.path, key, store.records.values())
    for id in ids:
        writer.add(Record(id, writer.sequence, "removed"))
    writer.flush()
    store_files.finish(store.path, writer, alone=True)


def store_key(
    model: Model, settings: ExtractionSettings, with_boxes: bool = False
) -> str:
    """What features depend on beside the image, as a short hex string."""
    made_by = [FORMAT, model.fingerprint, settings_to_json(settings)]
    return digest(made_by + (["boxes"] if with_boxes else []), 16)


def manifest_for(
    model: Model, settings: ExtractionSettings, with_boxes: bool = False
) -> dict[str, Any]:
    """What manifest.json says of a store that is empty."""
    key = store_key(model, settings, with_boxes)
    made_by = {"name": model.name, "fingerprint": model.fingerprint}
    more = {"with_boxes": True} if with_boxes else {}
    return store_files.empty_manifest(key, made_by, settings_to_json(settings), **more)


def _extract(
    todo: Sequence[tuple[Record, pathlib.Path]],
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


def _has_other_boxes(
    place: Place, boxes: RegionBoxes | None, settings: ExtractionSettings
) -> bool:
    """Whether the features of an image are not those of its boxes of now."""
    if boxes is None or not place.extracted:
        return False
    features = place.features()
    try:
        now = boxes_of(boxes, place.record.id, features.image_size, settings)
    except InputError:  # Raised again when the image is extracted.
        return True
    known = () if features.regions is None else features.regions.boxes[1:]
    return not np.array_equal(known, now)


def provenance_of(images: FeatureStore) -> dict[str, Any]:
    """What features something was fitted to."""
    made_by = {key: images.manifest[key] for key in ("model", "settings")}
    return {**made_by, "features_key": images.manifest["key"], "images": len(images)}
