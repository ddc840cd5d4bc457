"""Stores, codebooks and inverted files for tests, small ones."""

import numpy as np

from delf_jax import (
    aggregating,
    codebooks,
    inverted_build,
    inverted_file,
    inverted_writer,
    store,
    store_files,
)
from delf_jax.ops import Features, LocalFeatures, Regions
from delf_jax.shards import FORMAT, Record

MODEL = {"name": "drawn", "fingerprint": "f" * 64}
WORDS, DIMENSION = 30, 12
IDS = [f"{name}.jpg" for name in "abcdefghijkl"]


def fill_store(out, ids, *, sequence=1, seed=0, dimension=DIMENSION, boxes=False):
    """A store with random local features of these images; the third has none.

    boxes: the first features are of the whole image, the others of three boxes, of
    which one is empty; the second image has none.
    """
    manifest = {"format": FORMAT, "key": "drawn", "model": MODEL, "settings": {}}
    manifest |= {"with_boxes": True} if boxes else {}
    store_files.begin(out, manifest)
    known = store_files.current_records(store_files.read_shards(out, "drawn"))
    writer = store_files.Writer(out, "drawn", known.values())
    for id in ids:
        rng = np.random.default_rng([seed, *id.encode()])
        count = 0 if id.startswith("c") else int(rng.integers(5, 40))
        shapes = (count, 2), count, (count, dimension), count
        local = LocalFeatures(*(rng.normal(size=s).astype(np.float32) for s in shapes))
        record = Record(id, sequence, "extracted")
        regions = _draw_regions(id, count) if boxes else None
        writer.add(record, Features(local, None, (40, 60), regions))
    writer.flush()
    store_files.finish(out, writer, alone=True)
    return store.open_store(out)


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
    codebooks.save_codebook(folder, centroids, {"model": MODEL})
    return aggregating.load_words(folder)


def build(images, words, out, **options):
    report = inverted_build.update_inverted_file(
        images, words, out, shown=False, **options
    )
    return report, inverted_file.open_inverted_file(out)


def in_runs(monkeypatch, count=1):
    """Shards of a few images, which are never merged."""
    monkeypatch.setattr(inverted_writer, "RUN_BYTES", count)
    monkeypatch.setattr(inverted_writer, "SMALL_SHARDS", 1000)


def aggregated_query(index, seed=5):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(60, DIMENSION)).astype(np.float32)
    shapes = (60, 2), 60, 60
    locations, scales, attention = (np.zeros(s, np.float32) for s in shapes)
    local = LocalFeatures(locations, scales, descriptors, attention)
    return inverted_file.aggregate_query(index, Features(local, None, (1, 1)))
