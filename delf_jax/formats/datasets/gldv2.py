"""The CSV files of Google Landmarks v2 [GLDv2], and where its images lie.

Tables are read with `tables.read_rows(path, TrainImage)` and so on, row by row: the
4.1 million rows of train.csv take some seconds and the memory of one row. Solutions and
predictions are accepted and refused as by the original's evaluation, but for ".jpg"
after ids, which have none, and numbers that are not finite.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.names import plain

_ID = re.compile(r"[A-Za-z0-9_-]{3,}")


class TrainImage(NamedTuple):
    """A row of train.csv."""

    id: str
    url: str
    landmark_id: int | None
    """None of some images of GLDv1"""


class CleanLandmark(NamedTuple):
    """A row of train_clean.csv."""

    landmark_id: int
    images: tuple[str, ...]


class LabelledImage(NamedTuple):
    """A row of index_image_to_landmark.csv; train.csv has these columns, too."""

    id: str
    landmark_id: int | None


class ImageId(NamedTuple):
    """A row of index.csv or test.csv."""

    id: str


class Category(NamedTuple):
    """A row of train_label_to_category.csv or index_label_to_category.csv."""

    landmark_id: int
    category: str
    """address of a category of Wikimedia Commons"""


class Attribution(NamedTuple):
    """A row of train_attribution.csv."""

    id: str
    url: str
    author: str
    license: str
    title: str


class Relabelling(NamedTuple):
    """A row of relabeling.csv, which the original writes beside its TFRecords."""

    new_label: int
    old_label: int | str
    """a name where the source has names, as ours may"""


class Solution(NamedTuple):
    """What is right, by test image: landmark ids, or ids of index images."""

    public: dict[str, list]
    private: dict[str, list]
    ignored: list[str]


class Recognition(NamedTuple):
    """The landmark predicted for a test image."""

    landmark_id: int
    score: float


class Predictions(NamedTuple):
    """By test image: a `Recognition`, or ids of index images, best first."""

    public: dict[str, Any]
    private: dict[str, Any]


def image_path(root: str | os.PathLike, image_id: str) -> pathlib.Path:
    """root/a/b/c/abc....jpg, for an id that begins with a, b, c."""
    image_id = plain(image_id)
    if not _ID.fullmatch(image_id):
        raise InputError(f"{image_id!r:.80} is not an id of GLDv2")
    return pathlib.Path(root, *image_id[:3], f"{image_id}.jpg")


def read_train(path: str | os.PathLike) -> Iterator[LabelledImage]:
    """Image by image, what train.csv or train_clean.csv lists, by its header.

    Images of GLDv1 that show no known landmark have None.
    """
    if "images" not in tables.read_header(path):
        yield from tables.read_rows(path, LabelledImage)
        return
    for landmark in tables.read_rows(path, CleanLandmark):
        for image_id in landmark.images:
            yield LabelledImage(image_id, landmark.landmark_id)


def read_solution(path: str | os.PathLike, task: str) -> Solution:
    """The solution of `task`, "recognition" or "retrieval".

    As in the original, the header is not looked at, blank lines are refused, and of
    several lines of one image the last one counts.
    """
    _, parse, _ = _task(task)
    solution = Solution({}, {}, [])
    parts = {"Public": solution.public, "Private": solution.private}
    for line in _below_header(path):
        if len(line.fields) < 3:
            raise InputError(f"{line.where}: needs three columns, the third for Usage")
        image_id, text, usage = plain(line.fields[0]), *line.fields[1:3]
        if usage == "Ignored":
            solution.ignored.append(image_id)
        elif usage in parts:
            parts[usage][image_id] = parse(text, line.where)
        else:
            raise InputError(
                f"{line.where}, Usage: expected Public, Private or Ignored, got "
                f"{usage!r:.80} of test image {image_id}"
            )
    return solution


def read_predictions(
    path: str | os.PathLike, solution: Solution, task: str
) -> Predictions:
    """What was predicted in `task` for the images of the solution.

    As in the original: the header is not looked at; blank lines, ignored images and
    empty predictions are left out; an image that comes twice, that the solution does
    not know, or whose prediction is malformed is an InputError.
    """
    _, _, parse = _task(task)
    ignored = set(solution.ignored)
    predictions = Predictions({}, {})
    for line in _below_header(path):
        if not line.fields:
            continue
        image_id = plain(line.fields[0])
        if image_id in predictions.public or image_id in predictions.private:
            raise InputError(f"{line.where}, id: test image {image_id} is repeated")
        if image_id in ignored:
            continue
        if len(line.fields) < 2:
            raise InputError(f"{line.where}: no second column, which is the prediction")
        if not line.fields[1]:
            continue
        value = parse(line.fields[1], line.where)
        if image_id in solution.public:
            predictions.public[image_id] = value
        elif image_id in solution.private:
            predictions.private[image_id] = value
        else:
            raise InputError(
                f"{line.where}, id: test image {image_id} is not part of the solution"
            )
    return predictions


def write_solution(path: str | os.PathLike, solution: Solution, task: str) -> None:
    """Writes a solution; public images first, then private, then ignored ones."""
    parts = {"Public": solution.public, "Private": solution.private}
    rows = [
        (image_id, " ".join(map(str, values)), usage)
        for usage, part in parts.items()
        for image_id, values in part.items()
    ]
    rows += [(image_id, "None", "Ignored") for image_id in solution.ignored]
    tables.write_rows(path, ("id", _task(task)[0], "Usage"), rows)


def write_predictions(
    path: str | os.PathLike, predictions: Mapping[str, Any], task: str
) -> None:
    """Writes predictions by test image: `Recognition`, or ids of index images."""
    rows = ((image_id, _joined(value)) for image_id, value in predictions.items())
    tables.write_rows(path, ("id", _task(task)[0]), rows)


def _joined(value: Recognition | Iterable[str]) -> str:
    if isinstance(value, Recognition):
        return f"{int(value.landmark_id)} {float(value.score)!r}"
    return " ".join(value)


def _below_header(path: str | os.PathLike) -> Iterator[tables.Line]:
    tables.read_header(path)  # there is one.
    return itertools.islice(tables.read_lines(path), 1, None)


def _landmark_ids(text: str, where: str) -> list[int]:
    try:
        return [int(word) for word in text.split(" ")] if text else []
    except ValueError:
        raise InputError(f"{where}, landmarks: {text!r:.80} is not a number") from None


def _image_ids(text: str, where: str) -> list[str]:
    # An empty field is one empty id, which no prediction finds, as in the original.
    return list(map(plain, text.split(" ")))


def _words(text: str, where: str) -> list[str]:
    """Words between single blanks, less an empty one at the end, as in the original."""
    words = list(map(plain, text.split(" ")))
    return words if words[-1] else words[:-1]


def _recognition(text: str, where: str) -> Recognition:
    words = _words(text, where)
    if len(words) != 2:
        raise InputError(
            f"{where}, landmarks: a prediction is a landmark id and a score, but "
            f"{text!r:.80} has {len(words)} parts"
        )
    try:
        return Recognition(int(words[0]), tables.read_float(words[1]))
    except ValueError:
        raise InputError(
            f"{where}, landmarks: {text!r:.80} is not a landmark id and a score"
        ) from None


_Parser = Callable[[str, str], Any]
# By task the name of the second column, its parser in solutions, and in predictions.
_TASKS: dict[str, tuple[str, _Parser, _Parser]] = {
    "recognition": ("landmarks", _landmark_ids, _recognition),
    "retrieval": ("images", _image_ids, _words),
}


def _task(name: str) -> tuple[str, _Parser, _Parser]:
    if name not in _TASKS:
        raise InputError(f"task {name!r}: use one of {', '.join(_TASKS)}")
    return _TASKS[name]
