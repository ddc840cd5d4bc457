"""Lists of labelled training images: folders, CSVs, landmark datasets, TFRecords."""

import contextlib
import itertools
import operator
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2, sfm120k
from delf_jax.formats.tensorflow import tfrecord
from delf_jax.image_files import find_images, is_hidden
from delf_jax.images import decode_image, read_image
from delf_jax.names import finder
from delf_jax.progress import add_note, format_count


class LabelledImage(NamedTuple):
    """One labelled image."""

    id: str
    path: pathlib.Path
    label: str | int
    """a number where the source numbers its landmarks; empty: none"""
    offset: int = -1
    """where in a file of TFRecords it begins; -1: the file is the image"""


def list_records(
    path: str,
    images: str = "",
    label_column: str = "label",
    split: str = "",
    *,
    as_listed: bool = False,
) -> list[LabelledImage]:
    """The images of a source of training images, ordered by id.

    Args:
      path: a folder, whose subfolders are classes; a .csv file with a header, a column
        `image` and a column of labels; train.csv or train_clean.csv of [GLDv2], or the
        folder of one, with images at a/b/c/abc....jpg; its test.csv or index.csv, whose
        images have no label; train.csv of GLDv1, with images beside it;
        retrieval-SfM-120k.pkl, whose classes are 3D models [GeM]; or the original's
        TFRecords, as a folder of one split or a pattern such as `train-*-of-*`.
      images: folder that a CSV's image names are relative to; empty: the CSV's own. Of
        SfM-120k: the folder that holds ims/; empty: the folder above the pkl's.
      label_column: of a CSV with a column `image`.
      split: "train" or "validation", a part by `split_records`; empty: all.
      as_listed: in the order of the source instead, or of `split_records`.
    """
    if not path:
        raise InputError("path of training images is empty: name a folder or CSV")
    found = _find(path, images, label_column)
    if split:
        found = part_of(list(found), split)
    listed = list(found)
    records = sorted(listed, key=operator.attrgetter("id"))
    if not records:
        raise InputError(f"{path}: no images found to train on")
    for one, other in itertools.pairwise(records):
        if one.id == other.id:
            raise InputError(f"{path}: image {one.id} is listed twice")
    return listed if as_listed else records


def _find(path: str, images: str, label_column: str) -> Iterable[LabelledImage]:
    """What a source lists, in its order."""
    source = pathlib.Path(path)
    if shards := tfrecord.find_shards(path):
        return (record for shard in shards for record in _of_shard(shard))
    if table := landmark_table(source):
        return _of_landmarks(table, pathlib.Path(images or table.parent))
    if _columns(source) == {"id"}:
        return _of_ids(source, pathlib.Path(images or source.parent))
    if source.is_dir():
        return _of_folder(source)
    if source.suffix == ".pkl" and source.is_file():
        return _of_models(source, pathlib.Path(images or source.parent.parent))
    if source.is_file():
        root = pathlib.Path(images or source.parent)
        return _of_csv(source, root, label_column)
    raise InputError(f"{path}: no such folder, CSV or TFRecords of training images")


def classes_without_images(path: str, records: Sequence[LabelledImage]) -> list[str]:
    """The classes of a folder of class folders of which `records` has no image."""
    source = pathlib.Path(path)
    # Landmarks are numbered: their folders are no classes, nor are those of TFRecords.
    if not source.is_dir() or not all(isinstance(r.label, str) for r in records):
        return []
    folders = {p.name for p in source.iterdir() if p.is_dir() and not is_hidden(p.name)}
    return sorted(folders - {record.label for record in records})


def read_record(record: LabelledImage) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB image of a record; InputError, naming it, if it cannot be read."""
    if record.offset < 0:
        return read_image(record.path)
    encoded = tfrecord.read_example(record.path, record.offset).encoded
    try:
        return decode_image(encoded)
    except InputError as error:
        raise InputError(f"{record.path}, image {record.id}: {error}") from None


def part_of(records: Sequence[LabelledImage], split: str) -> list[LabelledImage]:
    """The part of `split_records` that is called `split`."""
    if split not in ("train", "validation"):
        raise InputError(f"split is {split!r}: use 'train' or 'validation'")
    train, validation = split_records(records)
    return train if split == "train" else validation


def split_records(
    records: Sequence[LabelledImage], share: float = 0.2, seed: int = 0
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """(train, validation) of the released code's build_image_dataset.

    Of each class a share, and at least one, validates: a class of one image is not
    trained on. The draws depend on the order of the records, there that of the table.
    Each part is shuffled in the end.
    """
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    by_label: dict[str | int, list[LabelledImage]] = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    train, validation = [], []
    for members in by_label.values():
        order = rng.permutation(len(members))
        count = max(1, int(share * len(members)))
        validation += [members[i] for i in order[:count]]
        train += [members[i] for i in order[count:]]
    # The released code draws for these first.
    validation = [validation[i] for i in rng.permutation(len(validation))]
    train = [train[i] for i in rng.permutation(len(train))]
    return train, validation


def _of_folder(source: pathlib.Path) -> Iterator[LabelledImage]:
    for name, path in find_images([source]):
        label, inside, _ = name.partition("/")
        yield LabelledImage(name, path, label if inside else "")


def _of_csv(
    source: pathlib.Path, root: pathlib.Path, label: str
) -> Iterator[LabelledImage]:
    rows = [*tables.read_columns(source, {"image": str, label: str})]
    for image, name in rows:
        if not image:
            raise InputError(f"{source}: a row of {label} {name!r} names no image")
    paths = _locate([image for image, _ in rows], root, source)
    for (image, name), path in zip(rows, paths, strict=True):
        yield LabelledImage(image, path, name)


def _locate(
    names: Sequence[str], root: pathlib.Path, source: pathlib.Path
) -> list[pathlib.Path]:
    """The files of a list in a folder; of names that are none, the photos they fit.

    InputError if two names are of one photo.
    """
    paths = [root / name for name in names]
    absent = [place for place, path in enumerate(paths) if not path.is_file()]
    found = []
    if absent:
        with contextlib.suppress(InputError):  # There are none in the folder.
            found = find_images([root])
    find = finder([id for id, _ in found])
    for place in absent:
        fitting = find(names[place])
        if len(fitting) == 1:
            paths[place] = found[fitting[0]][1]
    owners: dict[str, str] = {}
    for name, path in zip(names, paths if found else (), strict=False):
        other = owners.setdefault(os.path.abspath(path), name)
        if other != name:
            raise InputError(
                f"{source}: {other!r:.80} and {name!r:.80} are one photo; list it once"
            )
    return paths


def landmark_table(source: pathlib.Path) -> pathlib.Path | None:
    """The table of [GLDv2] that a source is or holds; InputError if it holds two."""
    inside = [source / "train.csv", source / "train_clean.csv"]
    candidates = inside if source.is_dir() else [source]
    found = [p for p in candidates if p.is_file() and _lists_landmarks(p)]
    if len(found) > 1:
        raise InputError(
            f"{source}: name the one to train on, {found[0]} or {found[1]}"
        )
    return found[0] if found else None


def _lists_landmarks(path: pathlib.Path) -> bool:
    columns = _columns(path)
    return "landmark_id" in columns and bool(columns & {"id", "images"})


def _columns(path: pathlib.Path) -> set[str]:
    """Of a CSV, by its header."""
    is_table = path.suffix == ".csv" and path.is_file()
    return set(tables.read_header(path)) if is_table else set()


def _of_ids(table: pathlib.Path, root: pathlib.Path) -> Iterator[LabelledImage]:
    for image in tables.read_rows(table, gldv2.ImageId):
        yield LabelledImage(image.id, _photo_of(root, image.id), "")


def _of_landmarks(table: pathlib.Path, root: pathlib.Path) -> Iterator[LabelledImage]:
    without = 0
    for image in gldv2.read_train(table):
        if image.landmark_id is None:
            without += 1
            continue
        yield LabelledImage(image.id, _photo_of(root, image.id), image.landmark_id)
    if without:
        add_note(
            f"{table}: {format_count(without, 'image')} without a landmark left out"
        )


def _photo_of(root: pathlib.Path, image_id: str) -> pathlib.Path:
    path = gldv2.image_path(root, image_id)
    flat = root / path.name
    # GLDv1 was a list of addresses: who fetched them keeps them in one folder.
    beside = not path.is_file() and flat.is_file()
    return flat if beside else path


def _of_models(path: pathlib.Path, root: pathlib.Path) -> Iterator[LabelledImage]:
    """The images that SfM-120k trains on."""
    pairs = sfm120k.read_sfm120k(path).get("train")
    if pairs is None or pairs.clusters is None:
        raise InputError(f"{path}: lists no training images with their clusters")
    for image, cluster in zip(pairs.images, pairs.clusters.tolist(), strict=True):
        yield LabelledImage(image, sfm120k.image_path(root, image), cluster)


def _of_shard(path: pathlib.Path) -> Iterator[LabelledImage]:
    for place in tfrecord.list_examples(path):
        label = "" if place.label is None else place.label
        yield LabelledImage(place.id, path, label, place.offset)
