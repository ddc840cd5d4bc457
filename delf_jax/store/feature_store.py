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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from delf_jax.extraction.boxes import RegionBoxes, boxes_of, of_images
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import (
    ExtractionSettings,
    global_settings,
    settings_to_json,
)
from delf_jax.features import Features
from delf_jax.files import InputError, digest
from delf_jax.images import SizeBounds
from delf_jax.progress import format_count, track
from delf_jax.store import extraction
from delf_jax.store import writer as store_files
from delf_jax.store.shards import (
    FORMAT,
    Record,
    Shard,
    is_absent,
    is_changed,
    look_at,
    read_global,
    why_unreadable,
)
from delf_jax.store.writer import Place

# Global descriptors that are read at a time: they stay in the processor's cache.
_ROWS = 2048


class StoreReport(NamedTuple):
    """What a run did, in numbers of images."""

    extracted: int
    unchanged: int
    removed: int
    failed: dict[str, str]
    """id -> reason, of the images of this run"""
    damaged: int = 0
    """shards that were deleted, and their images extracted again"""
    kept: int = 0
    """images of the store that were not among those of this run"""


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
        self.pending = [id for id, p in current if p.record.outcome == "pending"]
        """images that a run has not reached: it was interrupted, or goes on"""
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
        rows = np.fromiter(rows, np.int64)
        if not len(rows):
            return np.zeros((0, 0), np.float32)
        shards, of_images = self._shards
        numbers, places = of_images[rows].T
        found = np.zeros((len(rows), 0), np.float32)
        for number in np.unique(numbers).tolist():
            inside = np.flatnonzero(numbers == number)
            for start in range(0, len(inside), _ROWS):
                part = inside[start : start + _ROWS]
                some = read_global(shards[number], places[part])
                if some is None:
                    raise InputError(f"{self.path}: has no global descriptors")
                if not found.shape[1]:
                    found = np.empty((len(rows), some.shape[1]), np.float32)
                if some.shape[1] != found.shape[1]:
                    raise InputError(
                        f"{self.path}: descriptors of several dimensions: extract them "
                        "again"
                    )
                found[part] = some
        return found

    @functools.cached_property
    def _shards(self) -> tuple[list[Shard], Int[np.ndarray, "M 2"]]:
        """The shards, and of each image the number of its shard and its row there."""
        shards = {id(place.shard): place.shard for place in self._places}
        numbers = {shard: number for number, shard in enumerate(shards)}
        rows = [(numbers[id(place.shard)], place.row) for place in self._places]
        return [*shards.values()], np.array(rows, np.int64).reshape(-1, 2)

    @property
    def stamps(self) -> list[str]:
        """One per image, in the order of `ids`: another once it is extracted again."""
        return [digest(place.record, 16) for place in self._places]

    @property
    def shortfall(self) -> str:
        """How many images an interrupted run has left to do; "" if none."""
        if not self.pending:
            return ""
        total = len(self.ids) + len(self.failed) + len(self.pending)
        return (
            f"incomplete, {len(self.pending)} of {total} images are not extracted yet"
        )

    @functools.cached_property
    def global_descriptors(self) -> Float[np.ndarray, "M G"]:
        """One row per image, in the order of `ids`; read once, then kept."""
        return self.read_global(range(len(self)))

    @property
    def size_bounds(self) -> SizeBounds:
        """What the longer sides of the images were brought into."""
        settings = self.manifest.get("settings") or {}
        return SizeBounds(*(settings.get(f"{x}_image_size") for x in ("max", "min")))

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

    Also if its manifest fits none of its shards: it would be read as empty. With a list
    `damaged`, damaged shards are left out and listed there, and none need fit.
    """
    path = pathlib.Path(path)
    manifest = store_files.open_manifest(path)
    there = store_files.read_shards(path, None, damaged)
    shards = [shard for shard in there if shard.key == manifest["key"]]
    if there and not shards and damaged is None:
        raise InputError(
            f"{path / store_files.MANIFEST}: field 'key' does not match any of its "
            "shards; index or extract the same photos again"
        )
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
    ray: str | None = None,
    prune: bool = False,
    thorough: bool = True,
    progress: bool = True,
) -> StoreReport:
    """Brings a store up to date with (id, path) of images; what was done.

    Images whose file is as it was are not extracted again, unless the model or a
    setting is another; those that failed are tried again. However it ends, what was
    finished is written; what was not is known to be missing. Features of a file that
    cannot be read any more are kept. InputError if another model or setting would lose
    images, which are not among these or whose files are absent.

    Args:
      boxes: of the images, whose features are extracted, too; where they change, again.
      part: (i, n) takes every n-th image: n processes side by side give the store that
        one would. By default a process takes its part under jax.distributed, else all.
      ray: address of a cluster that extracts; "": one on this machine. The store is
        the same.
      prune: remove images of the store that are not among `images`.
      thorough: read all features to see whether they are sound; else it is the damage
        of files that are truncated alone that is mended.
    """
    out = pathlib.Path(out)
    part = part or (jax.process_index(), jax.process_count())
    manifest = manifest_for(model, settings, boxes is not None)
    key = manifest["key"]
    if store_files.known_key(out, manifest) not in (None, key):
        if not prune:
            _check_nothing_is_lost(out, dict(images))
        if progress:
            print(f"{out}: made with another model or settings; extracting all again")
    ids = [id for id, _ in images]
    run = store_files.start(
        out,
        manifest,
        {*ids},
        prune=prune,
        part=part,
        thorough=thorough,
        progress=progress,
    )
    writer, boxes = run.writer, boxes and of_images(boxes, ids)
    mine = sorted(images)[part[0] :: part[1]]
    todo, failed = _to_extract(mine, run.known, writer.sequence, boxes, settings)
    extracted, unchanged = 0, len(mine) - len(todo) - len(failed)
    try:
        with track("extract", len(todo), progress=progress) as advance:
            for count, failures in extraction.extract_and_write(
                writer, todo, model, settings, boxes, ray
            ):
                failed |= failures
                extracted += count - len(failures)
                advance(count)
    finally:
        writer.flush()
    store_files.finish(out, writer, alone=part[1] == 1)
    return StoreReport(extracted, unchanged, run.removed, failed, run.damaged, run.kept)


def remove_from_store(path: str | os.PathLike, ids: Iterable[str]) -> None:
    """Removes images; InputError, and none is removed, if one is not there."""
    store = open_store(path)
    ids = list(dict.fromkeys(ids))
    for id in ids:
        if id not in store.records or store.records[id].record.outcome == "removed":
            store.row(id)  # Raises.
    key = store.manifest["key"]
    writer = store_files.Writer(store.path, key, store.records.values())
    writer.note(ids, "removed")
    store_files.finish(store.path, writer, alone=True)


def store_key(
    model: Model, settings: ExtractionSettings, with_boxes: bool = False
) -> str:
    """What features depend on beside the image, as a short hex string."""
    made_by = [FORMAT, model.fingerprint, settings_to_json(settings)]
    if model.global_model is not None:
        theirs = settings_to_json(global_settings(model, settings))
        made_by += [model.global_model.fingerprint, theirs]
    return digest(made_by + (["boxes"] if with_boxes else []), 16)


def manifest_for(
    model: Model, settings: ExtractionSettings, with_boxes: bool = False
) -> dict[str, Any]:
    """What manifest.json says of a store that is empty."""
    key = store_key(model, settings, with_boxes)
    made_by = {"name": model.name, "fingerprint": model.fingerprint}
    more: dict[str, Any] = {"with_boxes": True} if with_boxes else {}
    if model.global_model is not None:
        other = model.global_model
        made_by["path"] = model.folder
        more["global_model"] = {
            "name": other.name,
            "fingerprint": other.fingerprint,
            "path": other.folder,
            "settings": settings_to_json(global_settings(model, settings)),
        }
    return store_files.empty_manifest(key, made_by, settings_to_json(settings), **more)


def _to_extract(
    images: Iterable[tuple[str, pathlib.Path]],
    known: Mapping[str, Place],
    sequence: int,
    boxes: RegionBoxes | None,
    settings: ExtractionSettings,
) -> tuple[list[tuple[Record, pathlib.Path]], dict[str, str]]:
    """What is new or changed, and why known images are left as they are all the same.

    A disk that fails, or is away, is no reason to forget what was on it.
    """
    todo, unreadable = [], {}
    for id, path in images:
        record, place = look_at(Record(id, sequence, "extracted"), path), known.get(id)
        if (
            place is not None
            and not is_changed(path, place.record, record)
            and not _has_other_boxes(place, boxes, settings)
        ):
            continue
        reason = why_unreadable(path) if place is not None and place.extracted else ""
        if reason:
            unreadable[id] = f"{path}: cannot be read ({reason}); its features are kept"
        else:
            todo.append((record, path))
    return todo, unreadable


def _check_nothing_is_lost(
    out: pathlib.Path, images: Mapping[str, pathlib.Path]
) -> None:
    """InputError if the store has images that cannot be extracted again."""
    known = open_store(out, damaged=[]).ids
    lost = [id for id in known if id not in images or is_absent(images[id])]
    if lost:
        raise InputError(
            f"{out}: made with another model or settings, which would lose "
            f"{format_count(len(lost), 'image')}, such as {lost[0]!r}, whose files are "
            "not among these; name another folder, or forget them first, with --prune"
        )


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
