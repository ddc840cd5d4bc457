"""Labelled images on disk as a seeded, resumable stream of training batches.

What `image_lists` lists, `prepare` stores; grain shuffles, transforms on threads and
batches.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np

from delf_jax.data import prepare
from delf_jax.data.boxes import read_boxes
from delf_jax.data.image_lists import classes_without_images, list_records
from delf_jax.files import InputError, decode_name
from delf_jax.progress import format_count

UNLABELLED = -1  # label of an image that belongs to no class.
Transform = Callable[[dict, np.random.Generator], dict]


@runtime_checkable
class Batches(Iterator[dict[str, np.ndarray]], Protocol):
    """An endless iterator that can be moved to where an earlier one stood."""

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass(eq=False, repr=False)
class ImageSource:
    """Random access to prepared images: {"id", "encoded", a JPEG file, and "label"}."""

    name: str
    encoded: Any
    classes: dict[str, int]
    counts: Sequence[int] = ()
    """listed images of each class"""
    boxes: Mapping[str, np.ndarray] | None = None
    """by id, in parts of the image; without, examples have none"""

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> dict:
        example = self.encoded[int(index)]
        id = decode_name(example["id"])
        boxes = {} if self.boxes is None else {"boxes": self.boxes[id]}
        return {
            "id": f"{self.name}/{id}",
            "encoded": bytes(example["image"]),
            "label": self.classes.get(decode_name(example["label"]), UNLABELLED),
            **boxes,
        }

    def identifier(self, index: int) -> str:
        """The image's id, unique among sources."""
        return self[index]["id"]


def open_sources(
    settings: dict[str, dict],
    directory: str,
    *,
    max_side: int,
    threads: int = 4,
    part: tuple[int, int] = (0, 1),
    exclude: Collection[str] = (),
) -> tuple[list[ImageSource], list[str]]:
    """The sources that a config names, their classes numbered in one row, and failures.

    Args:
      settings: by name: `path`, `images`, `label_column`, `split` of `list_records`,
        `holdout`, the class names to leave out, `unlabelled`, those whose images
        have nothing in common, and `boxes`, a file or folder of some, which names the
        images to take.
      max_side: of a stored image, in pixels.
      part: of the datasets, that is prepared; see `prepare.prepare`.
      exclude: class names to leave out of all sources; InputError if none has any.
    """
    sources: list[ImageSource] = []
    failures: list[str] = []
    excluded, found, first = set(exclude), set[str](), 0
    for name, source in settings.items():
        if not source.get("path"):
            raise InputError(f"data.sources.{name}.path is empty: name a folder or CSV")
        known = source.keys() & {"path", "images", "label_column", "split"}
        records = list_records(**{field: source[field] for field in known})
        failures += [
            f"class {label} of {name}, of which there is no image to train on"
            for label in classes_without_images(source["path"], records)
        ]
        names = {str(record.label) for record in records}
        listed = {
            n: set(map(str, source.get(n, ()))) for n in ("holdout", "unlabelled")
        }
        for field, labels in listed.items():
            if unknown := labels - names:
                raise InputError(
                    f"data.sources.{name}.{field}: no class {min(unknown)!r}"
                )
        if seen := excluded & names:
            kept = [r for r in records if str(r.label) not in seen]
            left = format_count(len(records) - len(kept), "image")
            left += f", {format_count(len(seen), 'class')}"
            failures.append(f"{left} of {name}, by data.exclude")
            records, found = kept, found | seen
        records = [r for r in records if str(r.label) not in listed["holdout"]]
        boxes = None
        if source.get("boxes"):
            boxes = read_boxes(source["boxes"], records)
            kept = [record for record in records if record.id in boxes]
            if unnamed := len(records) - len(kept):
                without = f"{format_count(unnamed, 'image')} of {name}"
                failures.append(f"{without}: not in {source['boxes']}")
            records = kept
        nameless = {"", *listed["unlabelled"]}
        # By name, and landmarks by number: their labels ascend with their ids.
        labelled = sorted({r.label for r in records if str(r.label) not in nameless})
        classes = {str(label): i for i, label in enumerate(labelled, first)}
        first += len(classes)
        if not records:
            raise InputError(f"data.sources.{name}: no image is left to train on")
        prepared = prepare.prepare(
            name, records, directory, max_side=max_side, threads=threads, part=part
        )
        failures += prepared.failures.values()
        images = collections.Counter(str(record.label) for record in records)
        counts = [images[label] for label in classes]
        sources.append(ImageSource(name, prepared.images, classes, counts, boxes))
    if excluded and not found:
        raise InputError("data.exclude: no source has a class of any of these names")
    return sources, failures


def batches(
    sources: Sequence[ImageSource | list[dict]],
    weights: Sequence[float],
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    part: tuple[int, int] = (0, 1),
    threads: int = 4,
) -> grain.DatasetIterator:
    """An endless iterator of batches of `transform(example, rng)` with `get_state`.

    What the n-th example is, and its draws, depend on the seed and n alone: not on the
    threads, nor on how many hosts share the batches.

    Args:
      sources: mixed in proportion to `weights`.
      transform: from an example of a source to arrays of one shape each.
      batch_size: of this host.
      seed: of the order and of the transforms.
      part: (i, n), this host takes every n-th example from the i-th.
    """
    streams = [
        grain.MapDataset.source(source).seed(seed + number).shuffle().repeat()
        for number, source in enumerate(sources)
    ]
    mixed = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
    host, hosts = part
    mine = mixed.seed(seed).random_map(transform)[host::hosts]
    batched = mine.batch(batch_size, drop_remainder=True)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batched.to_iter_dataset(options))
