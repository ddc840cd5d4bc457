"""Stores of features that no model made, for tests."""

import numpy as np

from delf_jax.features import Features, LocalFeatures
from delf_jax.store import feature_store
from delf_jax.store.shards import Record
from delf_jax.store.writer import (
    Writer,
    begin,
    current_records,
    empty_manifest,
    finish,
    read_shards,
)

MODEL = {"name": "drawn", "fingerprint": "f" * 64}
MANIFEST = empty_manifest("drawn", MODEL, {})


def add_features(out, features, *, failed=(), sequence=None, **manifest):
    """A store, opened, with features by id added to those that it has."""
    begin(out, MANIFEST | manifest)
    known = current_records(read_shards(out, "drawn"))
    writer = Writer(out, "drawn", known.values())
    sequence = sequence or writer.sequence
    for id, each in features.items():
        writer.add(Record(id, sequence, "extracted"), each)
    for id in failed:
        writer.add(Record(id, sequence, "failed", f"{id}: broken"))
    writer.flush()
    finish(out, writer, alone=True)
    return feature_store.open_store(out)


def announce(out, ids):
    """Leaves a store as a run does that is killed before these images."""
    store = feature_store.open_store(out)
    writer = Writer(out, store.manifest["key"], store.records.values())
    writer.note(ids, "pending")


def with_descriptors(descriptors):
    """Local features of these descriptors, all else zero."""
    count = len(descriptors)
    zeros = (np.zeros(shape, np.float32) for shape in ((count, 2), count, count))
    locations, scales, attention = zeros
    local = LocalFeatures(locations, scales, descriptors, attention)
    return Features(local, None, (40, 60))


def write_descriptors(out, images, settings=None):
    """A store with the local descriptors of each image; its path."""
    features = {f"{n:03d}.jpg": with_descriptors(x) for n, x in enumerate(images)}
    add_features(out, features, settings=settings or {})
    return out


IDS = ["a/0.jpg", "a/1.png", "b/0.jpg", "b/deep/2.v1.jpg"]
COUNTS = [3, 0, 1, 5]


def draw_store(out, ids=IDS, *, local=6, globe=4, failed=()):
    """A store with random features; 0 dimensions: none of that branch; its path."""
    rng = np.random.default_rng(0)
    features = {}
    for number, id in enumerate(ids):
        count = COUNTS[number % len(COUNTS)]
        shapes = (count, 2), count, (count, local), count
        arrays = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        part = LocalFeatures(*arrays) if local else None
        descriptor = rng.normal(size=globe).astype(np.float32) if globe else None
        features[id] = Features(part, descriptor, (40 + number, 60))
    add_features(out, features, failed=failed)
    return out
