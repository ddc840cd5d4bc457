"""Feature stores as files of the original, one or two for each image, and back.

    delf  NAME.delf
    delg  NAME.delg_local and NAME.delg_global, or one of them

NAME is the id of an image without its extension, folders included; images.json has the
whole ids and sizes. Numbers are those of the store, see `DelfFeatures`. Features of
boxes go to NAME_0.delf and so on, in pixels of the crop, listed in index_mapping.csv
[D2R]; they are read as images of their own.
"""

import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from delf_jax.features import Features, LocalFeatures, crops_of
from delf_jax.files import InputError, digest, write_bytes
from delf_jax.formats.delf import datum, index_mapping
from delf_jax.formats.delf import features as feature_files
from delf_jax.image_files import walk
from delf_jax.manifests import Is, is_inside, read_manifest, write_manifest
from delf_jax.progress import track
from delf_jax.store import feature_store
from delf_jax.store import writer as store_files
from delf_jax.store.feature_store import StoreReport
from delf_jax.store.shards import FORMAT, Record, look_at, why_unreadable

# The file of each branch; lengths of descriptors, by branch, that all images must have.
Paths = Mapping[str, pathlib.Path]
Lengths = Mapping[str, int]

SIDECAR, MAPPING = "images.json", "index_mapping.csv"
_ROW = Is(
    "an id and two sizes",
    lambda row: (
        type(row) is list
        and [*map(type, row)] == [str, int, int]
        and all(0 <= size < 2**31 for size in row[1:])
    ),
)
_REPAIR = "remove it to use names of files as ids"


def write_files(
    source: str | os.PathLike,
    out: str | os.PathLike,
    layout: str,
    *,
    progress: bool = True,
) -> StoreReport:
    """Writes the features of a store as files; how many.

    Files that have the same bytes already are left alone. InputError if two images
    would share a name, or the layout has no file for what the store has.
    """
    images = feature_store.open_store(source)
    names = file_names(images.ids, source)
    out, written, sidecar = pathlib.Path(out), 0, {}
    mapping: list[index_mapping.IndexBox] = []
    known = set(names)
    with track("features", len(names), progress=progress) as advance:
        for number, name in enumerate(names):
            id, features = images.ids[number], images[number]
            stems = _stems(name, features, known)
            boxes = enumerate(stems, index_mapping.WHOLE_IMAGE)
            mapping += [index_mapping.IndexBox(s, number, box) for box, s in boxes]
            files = {
                f"{stem}{suffix}": data
                for stem, part in zip(stems, crops_of(features), strict=True)
                for suffix, data in encode_image(part, layout).items()
            }
            if not files:
                raise InputError(
                    f"{source}: has no local features; --to=delg takes global ones"
                )
            written += any(
                [update_file(out / file, data) for file, data in files.items()]
            )
            sidecar[name] = [id, *features.image_size]
            advance()
    made_by = {key: images.manifest[key] for key in ("model", "settings")}
    write_manifest(out / SIDECAR, {"made_by": made_by, "images": sidecar})
    if images.manifest.get("with_boxes"):
        index_mapping.write_index_mapping(out / MAPPING, mapping)
    return StoreReport(written, len(names) - written, 0, dict(images.failed))


def read_files(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    layout: str,
    *,
    name: str = "delf files",
    prune: bool = False,
    progress: bool = True,
) -> StoreReport:
    """Brings a store up to date with the files of a folder; what was done.

    Such a store has no fingerprint of a model: it is not searched with one, and is not
    mixed with other features. The size of an image that images.json does not have is
    (0, 0). Damaged files are reported, and so are those whose descriptors differ in
    length from the first. InputError if all files of a kind are damaged.

    Args:
      name: of what made the features.
      prune: remove images whose files are not there.
    """
    folder, out = pathlib.Path(folder), pathlib.Path(out)
    found = _find(folder, layout)
    known_images = _read_sidecar(folder / SIDECAR)
    lengths = common_lengths(list(found.values()))
    branches = {branch: lengths.get(branch) for branch in (LOCAL, GLOBAL)}
    settings = {"files": layout, **branches}
    key = digest([FORMAT, name, settings], 16)
    model = {"name": name, "fingerprint": ""}
    manifest = store_files.empty_manifest(key, model, settings)
    store_files.known_key(out, manifest)
    ids = _ids([*found, *known_images], known_images, folder / SIDECAR)
    ids = {stem: ids[stem] for stem in found}
    run = store_files.start(
        out, manifest, {*ids.values()}, prune=prune, progress=progress
    )
    writer, known = run.writer, run.known
    now, todo = writer.sequence, []
    for stem, paths in sorted(found.items()):
        id, height, width = known_images.get(stem, (stem, 0, 0))
        record = look_at(Record(id, now, "extracted"), *paths.values())
        if id not in known or known[id].record._replace(sequence=now) != record:
            todo.append((record, paths, (height, width)))
    failed = {}
    try:
        with track("features", len(todo), progress=progress) as advance:
            for record, paths, size in todo:
                try:
                    writer.add(record, read_image(paths, lengths, size))
                except InputError as error:
                    failed[record.id] = str(error)
                    place = known.get(record.id)
                    unreadable = any(map(why_unreadable, paths.values()))
                    # Features of a file that cannot be read now are kept.
                    if not (place is not None and place.extracted and unreadable):
                        writer.add(record._replace(outcome="failed", reason=str(error)))
                advance()
    finally:
        writer.flush()
    store_files.finish(out, writer, alone=True)
    done, unchanged = len(todo) - len(failed), len(found) - len(todo)
    return StoreReport(done, unchanged, run.removed, failed, run.damaged, run.kept)


def file_names(ids: Sequence[str], source: str | os.PathLike) -> list[str]:
    """The ids without extensions; InputError if one is not a path within a folder."""
    check_names(ids, source)
    owners: dict[str, str] = {}
    for id in ids:
        name = str(pathlib.PurePosixPath(id).with_suffix(""))
        if name in owners:
            raise InputError(
                f"{source}: images {owners[name]} and {id} would share a file; give "
                "one of them another name"
            )
        owners[name] = id
    return list(owners)


def check_names(ids: Iterable[str], source: str | os.PathLike) -> None:
    """InputError if one of the ids is not a path within a folder, as short as it is."""
    for id in ids:
        path = pathlib.PurePosixPath(id)
        if not is_inside(id) or not path.name or str(path) != id:
            raise InputError(f"{source}: image {id!r} is not a path within a folder")


def _stems(name: str, features: Features, known: set[str]) -> list[str]:
    """What the files of an image and of its boxes are called, without extension."""
    boxes = 0 if features.regions is None else len(features.regions.counts) - 1
    stems = [f"{name}_{box}" for box in range(boxes)]
    for stem in stems:
        if stem in known:
            raise InputError(
                f"a box of image {name} and image {stem} would share a file; give the "
                "image another name"
            )
    return [name, *stems]


def update_file(path: pathlib.Path, data: bytes) -> bool:
    """Whether the file was written: not if it has these bytes already."""
    is_sized = path.is_file() and path.stat().st_size == len(data)
    if is_sized and path.read_bytes() == data:
        return False
    write_bytes(path, data)
    return True


def _find(folder: pathlib.Path, layout: str) -> dict[str, dict[str, pathlib.Path]]:
    """name -> "local" or "global" -> file, of all files of a layout in a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, dict[str, pathlib.Path]] = {}
    for branch, suffix in SUFFIXES[layout].items():
        for path in walk(folder, [suffix]):
            name = path.relative_to(folder).as_posix().removesuffix(suffix)
            found.setdefault(name, {})[branch] = path
    if not found:
        wanted = " or ".join(SUFFIXES[layout].values())
        raise InputError(f"{folder}: has no {wanted} files")
    return found


def _read_sidecar(path: pathlib.Path) -> dict[str, list]:
    """name -> [id, height, width], of the images that a store was written from."""
    if not path.exists():
        return {}
    return read_manifest(path, {"images": {str: _ROW}}, _REPAIR)["images"]


def _ids(
    stems: Iterable[str], images: Mapping[str, list], path: pathlib.Path
) -> dict[str, str]:
    """The ids of images by the names of their files; InputError if two have one."""
    owners: dict[str, str] = {}
    for stem in stems:
        id = images[stem][0] if stem in images else stem
        other = owners.setdefault(id, stem)
        if other != stem:
            raise InputError(
                f"{path}: files {other} and {stem} are both of image {id}; {_REPAIR}"
            )
    return {stem: id for id, stem in owners.items()}


LOCAL, GLOBAL = "local", "global"
# Endings of the files of an image, by layout.
SUFFIXES = {
    "delf": {LOCAL: ".delf"},
    "delg": {LOCAL: ".delg_local", GLOBAL: ".delg_global"},
}


def encode_image(features: Features, layout: str) -> dict[str, bytes]:
    """The bytes of each file of an image, by its ending."""
    suffixes, files = SUFFIXES[layout], {}
    if features.local is not None:
        local = feature_files.DelfFeatures(*map(np.asarray, features.local))
        files[suffixes[LOCAL]] = feature_files.encode_delf_features(local)
    if features.global_descriptor is not None and GLOBAL in suffixes:
        descriptor = np.asarray(features.global_descriptor, np.float32)
        files[suffixes[GLOBAL]] = datum.encode_datum(descriptor)
    return files


def is_feature_file(path: Any) -> TypeGuard[str | os.PathLike]:
    """Whether this is the name of a file with features of one image."""
    if not isinstance(path, str | os.PathLike):
        return False
    suffix = pathlib.Path(os.fspath(path)).suffix
    return any(suffix in suffixes.values() for suffixes in SUFFIXES.values())


def read_feature_file(path: str | os.PathLike) -> Features:
    """The features of one image: of a file, and of its other branch beside it.

    The size of the image is not in them: (0, 0). InputError if a file is damaged.
    """
    path = pathlib.Path(path)
    layout = next(s for s in SUFFIXES.values() if path.suffix in s.values())
    beside = {branch: path.with_suffix(suffix) for branch, suffix in layout.items()}
    paths = {b: each for b, each in beside.items() if each == path or each.is_file()}
    features = read_image(paths, common_lengths([paths]), (0, 0))
    return features._replace(image=str(path))


def common_lengths(images: Collection[Paths]) -> Lengths:
    """What the images have: branches of any, lengths of the first that say them.

    InputError if a branch has damaged files alone.
    """
    lengths: dict[str, int] = {}
    for branch in sorted({branch for paths in images for branch in paths}):
        damages = []
        for path in sorted(paths[branch] for paths in images if branch in paths):
            try:
                lengths[branch] = _read_branch(branch, path).shape[-1]
            except InputError as error:
                damages.append(error)
                continue
            if lengths[branch]:
                break
        if branch not in lengths:
            raise damages[0]
    return lengths


def _read_branch(branch: str, path: pathlib.Path) -> np.ndarray:
    """The descriptors [N, D] or the global descriptor [D] of a file."""
    if branch == LOCAL:
        return feature_files.read_delf_features(path).descriptors
    descriptor = datum.read_datum(path)
    if descriptor.ndim != 1 or descriptor.dtype != np.float32 or not len(descriptor):
        raise InputError(f"{path}: has no global descriptor")
    if not np.isfinite(descriptor).all():
        raise InputError(
            f"{path}: the global descriptor has numbers that are not finite"
        )
    return descriptor


def read_image(paths: Paths, lengths: Lengths, size: tuple[int, int]) -> Features:
    """The features of an image; InputError if they are not like the others'."""
    for branch in lengths:
        if branch not in paths:
            other = next(iter(paths.values()))
            raise InputError(f"{other}: other images have {branch} features, too")
    local = descriptor = None
    if LOCAL in lengths:
        local = LocalFeatures(*feature_files.read_delf_features(paths[LOCAL])[:4])
        if not len(local.descriptors):
            empty = np.zeros((0, lengths[LOCAL]), np.float32)
            local = local._replace(descriptors=empty)
        _check_length(paths[LOCAL], local.descriptors.shape[1], lengths[LOCAL])
    if GLOBAL in lengths:
        descriptor = _read_branch(GLOBAL, paths[GLOBAL])
        _check_length(paths[GLOBAL], len(descriptor), lengths[GLOBAL])
    return Features(local, descriptor, size)


def _check_length(path: pathlib.Path, length: int, wanted: int) -> None:
    if length != wanted:
        raise InputError(
            f"{path}: expected descriptors of {wanted} dimensions, as in other files, "
            f"got {length}"
        )
