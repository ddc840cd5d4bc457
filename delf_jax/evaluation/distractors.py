"""Photos that show no landmark of any query, searched with those of any dataset.

Revisited Oxford and Paris have a million of them, R1M [ROP]. Their features are a store
of its own, which all datasets share.
"""

import os
import pathlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from delf_jax.evaluation.datasets import Dataset, Photo
from delf_jax.extraction.boxes import RegionBoxes, format_coverage
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.image_files import find_images
from delf_jax.progress import format_count, print_results
from delf_jax.search.pipeline import RankingInputs
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore


class Distractors(NamedTuple):
    """Photos that count as wrong for every query."""

    store: FeatureStore
    photos: list[Photo]
    """in the order of the store; without a path where only their features are known"""


def open_distractors(
    path: str | os.PathLike,
    out: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    *,
    boxes: RegionBoxes | None = None,
    partial: bool = False,
    progress: bool = True,
) -> Distractors:
    """The distractors of a feature store, or of a folder of photos.

    Features of photos that are no longer in the folder are kept, not searched.
    InputError if a photo cannot be used, or if the store is incomplete or of another
    model or other settings.

    Args:
      out: store that the photos of a folder are extracted to.
      boxes: extract by region; a store must then be with boxes, too.
      partial: leave photos out that cannot be used, or were never extracted.
    """
    path = pathlib.Path(path)
    photos: dict[str, pathlib.Path] = {}
    if (path / "manifest.json").is_file():
        store = feature_store.open_store(path)
        key = feature_store.store_key(model, settings, boxes is not None)
        if store.manifest["key"] != key:
            raise InputError(
                f"{path}: model or settings do not match; extract the distractors with "
                "those of the dataset, and with boxes where it has some"
            )
    else:
        photos = dict(find_images([path]))
        found = list(photos.items())
        extracted = extract_photos(
            found, out, model, settings, boxes, progress=progress
        )
        store = _only(extracted, photos)
        others = len(extracted) - len(store)
        if others and progress:
            count = format_count(others, "distractor")
            print_results(f"{path}: {count} of earlier runs absent: not searched")
    if store.pending and not partial:
        raise InputError(
            f"{path}: {store.shortfall}: extract the others, or leave them out with "
            "--partial"
        )
    if store.failed and not partial:
        name, reason = next(iter(store.failed.items()))
        raise InputError(
            f"{path}: {len(store.failed)} distractors cannot be used, first {name}: "
            f"{reason}; remove them, or leave them out with --partial"
        )
    return Distractors(store, [Photo(id, id, photos.get(id)) for id in store.ids])


def extract_photos(
    photos: Sequence[tuple[str, pathlib.Path]],
    out: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    boxes: RegionBoxes | None,
    *,
    progress: bool = True,
) -> FeatureStore:
    """The store of photos, extracted as far as they are not there yet."""
    if boxes is not None:
        coverage = format_coverage(boxes, [id for id, _ in photos])
        if progress:
            print(coverage)
    feature_store.extract_to_store(
        photos, out, model, settings, boxes=boxes, progress=progress
    )
    return feature_store.open_store(out)


def _only(store: FeatureStore, ids: Collection[str]) -> FeatureStore:
    """The store without other images, which stay in its folder."""
    records = {id: place for id, place in store.records.items() if id in ids}
    return FeatureStore(store.path, store.manifest, records)


def add_distractors(
    dataset: Dataset, inputs: RankingInputs, distractors: Distractors
) -> tuple[Dataset, RankingInputs]:
    """Both with the distractors at the end of the index."""
    joined = feature_store.join_stores(inputs.store, distractors.store)
    dataset = dataset._replace(index=[*dataset.index, *distractors.photos])
    rows = np.array([joined.row(photo.id) for photo in dataset.index])
    return dataset, inputs._replace(store=joined, rows=rows)
