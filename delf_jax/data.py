"""Labelled images on disk as a seeded, resumable stream of training batches.

What `records` lists becomes a tensorflow-datasets builder in the array_record format,
which is read at random and without TensorFlow; grain shuffles, transforms on threads
and batches.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import absl.logging
import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds

from delf_jax.files import InputError
from delf_jax.images import decode_image, encode_jpeg
from delf_jax.records import Record, list_records, read_record

UNLABELLED = -1  # label of an image that belongs to no class.
JPEG_QUALITY = 95
Transform = Callable[[dict, np.random.Generator], dict]


class LabelledImages(tfds.core.GeneratorBasedBuilder):
    """Images, shrunk to a largest side, with their ids and class names."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, records: Sequence[Record], max_side: int, **kwargs: Any):
        self._records, self._max_side = records, max_side
        self.failures: list[str] = []
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of instances, each a class.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format="jpeg"
                    ),
                    "label": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict]]:
        for record in self._records:
            try:
                encoded = _shrunk_jpeg(read_record(record), self._max_side)
            except InputError as error:
                self.failures.append(str(error))
                continue
            image = io.BytesIO(encoded)
            label = str(record.label)
            yield record.id, {"id": record.id, "image": image, "label": label}


def _shrunk_jpeg(image: np.ndarray, max_side: int) -> bytes:
    scale = max_side / max(image.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return encode_jpeg(image, JPEG_QUALITY)


class Source:
    """Random access to prepared images: {"id", "image" uint8 [H, W, 3], "label"}."""

    def __init__(self, name: str, encoded: Any, classes: dict[str, int]):
        self.name, self.classes = name, classes
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> dict:
        example = self._encoded[int(index)]
        label = example["label"].decode()
        return {
            "id": self.identifier(index),
            "image": decode_image(bytes(example["image"])),
            "label": self.classes.get(label, UNLABELLED),
        }

    def identifier(self, index: int) -> str:
        """The image's id, unique among sources, without decoding it."""
        return f"{self.name}/{self._encoded[int(index)]['id'].decode()}"


def prepare(
    name: str, records: Sequence[Record], directory: str, *, max_side: int
) -> tuple[Any, list[str]]:
    """The dataset of `records`, built under `directory` once, and what failed just now.

    The folder is named by a digest of the ids, labels, file sizes and `max_side`:
    changed files are another dataset.
    """
    digest = hashlib.sha256(str(max_side).encode())
    for record in records:
        size = record.path.stat().st_size if record.path.is_file() else -1
        digest.update(f"\n{record.id}\t{record.label}\t{size}".encode())
    config = tfds.core.BuilderConfig(name=f"{name}-{digest.hexdigest()[:12]}")
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    with _quiet_tfds():
        builder = LabelledImages(
            records=records, max_side=max_side, data_dir=str(directory), config=config
        )
        try:
            builder.download_and_prepare(download_config=options)
        except AssertionError:  # tfds asserts that there is at least one example.
            if len(builder.failures) < len(records):
                raise
            raise InputError(
                f"data.sources.{name}: no image can be read: {builder.failures[0]}"
            ) from None
    decoders = {"image": tfds.decode.SkipDecoding()}
    encoded = builder.as_data_source("train", decoders=decoders)
    return encoded, builder.failures


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Without tfds' bars, its talk of downloads and its warnings."""
    tfds.disable_progress_bar()
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)


def open_sources(
    settings: dict[str, dict], directory: str, *, max_side: int
) -> tuple[list[Source], list[str]]:
    """The sources that a config names, their classes numbered in one row, and failures.

    Args:
      settings: by name: `path`, `images`, `label_column` of `list_records` and
        `holdout`, the class names to leave out, and `unlabelled`, those whose images
        have nothing in common.
      directory: where the prepared datasets lie.
      max_side: of a stored image, in pixels.
    """
    sources, failures, first = [], [], 0
    for name, source in settings.items():
        records = list_records(
            source["path"],
            source.get("images", ""),
            source.get("label_column", "label"),
        )
        names = {str(record.label) for record in records}
        held_out, unlabelled = (
            {str(label) for label in source.get(field, ())}
            for field in ("holdout", "unlabelled")
        )
        for field, labels in (("holdout", held_out), ("unlabelled", unlabelled)):
            unknown = sorted(labels - names)
            if unknown:
                raise InputError(
                    f"data.sources.{name}.{field}: no class {unknown[0]!r}"
                )
        records = [r for r in records if str(r.label) not in held_out]
        nameless = {"", *unlabelled}
        # By name, and landmarks by number: their labels ascend with their ids.
        labels = sorted({r.label for r in records if str(r.label) not in nameless})
        classes = {str(label): first + i for i, label in enumerate(labels)}
        first += len(labels)
        if not records:
            raise InputError(f"data.sources.{name}: no image is left to train on")
        encoded, failed = prepare(name, records, directory, max_side=max_side)
        failures += failed
        sources.append(Source(name, encoded, classes))
    return sources, failures


def batches(
    sources: Sequence[Source],
    weights: Sequence[float],
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    part: tuple[int, int] = (0, 1),
    threads: int = 4,
) -> grain.DatasetIterator:
    """An endless iterator of batches of `transform(example, rng)` with `get_state`.

    What comes depends on the seed and the position alone, not on the threads.

    Args:
      sources: mixed in proportion to `weights`.
      weights: one for each source.
      transform: from an example of a source to arrays of one shape each.
      batch_size: of this host.
      seed: of the order and of the transforms.
      part: (i, n), this host takes every n-th image from the i-th of the shuffled.
      threads: that read and transform.
    """
    host, hosts = part
    streams = []
    for number, source in enumerate(sources):
        if len(source) < hosts:
            raise InputError(
                f"data.sources.{source.name}: {len(source)} images are too few for "
                f"{hosts} hosts"
            )
        stream = grain.MapDataset.source(source).seed(seed + number).shuffle()
        streams.append(stream[host::hosts].repeat())
    mixed = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
    mixed = mixed.seed(seed + host * 1_000_003)  # hosts draw different views.
    batched = mixed.random_map(transform).batch(batch_size, drop_remainder=True)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batched.to_iter_dataset(options))
