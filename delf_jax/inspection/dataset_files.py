"""Ground truth, results and lists of datasets, in words and counts."""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

from delf_jax.conversion import weight_files
from delf_jax.files import InputError, read_json
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2, revisited, revisited_metrics, sfm120k
from delf_jax.formats.delf import index_mapping
from delf_jax.formats.pickles import plain_data
from delf_jax.formats.tensorflow import tfrecord
from delf_jax.progress import format_count

KNOWN = (
    "ground truth and lists of datasets (.mat, .pkl, .json), metrics.txt, CSVs of "
    "GLDv2 and index mappings, TFRecords"
)
# As the original names them; not the parts of a TensorFlow checkpoint.
_TFRECORD = re.compile(r"(?!.*\.data-\d{5}-of-).+(-\d{5}-of-\d{5}|\.tfrecord)")
_PREDICTED = {"landmarks", "images"}  # columns.

Format = Callable[[pathlib.Path], Iterator[str]]


def find_format(path: pathlib.Path) -> Format | None:
    """The formatter of a file, by its name; None if that is unknown."""
    if _TFRECORD.fullmatch(path.name):
        return _format_tfrecord
    if path.suffix == ".pkl" and weight_files.recognise(path) is not None:
        return None
    return _SUFFIXES.get(path.suffix)


def _format_ground_truth(path: pathlib.Path) -> Iterator[str]:
    truth = revisited.read_ground_truth(path)
    yield f"{path}: ground truth"
    yield f"queries: {len(truth.query_images)}, index images: {len(truth.index_images)}"
    for name in ("easy", "hard", "junk"):
        lists = getattr(truth, name)
        if lists is not None:
            yield f"{name}: {sum(map(len, lists))} index images of all queries"
    yield f"boxes of queries: {'none' if truth.boxes is None else len(truth.boxes)}"


def _format_pickle(path: pathlib.Path) -> Iterator[str]:
    content = plain_data.read_pickle(path)
    if isinstance(content, Mapping) and "imlist" in content:
        yield from _format_ground_truth(path)
        return
    parts = sfm120k.read_sfm120k(path)
    yield f"{path}: pairs of SfM-120k"
    for name, part in parts.items():
        images = format_count(len(part.images), "image")
        yield f"{name}: {images}, {format_count(len(part.queries), 'pair')}"


def _format_json(path: pathlib.Path) -> Iterator[str]:
    content = read_json(path)
    if not isinstance(content, Mapping) or "imlist" not in content:
        raise InputError(
            f"{path}: not a known kind of JSON; ground truth has imlist, qimlist, gnd"
        )
    yield from _format_ground_truth(path)


def _format_metrics(path: pathlib.Path) -> Iterator[str]:
    ranks, summaries = revisited_metrics.read_metrics(path)
    yield f"{path}: results on Revisited Oxford and Paris"
    yield f"protocols: {len(summaries)}, ranks: {', '.join(map(str, ranks))}"
    for protocol, summary in summaries.items():
        yield f"{protocol}: mAP {100 * summary.mean_average_precision:.2f}"


def _format_csv(path: pathlib.Path) -> Iterator[str]:
    header = tables.read_header(path)
    if "Usage" in header:
        yield from _format_solution(path, header)
        return
    listed = "predictions" if _PREDICTED & {*header} else "images"
    # The first whose columns are there: those with more come first.
    kinds: dict[type[tuple], str] = {
        index_mapping.IndexBox: "index mapping",
        gldv2.Attribution: "authors and licenses of GLDv2",
        gldv2.TrainImage: "training images of GLDv2",
        gldv2.CleanLandmark: "cleaned training images of GLDv2",
        gldv2.LabelledImage: "labelled images of GLDv2",
        gldv2.Category: "categories of GLDv2",
        gldv2.Relabelling: "labels in place of landmark ids of GLDv2",
        gldv2.ImageId: f"{listed} of GLDv2",
    }
    kind = next((k for k in kinds if k.__annotations__.keys() <= {*header}), None)
    if kind is None:
        raise InputError(f"{path}: not a known kind of CSV ({', '.join(header)})")
    rows, images, landmarks = 0, 0, set()
    for row in tables.read_rows(path, kind):
        rows += 1
        images += len(getattr(row, "images", ()))
        landmarks.add(getattr(row, "landmark_id", None))
    yield f"{path}: {kinds[kind]}"
    yield f"rows: {rows}"
    if "images" in kind.__annotations__:
        yield f"images: {images}"
    if "landmark_id" in kind.__annotations__:
        yield f"landmarks: {len(landmarks - {None})}"


def _format_solution(path: pathlib.Path, header: list[str]) -> Iterator[str]:
    task = "recognition" if "landmarks" in header else "retrieval"
    solution = gldv2.read_solution(path, task)
    yield f"{path}: solution of GLDv2 {task}"
    yield ", ".join(f"{name}: {len(part)}" for name, part in solution._asdict().items())


def _format_tfrecord(path: pathlib.Path) -> Iterator[str]:
    labels = [place.label for place in tfrecord.list_examples(path)]
    yield f"{path}: TFRecord of training images"
    yield f"images: {len(labels)}"
    yield f"labels: {len(set(labels) - {None})}"


_SUFFIXES: dict[str, Format] = {
    ".mat": _format_ground_truth,
    ".pkl": _format_pickle,
    ".json": _format_json,
    ".txt": _format_metrics,
    ".csv": _format_csv,
}
