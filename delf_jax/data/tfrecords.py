"""Training images as the original's TFRecords: which, numbered how, in which files.

What build_image_dataset of the released code writes, for training it or whatever else
reads its files: `train-00000-of-00128` and so on with the bytes of the photos, and
`relabeling.csv`. A shard that is there is kept, so that a killed job goes on.
"""

import contextlib
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from delf_jax import files, images, manifests
from delf_jax.cluster import jobs
from delf_jax.cluster.shares import Share
from delf_jax.data import image_lists, prepare
from delf_jax.data.image_lists import LabelledImage
from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2
from delf_jax.formats.tensorflow import tfrecord
from delf_jax.formats.tensorflow.tfrecord import Example
from delf_jax.progress import add_note, format_count, track

SHARDS = 128  # of a split, as the original's.
# Images in the hands of the threads.
_AHEAD = 64
# What is known of each shard. Hidden: readers take all files that begin as the split.
_KNOWN = ".shards"
_SCHEMA = {
    "format": manifests.one_of(1),
    "records": manifests.matching("[0-9a-f]{16}", "a digest"),
    "bytes": manifests.COUNT,
    "images": manifests.COUNT,
    "failures": {str: str},
}


class Plan(NamedTuple):
    """What is written, in its order."""

    split: str
    """"train", "validation" or "test", of which nothing has a label"""
    records: Sequence[LabelledImage]
    numbers: Mapping[str | int, int]
    """labels of the source -> those in the files; empty: they stay as they are"""


class Written(NamedTuple):
    """What the shards hold, and what is not in them."""

    images: int
    failures: dict[str, str]
    """id of each image that cannot be used -> reason"""


def plan(
    path: str,
    images: str = "",
    label_column: str = "label",
    split: str = "",
    excluded: Collection[str] = (),
) -> Plan:
    """The images of a source as the released code orders and numbers them.

    Landmarks of train.csv keep their numbers, those of train_clean.csv and names are
    numbered in their order. A part, and train_clean.csv, are in the order in which they
    were listed and shuffled, all else by id.

    Args:
      path, images, label_column, split: as of `image_lists.list_records`.
      excluded: class names to leave out.
    """
    table = image_lists.landmark_table(pathlib.Path(path))
    cleaned = table is not None and "images" in tables.read_header(table)
    everything = image_lists.list_records(
        path, images, label_column, as_listed=cleaned or bool(split)
    )
    labels = sorted(
        {r.label for r in everything if str(r.label) not in {"", *excluded}}
    )
    named = any(isinstance(label, str) for label in labels)
    numbers = {x: n for n, x in enumerate(labels)} if named or cleaned else {}
    # The draws of a part depend on all images: as in a training that leaves some out.
    records = image_lists.part_of(everything, split) if split else everything
    kept = [r for r in records if str(r.label) not in excluded]
    if not labels:
        return Plan("test", kept, {})
    labelled = [record for record in kept if record.label != ""]
    if few := len(kept) - len(labelled):
        add_note(f"{path}: {format_count(few, 'image')} without a class left out")
    return Plan(split or "train", labelled, numbers)


def write(
    plan: Plan,
    directory: str,
    *,
    shards: int = SHARDS,
    max_side: int | None = None,
    threads: int = 4,
    part: tuple[int, int] = (0, 1),
    ray: str | None = None,
    progress: bool = True,
) -> Written:
    """Writes the shards that are not there yet, of a part, and what they are about.

    JPEGs are stored as they are; other photos, grey ones and what is too large become
    RGB JPEGs. `quarantine-SPLIT.csv` lists the images that cannot be used. InputError
    if that is all, or if there are shards of another number already.

    Args:
      shards: how many, of all parts.
      max_side: of a stored image, in pixels; None: as large as they are.
      part: (i, n), writes each n-th shard from the i-th, as one of n processes; what is
        returned are the shards that are there.
      ray: address of a cluster that writes them; "": one on this machine.
    """
    folder = pathlib.Path(directory)
    planned = tfrecord.shards_of(plan.split, len(plan.records), shards)
    _check_others(folder, plan.split, {name for name, _ in planned})
    if plan.numbers:
        rows = ((new, old) for old, new in plan.numbers.items())
        columns = gldv2.Relabelling._fields
        tables.write_rows(folder / "relabeling.csv", columns, rows)
    pieces = [
        _Shard(folder, name, [plan.records[i] for i in places], plan.numbers, max_side)
        for name, places in planned
    ]
    missing = [x for x in pieces[part[0] :: part[1]] if x.read() is None]
    failures = _write_shards(missing, plan.split, threads, ray, progress)
    found = [known for piece in pieces if (known := piece.read())]
    for known in found:
        failures |= known["failures"]
    prepare.write_quarantine(folder / f"quarantine-{plan.split}.csv", failures)
    count = sum(known["images"] for known in found)
    if part == (0, 1) and not count:
        reason = next(iter(failures.values()))
        raise InputError(f"{directory}: no image can be read: {reason}")
    return Written(count, failures)


class _Shard(NamedTuple):
    """One file, and what belongs in it."""

    folder: pathlib.Path
    name: str
    records: Sequence[LabelledImage]
    numbers: Mapping[str | int, int]
    max_side: int | None

    @property
    def known(self) -> pathlib.Path:
        """What is written of it."""
        return self.folder / _KNOWN / f"{self.name}.json"

    def read(self) -> dict[str, Any] | None:
        """What is known of the file; None if it is not there as it is wanted."""
        with contextlib.suppress(InputError, OSError):  # Damaged: it is written again.
            found = manifests.read_manifest(self.known, _SCHEMA, "")
            size = (self.folder / self.name).stat().st_size
            if found["records"] == self.digest() and found["bytes"] == size:
                return found
        return None

    def digest(self) -> str:
        """Of ids, labels and sizes of files, and of how they are stored."""
        lines = [str(self.max_side)]
        for record in self.records:
            size = record.path.stat().st_size if record.path.is_file() else -1
            label = self.numbers.get(record.label, record.label)
            lines.append(f"{record.id}\t{label}\t{size}\t{record.offset}")
        return files.digest("\n".join(lines), 16)

    def write(self, pool: futures.Executor, advance: Callable[[], None]) -> None:
        """Writes the file, then what is known of it."""
        wanted, failures = self.digest(), dict[str, str]()

        def examples() -> Iterator[Example]:
            for start in range(0, len(self.records), _AHEAD):
                records = self.records[start : start + _AHEAD]
                for record, made in zip(
                    records, pool.map(self.make, records), strict=True
                ):
                    if isinstance(made, str):
                        failures[record.id] = made
                    else:
                        yield made
                    advance()

        path = self.folder / self.name
        tfrecord.write_shard(path, examples())
        known = {
            "format": 1,
            "records": wanted,
            "bytes": path.stat().st_size,
            "images": len(self.records) - len(failures),
            "failures": failures,
        }
        manifests.write_manifest(self.known, known)

    def make(self, record: LabelledImage) -> Example | str:
        """The example of an image, or why it cannot be used."""
        try:
            encoded, (height, width) = _stored(record, self.max_side)
        except InputError as error:
            return str(error)
        label = self.numbers.get(record.label, record.label)
        number = None if label == "" else int(label)
        return Example(record.id, encoded, number, height, width)


def _write_shards(
    pieces: Sequence[_Shard], split: str, threads: int, ray: str | None, progress: bool
) -> dict[str, str]:
    """Writes them; the images of those of which a cluster could write no file."""
    count, failures = sum(len(piece.records) for piece in pieces), dict[str, str]()
    with track(f"write {split}", count, progress=progress) as advance:
        if ray is None:
            with futures.ThreadPoolExecutor(threads) as pool:
                for piece in pieces:
                    piece.write(pool, advance)
            return failures
        for piece, reason in _write_on_cluster(pieces, ray):
            if reason:
                failures |= {r.id: f"{r.path}: {reason}" for r in piece.records}
            advance(len(piece.records))
    return failures


def _write_on_cluster(
    pieces: Sequence[_Shard], ray: str
) -> Iterator[tuple[_Shard, str]]:
    """Files that were written, or why not."""
    if not pieces:
        return
    folder = pieces[0].folder
    paths = (record.path for piece in pieces for record in piece.records)
    seen = next((path for path in paths if path.is_file()), "")
    done = jobs.run(
        ray, _open_work, pieces, folder, most=1, seen=seen, accelerated=False
    )
    for (piece,), _, reason in done:
        yield piece, reason
    jobs.clear_after(x for y in pieces for x in (y.folder / y.name, y.known))


def _open_work() -> Callable[[Share], None]:
    """What a worker of a cluster does with a share: one file."""

    def write(share: Sequence[_Shard]) -> None:
        (piece,) = share
        with futures.ThreadPoolExecutor(jobs.CORES) as pool:
            piece.write(pool, lambda: None)

    return write


def _check_others(folder: pathlib.Path, split: str, names: Collection[str]) -> None:
    """InputError if the folder has shards of the split that are not of these names."""
    there = tfrecord.find_shards(folder / f"{split}-*-of-*")
    if others := [path for path in there if path.name not in names]:
        raise InputError(
            f"{others[0]}: is of another number of shards, and would be read with "
            "those; remove it and its like, or choose another folder"
        )


def _stored(
    record: LabelledImage, max_side: int | None
) -> tuple[bytes, tuple[int, int]]:
    """The file of an image as it is stored, and (height, width)."""
    pixels = image_lists.read_record(record)  # First: it refuses what is no image.
    if record.offset < 0:
        encoded = record.path.read_bytes()
    else:
        encoded = tfrecord.read_example(record.path, record.offset).encoded
    size = images.size_of_jpeg(encoded)
    longest = max_side or max(pixels.shape[:2])
    if size is not None and max(size) <= longest:
        return encoded, size
    pixels = prepare.shrink(pixels, longest)
    return images.encode_jpeg(pixels, prepare.JPEG_QUALITY), pixels.shape[:2]
