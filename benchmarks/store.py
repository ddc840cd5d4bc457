"""Milliseconds to open a feature store and read every image of it.

    python benchmarks/store.py [--images=1000] [--features=1000]

The store is written to a temporary folder first (half a megabyte per image). Opening
includes the list of ids and all global descriptors; reading touches every value.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator

import numpy as np

from delf_jax.features import Features, LocalFeatures
from delf_jax.files import write_json
from delf_jax.store import feature_store
from delf_jax.store.shards import Record
from delf_jax.store.writer import Writer, empty_manifest, finish


def write_store(out: pathlib.Path, images: Iterable[Features]) -> None:
    """A feature store, through the writer that extraction uses."""
    drawn_by = {"name": "drawn", "fingerprint": ""}
    write_json(out / "manifest.json", empty_manifest("drawn", drawn_by, {}))
    (out / "shards").mkdir()
    writer = Writer(out, "drawn", [])
    for number, features in enumerate(images):
        writer.add(Record(f"{number:06d}.jpg", 1, "extracted"), features)
    writer.flush()
    finish(out, writer, alone=True)


def draw_images(images: int, features: int) -> Iterator[Features]:
    rng = np.random.default_rng(0)
    shapes = ((features, 2), (features,), (features, 128), (features,))
    for _ in range(images):
        local = LocalFeatures(*(rng.random(shape, np.float32) for shape in shapes))
        yield Features(local, rng.random(2048, np.float32), (768, 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    opening, reading = [], []
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        write_store(out, draw_images(options.images, options.features))
        for _ in range(options.rounds):
            start = time.perf_counter()
            opened = feature_store.open_store(out)
            opened.global_descriptors.sum()
            middle = time.perf_counter()
            for features in opened:
                sum(array.sum() for array in features.local)
            opening.append(1e3 * (middle - start) / options.images)
            reading.append(1e3 * (time.perf_counter() - middle) / options.images)
        count = len(list((out / "shards").iterdir()))
    print(f"{options.images} images of {options.features} features, {count} shards:")
    print(f"  open {statistics.median(opening):.4f} ms an image")
    print(f"  read {statistics.median(reading):.4f} ms an image")


if __name__ == "__main__":
    main()
