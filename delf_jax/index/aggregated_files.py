"""Aggregated images as files of the original, one for each, as its extraction writes.

    NAME.vlad       one array [K * D]
    NAME.asmk       a pair: residuals [W * D], float32, and visual words [W]
    NAME.asmk_star  a pair: packed residuals [W * ceil(D / 8)], and visual words [W]

Regional ones [D2R] are called .rvlad, .rasmk and .rasmk_star. NAME is an id without its
extension. aggregated.json says what was aggregated how: what is unchanged is kept.
"""

import os
import pathlib
from typing import Any

import numpy as np

from delf_jax.files import digest
from delf_jax.formats.delf import datum
from delf_jax.index import aggregation
from delf_jax.index.aggregation import Vocabulary
from delf_jax.manifests import read_manifest, write_manifest
from delf_jax.progress import track
from delf_jax.store import delf_files
from delf_jax.store.feature_store import FeatureStore, StoreReport

SIDECAR = "aggregated.json"
# A killed job loses the images since the sidecar was last written.
_SAVE_IMAGES = 256


def write_aggregated(
    images: FeatureStore,
    words: Vocabulary,
    out: str | os.PathLike,
    kind: str,
    *,
    normalize: bool = True,
    progress: bool = True,
) -> StoreReport:
    """Brings the files of a folder up to date with a store; what was done.

    Args:
      kind: "vlad", "asmk" or "asmk_star".
      normalize: VLAD to unit length.
    """
    aggregation.check_words(words, images)
    names = delf_files.file_names(images.ids, images.path)
    out, key = pathlib.Path(out), _key(images, words, kind, normalize)
    known = _read_known(out / SIDECAR, key)
    suffix = f".r{kind}" if words.regional else f".{kind}"
    paths = [out / f"{name}{suffix}" for name in names]
    rows = list(zip(images.ids, images.stamps, paths, strict=True))
    done = {
        id: stamp for id, stamp, p in rows if known.get(id) == stamp and p.is_file()
    }
    todo = [place for place, id in enumerate(images.ids) if id not in done]
    try:
        with track("aggregate", len(todo), progress=progress) as advance:
            for number, place in enumerate(todo, 1):
                id, stamp, path = rows[place]
                image, where = images[place], f"{images.path}, image {id}"
                if kind == "vlad":
                    vlad = aggregation.aggregate_vlad(image, words, normalize, where)
                    datum.write_datum(path, vlad)
                else:
                    found = aggregation.aggregate(image, words, kind, where)
                    of_image = found.visual_words.astype(np.uint32)
                    datum.write_datum_pair(path, found.residuals.reshape(-1), of_image)
                done[id] = stamp
                if number % _SAVE_IMAGES == 0:
                    write_manifest(out / SIDECAR, {"key": key, "images": done})
                advance()
    finally:
        write_manifest(out / SIDECAR, {"key": key, "images": done})
    return StoreReport(len(todo), len(rows) - len(todo), 0, dict(images.failed))


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
