"""Stores, codebooks and inverted files for tests, small ones."""

import numpy as np

from delf_jax.features import Features, LocalFeatures, Regions
from delf_jax.index import aggregation, codebook, inverted_builder, inverted_file
from tests.helpers.stores import MODEL, add_features, with_descriptors

WORDS, DIMENSION = 30, 12
IDS = [f"{name}.jpg" for name in "abcdefghijkl"]


def fill_store(out, ids, *, sequence=1, seed=0, dimension=DIMENSION, boxes=False):
    """A store with random local features of these images; the third has none.

    boxes: the first features are of the whole image, the others of three boxes, of
    which one is empty; the second image has none.
    """
    features = {}
    for id in ids:
        rng = np.random.default_rng([seed, *id.encode()])
        count = 0 if id.startswith("c") else int(rng.integers(5, 40))
        shapes = (count, 2), count, (count, dimension), count
        local = LocalFeatures(*(rng.normal(size=s).astype(np.float32) for s in shapes))
        regions = _draw_regions(id, count) if boxes else None
        features[id] = Features(local, None, (40, 60), regions)
    manifest = {"with_boxes": True} if boxes else {}
    return add_features(out, features, sequence=sequence, **manifest)


def _draw_regions(id, count):
    """Regions of so many features."""
    counts = [count]
    if not id.startswith("b"):
        counts = [count // 2, count // 4, 0, count - count // 2 - count // 4]
    boxes = np.tile(np.float32([[0, 0, 40, 60]]), (len(counts), 1))
    return Regions(boxes, np.array(counts, np.int32))


def draw_words(folder, seed=0):
    """A codebook, saved and loaded."""
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(WORDS, DIMENSION)).astype(np.float32)
    codebook.save_codebook(folder, centroids, {"model": MODEL})
    return aggregation.load_words(folder)


def build(images, words, out, **options):
    report = inverted_builder.update_inverted_file(
        images, words, out, progress=False, **options
    )
    return report, inverted_file.open_inverted_file(out)


def in_runs(monkeypatch, count=1):
    """Shards of a few images, which are never merged."""
    monkeypatch.setattr(inverted_builder, "RUN_BYTES", count)
    monkeypatch.setattr(inverted_builder, "SMALL_SHARDS", 1000)


def aggregated_query(index, seed=5):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(60, DIMENSION)).astype(np.float32)
    return inverted_file.aggregate_query(index, with_descriptors(descriptors))
