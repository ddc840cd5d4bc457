"""Aggregated images as files of the original, one for each, as its extraction writes.

    NAME.vlad       one array [K * D]
    NAME.asmk       a pair: residuals [W * D], float32, and visual words [W]
    NAME.asmk_star  a pair: packed residuals [W * ceil(D / 8)], and visual words [W]

Regional ones [D2R] are called .rvlad, .rasmk and .rasmk_star. NAME is an id without its
extension. aggregated.json says what was aggregated how: what is unchanged is kept.

Such files, also the original's own, are compared as its perform_retrieval does.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from delf_jax import runtime
from delf_jax.cluster import jobs
from delf_jax.cluster.shares import Share
from delf_jax.files import InputError, digest
from delf_jax.formats.delf import datum
from delf_jax.image_files import walk
from delf_jax.index import aggregation
from delf_jax.index.aggregation import Vocabulary
from delf_jax.manifests import read_manifest, write_manifest
from delf_jax.progress import track
from delf_jax.retrieval import similarity
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.similarity import RELEASED_RULES, Rule
from delf_jax.store import delf_files, feature_store, writer
from delf_jax.store.feature_store import FeatureStore, StoreReport

SIDECAR = "aggregated.json"
KINDS = ("vlad", "asmk", "asmk_star")
Files = Sequence[pathlib.Path]
# A killed job loses the images since the sidecar was last written.
_SAVE_IMAGES = 256


def write_aggregated(
    images: FeatureStore,
    words: Vocabulary,
    out: str | os.PathLike,
    kind: str,
    *,
    normalize: bool = True,
    ray: str | None = None,
    progress: bool = True,
) -> StoreReport:
    """Brings the files of a folder up to date with a store; what was done.

    Args:
      kind: "vlad", "asmk" or "asmk_star".
      normalize: VLAD to unit length.
      ray: address of a cluster that aggregates; "": one on this machine.
    """
    aggregation.check_words(words, images)
    names = delf_files.file_names(images.ids, images.path)
    out, key = pathlib.Path(out), _key(images, words, kind, normalize)
    known = _read_known(out / SIDECAR, key)
    suffix = f".r{kind}" if words.regional else f".{kind}"
    paths = [out / f"{name}{suffix}" for name in names]
    stamps = dict(zip(images.ids, images.stamps, strict=True))
    files = list(zip(images.ids, paths, strict=True))
    done = {i: stamps[i] for i, p in files if known.get(i) == stamps[i] and p.is_file()}
    todo = [each for each in files if each[0] not in done]
    failed, unsaved = dict(images.failed), 0
    job = _Job(images.path, words, kind, normalize)
    try:
        with track("aggregate", len(todo), progress=progress) as advance:
            for share, reason in _write_all(job, images, todo, out, ray):
                if reason:
                    failed |= {id: f"{path}: {reason}" for id, path in share}
                else:
                    done |= {id: stamps[id] for id, _ in share}
                unsaved += len(share)
                if unsaved >= _SAVE_IMAGES:
                    write_manifest(out / SIDECAR, {"key": key, "images": done})
                    unsaved = 0
                advance(len(share))
    finally:
        # Workers are done in any order; ids are in theirs.
        ordered = {id: done[id] for id in images.ids if id in done}
        write_manifest(out / SIDECAR, {"key": key, "images": ordered})
    unchanged = len(files) - len(todo)
    return StoreReport(len(done) - unchanged, unchanged, 0, failed)


class _Job(NamedTuple):
    """What is written of each image."""

    store: pathlib.Path
    words: Vocabulary
    kind: str
    normalize: bool


def _write_all(
    job: _Job,
    images: FeatureStore,
    todo: Sequence[tuple[str, pathlib.Path]],
    out: pathlib.Path,
    ray: str | None,
) -> Iterator[tuple[Share, str]]:
    """Images whose files were written, and why they were not."""
    if ray is None:
        for each in todo:
            _write(job, images, *each)
            yield [each], ""
        return
    work = functools.partial(_open_work, job)
    seen = images.path / writer.MANIFEST
    for share, _, reason in jobs.run(ray, work, todo, out, seen=seen):
        yield share, reason
    jobs.clear_after(path for _, path in todo)


def _open_work(job: _Job) -> Callable[[Share], None]:
    """What a worker of a cluster does with a share: (id, file) of some images."""
    runtime.enable_compilation_cache()
    images = feature_store.open_store(job.store)

    def write(share: Share) -> None:
        for each in share:
            _write(job, images, *each)

    return write


def _write(job: _Job, images: FeatureStore, id: str, path: pathlib.Path) -> None:
    image, where = images[images.row(id)], f"{images.path}, image {id}"
    if job.kind == "vlad":
        vlad = aggregation.aggregate_vlad(image, job.words, job.normalize, where)
        datum.write_datum(path, vlad)
    else:
        found = aggregation.aggregate(image, job.words, job.kind, where)
        of_image = found.visual_words.astype(np.uint32)
        datum.write_datum_pair(path, found.residuals.reshape(-1), of_image)


def _key(images: FeatureStore, words: Vocabulary, kind: str, normalize: bool) -> str:
    """What the files depend on beside the images, as a short hex string."""
    centroids = digest(words.codebook.centroids.data)
    parts = [images.manifest["key"], centroids, words.assignments, kind, normalize]
    return digest(parts + (["regional"] if words.regional else []), 16)


def _read_known(path: pathlib.Path, key: str) -> dict[str, Any]:
    """id -> stamp of the images that were written as they would be now."""
    if not path.exists():
        return {}
    schema = {"key": str, "images": {str: str}}
    content = read_manifest(path, schema, "remove it to aggregate all again")
    return content["images"] if content["key"] == key else {}


class AggregatedFolder(NamedTuple):
    """The files of a folder, all of one kind."""

    path: pathlib.Path
    kind: str
    """one of KINDS"""
    regional: bool
    names: list[str]
    """ids without their extensions"""

    @property
    def suffix(self) -> str:
        return f".{'r' if self.regional else ''}{self.kind}"

    def file(self, place: int) -> pathlib.Path:
        return self.path / f"{self.names[place]}{self.suffix}"


def open_aggregated(folder: str | os.PathLike) -> AggregatedFolder:
    """The aggregated images of a folder; InputError if there are none, or two kinds."""
    folder = pathlib.Path(folder)
    suffixes = {f".{r}{kind}": (kind, bool(r)) for kind in KINDS for r in ("", "r")}
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of aggregated images")
    files = walk(folder, suffixes)
    found = sorted({file.suffix for file in files})
    if len(found) != 1:
        what = "several kinds, " + ", ".join(found) if found else "no aggregated images"
        raise InputError(f"{folder}: has {what}; name a folder of one of {[*suffixes]}")
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    return AggregatedFolder(folder, *suffixes[found[0]], sorted(names))


def similarities_of_files(
    queries: Files,
    index: Files,
    kind: str,
    rule: Rule,
    *,
    dimension: int | None = None,
    progress: bool = True,
) -> Float64[np.ndarray, "Q M"]:
    """Of all pairs, by the rules of the released code; each file is read once.

    InputError if a file is damaged, or of another codebook than the first.

    Args:
      kind: one of KINDS.
      dimension: of the descriptors; None: what fits the files.
    """
    if kind == "vlad":
        columns = _compare_vlad(queries, index)
    else:
        columns = _compare_asmk(queries, index, kind, rule, dimension)
    found = np.zeros((len(queries), len(index)))
    with track("compare", len(index), progress=progress) as advance:
        for place, column in enumerate(columns):
            found[:, place] = column
            advance()
    return found


def _compare_vlad(queries: Files, index: Files) -> Iterator[Float64[np.ndarray, " Q"]]:
    """The similarities of each of the index with the queries."""
    rows = [_read_vlad(file) for file in queries]
    for file, row in zip(queries, rows, strict=True):
        _check_size(file, len(row), len(rows[0]))
    for file in index:
        row = _read_vlad(file)
        _check_size(file, len(row), len(rows[0]))
        yield np.array([similarity.vlad_similarity(query, row) for query in rows])


def _compare_asmk(
    queries: Files, index: Files, kind: str, rule: Rule, dimension: int | None
) -> Iterator[Float64[np.ndarray, " Q"]]:
    """As `_compare_vlad`."""
    bits = 8 if kind == "asmk_star" else 1
    if dimension is None:
        dimension = bits * _width([*queries, *index])
    width = -(-dimension // bits)
    postings = similarity.postings_of([_read_asmk(f, kind, width) for f in queries])
    for file in index:
        yield similarity.asmk_similarities(
            _read_asmk(file, kind, width),
            postings,
            rule,
            dimension=dimension,
            **RELEASED_RULES,
        )


def _width(files: Iterable[pathlib.Path]) -> int:
    """Numbers of a residual in the first file that has one; 1 if none does."""
    for file in files:
        residuals, words = datum.read_datum_pair(file)
        if words.size:
            return max(1, residuals.size // words.size)
    return 1


def _read_asmk(file: pathlib.Path, kind: str, width: int) -> Aggregated:
    residuals, words = datum.read_datum_pair(file)
    _check_size(file, residuals.size, words.size * width)
    order = np.argsort(words.ravel())
    packed = kind == "asmk_star"
    if len({*words.ravel().tolist()}) < words.size or (
        packed and (residuals.dtype != np.uint32 or (residuals > 255).any())
    ):
        raise InputError(f"{file}: damaged: no {kind} of an image")
    values = residuals.astype(np.uint8 if packed else np.float32)
    rows = values.reshape(words.size, width)[order]
    return Aggregated(words.ravel()[order].astype(np.int32), rows)


def _read_vlad(file: pathlib.Path) -> Float32[np.ndarray, " KD"]:
    return datum.read_datum(file).astype(np.float32).ravel()


def _check_size(file: pathlib.Path, size: int, expected: int) -> None:
    if size != expected:
        raise InputError(
            f"{file}: has {size} numbers, expected {expected}: it is damaged, or of "
            "another codebook than the other files"
        )
