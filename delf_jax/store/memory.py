"""A feature store in memory alone, for a few photos: changed, it is another store."""

import pathlib
from collections.abc import Collection, Mapping

from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.store.feature_store import FeatureStore, manifest_for
from delf_jax.store.shards import Record, hold_shard
from delf_jax.store.writer import current_records

# In the place of its folder, in messages.
NAME = pathlib.Path("index in memory")


def empty_store(model: Model, settings: ExtractionSettings) -> FeatureStore:
    """A store without images."""
    return FeatureStore(NAME, manifest_for(model, settings), {})


def with_features(
    store: FeatureStore, features: Mapping[str, Features]
) -> FeatureStore:
    """The store with these images, by id, in the place of those it may have of them."""
    records = [Record(id, 1, "extracted") for id in features]
    shard = hold_shard(NAME, store.manifest["key"], records, list(features.values()))
    places = store.records | current_records([shard])
    return FeatureStore(NAME, store.manifest, places)


def without_images(store: FeatureStore, ids: Collection[str]) -> FeatureStore:
    """The store without these images; InputError if one is not there."""
    for id in ids:
        store.row(id)
    places = {id: place for id, place in store.records.items() if id not in ids}
    return FeatureStore(NAME, store.manifest, places)
