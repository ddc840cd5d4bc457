"""Labelled images as tensorflow-datasets builders: prepared once, read at random.

Images are shrunk and stored in the array_record format, which needs no TensorFlow. A
dataset is built in parts, each a small dataset of its own: what a killed job or another
machine has finished is kept, and a Ray cluster builds many parts side by side. Files
that are damaged are named when they are opened, and images when they are read.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import absl.logging
import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from delf_jax import manifests
from delf_jax.cluster import jobs
from delf_jax.cluster.shares import Share
from delf_jax.data.image_lists import LabelledImage, read_record
from delf_jax.files import (
    InputError,
    atomic_write,
    check_utf8,
    clear_abandoned,
    digest,
    encode_name,
    sha256_of,
)
from delf_jax.images import encode_jpeg
from delf_jax.progress import track

JPEG_QUALITY = 95
# Images of a part: some minutes of work, and a thousand parts for all of GLDv2.
PART = 4096
# Images in the hands of the threads: a part is never in memory.
_AHEAD = 64
_FAILURES = "failures"
_METADATA = {f"{_FAILURES}?": ({str: str}, None)}
# Of a part: the sizes of its files, and the SHA-256 of all but the images, of which
# array_record verifies a checksum of its own when it reads them.
CHECKSUMS = "checksums.json"
_FILES = {"bytes": manifests.COUNT, "sha256?": manifests.SHA256}
_SCHEMA = {"format": manifests.one_of(1), "files": {str: _FILES}}


class Prepared(NamedTuple):
    """A dataset that is ready, and what is not in it."""

    images: Sequence[dict]
    """{"id", "image", "label"} as bytes, in no order"""
    failures: dict[str, str]
    """id of each image that cannot be used -> reason"""


@dataclasses.dataclass(eq=False, repr=False)
class _Part:
    """The examples of a part; what cannot be read is an InputError that names it."""

    examples: Any
    folder: pathlib.Path

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        with _naming_damage(self.folder):
            example = self.examples[index]
            if None in example.values():  # of a file without checksums, cut short.
                raise ValueError(f"image {index} is not there")
            return example


class LabelledImages(tfds.core.GeneratorBasedBuilder):
    """Images, shrunk to a largest side, with their ids and class names."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, *, records: Sequence[LabelledImage], max_side: int, **kwargs: Any
    ):
        self.records, self.max_side = records, max_side
        self.threads: int = 1
        self.advance: Callable[[], None] = lambda: None
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of instances, each a class.",
            features=tfds.features.FeaturesDict(
                {"id": text, "image": image, "label": text}
            ),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[bytes, dict]]:
        failures = self.info.metadata[_FAILURES] = {}
        with futures.ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(self.records), _AHEAD):
                records = self.records[start : start + _AHEAD]
                sides = itertools.repeat(self.max_side)
                for id, example in pool.map(_make_example, records, sides):
                    if isinstance(example, str):
                        failures[id] = example
                    else:
                        yield example["id"], example
                    self.advance()


def prepare(
    name: str,
    records: Sequence[LabelledImage],
    directory: str,
    *,
    max_side: int,
    threads: int = 4,
    part: tuple[int, int] = (0, 1),
    ray: str | None = None,
    progress: bool = True,
) -> Prepared:
    """The dataset of `records`, built under `directory` where it is not there already.

    A part is named by a digest of its ids, labels, file sizes and `max_side`: where
    files change, only their parts are built again. `NAME-quarantine.csv` there lists
    the images that cannot be used. InputError if that is all, of all parts.

    Args:
      name: of the source, in messages.
      records: ordered by id.
      max_side: of a stored image, in pixels.
      part: (i, n), builds each n-th part from the i-th, as one of n processes; what is
        returned are the parts that are there.
      ray: address of a cluster that builds them; "": one on this machine.
    """
    if not directory:
        raise InputError("data.directory is empty: name the folder of prepared images")
    check_utf8(directory)
    failures: dict[str, str] = {}
    whole = _builder(records, directory, max_side)
    builders = [whole]
    if not _is_prepared(whole):
        pieces = [records[i : i + PART] for i in range(0, len(records), PART)]
        builders = [_builder(each, directory, max_side) for each in pieces]
        mine = builders[part[0] :: part[1]]
        if ray is None:
            _build_parts(name, mine, threads, progress)
        else:
            failures = _build_on_cluster(name, mine, directory, ray, progress)
            builders = [_builder(each, directory, max_side) for each in pieces]
    for builder in builders:
        folder = pathlib.Path(builder.data_dir)
        with _naming_damage(folder):
            found = builder.info.metadata
        manifests.check(found, _METADATA, folder / "metadata.json", _repair(folder))
        failures |= found.get(_FAILURES) or {}
    write_quarantine(pathlib.Path(directory, f"{name}-quarantine.csv"), failures)
    there = [builder for builder in builders if _is_prepared(builder)]
    if part == (0, 1) and not there:
        reason = next(iter(failures.values()))
        raise InputError(f"data.sources.{name}: no image can be read: {reason}")
    decoders = {"image": tfds.decode.SkipDecoding()}
    parts = []
    for each in there:
        folder = pathlib.Path(each.data_dir)
        if not (folder / CHECKSUMS).exists():
            # Of version 0.1, or of a process that was killed before its last file.
            with contextlib.suppress(OSError):  # It may be there to read only.
                _write_checksums(folder)
        with _quiet_tfds(), _naming_damage(folder):
            examples = each.as_data_source("train", decoders=decoders)
        parts.append(_Part(examples, folder))
    sources = list(map(grain.MapDataset.source, parts))
    joined: Any = grain.MapDataset.concatenate(sources) if sources else ()
    return Prepared(joined, failures)


def _builder(
    records: Sequence[LabelledImage], directory: str, max_side: int
) -> LabelledImages:
    sizes = (r.path.stat().st_size if r.path.is_file() else -1 for r in records)
    rows = zip(records, sizes, strict=True)
    lines = [str(max_side), *(f"{r.id}\t{r.label}\t{size}" for r, size in rows)]
    config = tfds.core.BuilderConfig(name=digest("\n".join(lines), 16))
    folder = pathlib.Path(directory, LabelledImages.name, config.name)
    folder /= str(LabelledImages.VERSION)
    if folder.is_dir():
        _check_files(folder)
    with _quiet_tfds(), _naming_damage(folder):
        return LabelledImages(
            records=records, max_side=max_side, data_dir=str(directory), config=config
        )


@contextlib.contextmanager
def _naming_damage(folder: pathlib.Path) -> Iterator[None]:
    """A context that reads a part: whatever tfds and others raise is its damage."""
    try:
        yield
    except (InputError, MemoryError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise InputError(
            f"{folder}: a damaged part of the prepared images ({reason}); "
            f"{_repair(folder)}"
        ) from None


def _repair(folder: pathlib.Path) -> str:
    return f"remove {folder}, and the same command prepares it again"


def _write_checksums(folder: pathlib.Path) -> None:
    # Hidden is what another process is about to write, or left when it was killed.
    files = {
        path.name: {"bytes": path.stat().st_size}
        | ({"sha256": sha256_of(path)} if path.suffix == ".json" else {})
        for path in sorted(folder.iterdir())
        if path.name != CHECKSUMS and not path.name.startswith(".")
    }
    manifests.write_manifest(folder / CHECKSUMS, {"format": 1, "files": files})


def _check_files(folder: pathlib.Path) -> None:
    """InputError for files of a part that changed; version 0.1 wrote no checksums."""
    known: dict[str, Any] = {"dataset_info.json": None}
    if (folder / CHECKSUMS).exists():
        read = manifests.read_manifest(folder / CHECKSUMS, _SCHEMA, _repair(folder))
        known |= read["files"]
    for name, expected in known.items():
        path = folder / pathlib.PurePath(name).name  # never outside of the folder.
        if not path.is_file():
            raise InputError(f"{path}: is missing; {_repair(folder)}")
        if expected is None:
            continue
        sha256 = expected.get("sha256")
        same = path.stat().st_size == expected["bytes"]
        if not same or (sha256 and sha256_of(path) != sha256):
            raise InputError(
                f"{path}: damaged, its checksum differs; {_repair(folder)}"
            )


def _build_on_cluster(
    name: str,
    builders: Sequence[LabelledImages],
    directory: str,
    ray: str,
    progress: bool,
) -> dict[str, str]:
    """Has those built that are not there; why the images of the others cannot be used.

    They are those of which no image can be read, or whose building failed.
    """
    missing = [builder.records for builder in builders if not _is_prepared(builder)]
    count, failures = sum(map(len, missing)), dict[str, str]()
    work = functools.partial(_open_work, directory, builders[0].max_side)
    seen = next((r.path for part in missing for r in part if r.path.is_file()), "")
    done = jobs.run(ray, work, missing, directory, most=1, seen=seen, accelerated=False)
    with track(f"prepare {name}", count, progress=progress) as advance:
        for (records,), unusable, reason in done:
            if reason:
                unusable = {record.id: f"{record.path}: {reason}" for record in records}
            failures |= unusable
            advance(len(records))
    for builder in builders:
        _clear_unfinished(builder)
    return failures


def _open_work(directory: str, max_side: int) -> Callable[[Share], dict]:
    """What a worker of a cluster does with a share: the images of one part."""

    def build(share: Sequence[Sequence[LabelledImage]]) -> dict[str, str]:
        (records,) = share
        builder = _builder(records, directory, max_side)
        _build_parts("", [builder], jobs.CORES, progress=False)
        return {} if _is_prepared(builder) else dict(builder.info.metadata[_FAILURES])

    return build


def _build_parts(
    name: str, builders: Sequence[LabelledImages], threads: int, progress: bool
) -> None:
    """Builds those that are not there; one of which no image can be read never is."""
    missing = [builder for builder in builders if not _is_prepared(builder)]
    count = sum(len(builder.records) for builder in missing)
    with track(f"prepare {name}", count, progress=progress) as advance:
        for builder in missing:
            builder.threads, builder.advance = threads, advance
            try:
                _build(builder)
            except AssertionError:  # tfds asserts that there is at least one example.
                if len(builder.info.metadata[_FAILURES]) < len(builder.records):
                    raise


def _is_prepared(builder: LabelledImages) -> bool:
    """Whether it is there; tfds warns of each that is not, as all are at first."""
    with _quiet_tfds(), _naming_damage(pathlib.Path(builder.data_dir)):
        return builder.is_prepared()


def _build(builder: LabelledImages, **options: Any) -> None:
    _clear_unfinished(builder)
    config = tfds.download.DownloadConfig(try_download_gcs=False, **options)
    with _quiet_tfds():
        try:
            builder.download_and_prepare(download_config=config)
        except OSError:
            # Another process, as of a sweep, may have been faster.
            if not _is_prepared(builder):
                raise
        builder.info.read_from_directory(builder.data_dir)
    _write_checksums(pathlib.Path(builder.data_dir))


def _clear_unfinished(builder: LabelledImages) -> None:
    """Deletes what a process that was killed has left of this part."""
    for left in pathlib.Path(builder.data_path).parent.glob("incomplete.*"):
        clear_abandoned(left)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Without tfds' bars, prints and warnings."""
    tfds.disable_progress_bar()
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _make_example(record: LabelledImage, max_side: int) -> tuple[str, dict | str]:
    """Its id and what is stored of it, or why it cannot be used."""
    try:
        encoded = _shrunk_jpeg(read_record(record), max_side)
    except InputError as error:
        return record.id, str(error)
    # As bytes, for names of files may not be UTF-8.
    id, label = (encode_name(str(x)) for x in (record.id, record.label))
    return record.id, {"id": id, "image": encoded, "label": label}


def _shrunk_jpeg(image: UInt8[np.ndarray, "H W 3"], max_side: int) -> bytes:
    return encode_jpeg(shrink(image, max_side), JPEG_QUALITY)


def shrink(
    image: UInt8[np.ndarray, "H W 3"], max_side: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with a longer side of at most `max_side`."""
    scale = max_side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def write_quarantine(path: pathlib.Path, failures: dict[str, str]) -> None:
    """Lists the images that cannot be used; without any there is no list."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path, "w") as file:
        csv.writer(file).writerows([("image", "reason"), *sorted(failures.items())])
