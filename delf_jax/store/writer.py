"""The files of a feature store: manifest and shards, gathered, merged, cleared away."""

import errno
import pathlib
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from delf_jax.features import Features
from delf_jax.files import InputError, clear_leftovers, digest
from delf_jax.manifests import (
    COUNT,
    MODEL,
    POSITIVE,
    one_of,
    owned,
    read_manifest,
    write_manifest,
)
from delf_jax.progress import track
from delf_jax.store.shards import (
    FORMAT,
    SUFFIX,
    Record,
    Shard,
    check_features,
    checksums,
    open_shard,
    read_counts,
    read_features,
    read_size,
    write_shard,
)

MANIFEST = "manifest.json"
# What is called otherwise is not ours: neither read nor deleted.
_NAME = re.compile(rf"\d+-[0-9a-f]{{12}}{re.escape(SUFFIX)}")
_SCHEMA = {
    "format": one_of(FORMAT),
    "key": str,
    "model": MODEL,
    # Of global descriptors, if they are not of `model`.
    "global_model?": MODEL | {"settings": {str: object}},
    # Those that are read again; `settings_to_json` has all.
    "settings": {
        "image_scales?": [float],
        "global_scales?": [COUNT],
        "max_image_size?": (POSITIVE, None),
        "min_image_size?": (COUNT, None),
        "pca?": (str, None),
        "global_pca?": (str, None),
    },
    "images": COUNT,
    "failed": {str: str},
    "with_boxes?": bool,
}
# A killed job loses what it computed in this many seconds, or images.
FLUSH_SECONDS, FLUSH_IMAGES = 30.0, 256
# More shards than this that are smaller than this many bytes are merged ...
SMALL_SHARDS, SMALL_BYTES = 8, 64 * 2**20
# ... into shards of this many bytes at most, unless one image alone is larger.
SHARD_BYTES = 256 * 2**20
# Records without features that one shard takes, some 100 bytes each.
_RECORDS = 100_000


class NoRoomError(InputError):
    """The disk is full."""


class Place(NamedTuple):
    """Where the record of an image stands."""

    record: Record
    shard: Shard
    row: int
    """of the shard's arrays; meaningless unless the outcome is "extracted\""""

    @property
    def extracted(self) -> bool:
        return self.record.outcome == "extracted"

    def features(self) -> Features:
        return read_features(self.shard, self.row)

    def counts(self) -> tuple[int, int]:
        return read_counts(self.shard, self.row)

    def bytes(self) -> int:
        """What the features of this image take, about."""
        return read_size(self.shard, self.row) if self.extracted else 0


def current_records(shards: Iterable[Shard]) -> dict[str, Place]:
    """For each id the record of its latest run, and where its features are."""
    current: dict[str, Place] = {}
    for shard in shards:
        row = 0
        for record in shard.records:
            known = current.get(record.id)
            if known is None or known.record.sequence <= record.sequence:
                current[record.id] = Place(record, shard, row)
            row += record.outcome == "extracted"
    return current


class Writer:
    """Gathers records and features and writes a shard of them every now and then."""

    def __init__(self, out: pathlib.Path, key: str, known: Iterable[Place]):
        owned(out / "shards")
        self.out, self.key = out, key
        self.sequence = 1 + max((place.record.sequence for place in known), default=0)
        self.written: list[pathlib.Path] = []
        self._clear()

    def add(self, record: Record, features: Features | None = None) -> None:
        self._records.append(record)
        if features is not None:
            self._features.append(features)
        old = time.monotonic() - self._started > FLUSH_SECONDS
        if old or len(self._records) >= FLUSH_IMAGES:
            self.flush()

    def note(self, ids: Iterable[str], outcome: str) -> None:
        """Writes the outcome of images without features, at once.

        Up to 100,000 of them are in one shard: all are written, or none. A later record
        of the same run replaces theirs.
        """
        listed = [Record(id, self.sequence, outcome) for id in ids]
        for start in range(0, len(listed), _RECORDS):
            _write(self.out, self.key, listed[start : start + _RECORDS], [])
        self.sequence += bool(listed)

    def flush(self) -> None:
        if self._records:
            records, features = self._records, self._features
            # Also on an error they are gone: flushing again would fail again.
            self._clear()
            self._write_what_fits(records, features)
            self.written = merge_small(self.out, self.key, self.written)

    def _write_what_fits(self, records: list[Record], features: list[Features]) -> None:
        """Writes a shard; on a full disk, of as many images as there is room for."""
        try:
            self.written.append(_write(self.out, self.key, records, features))
        except NoRoomError:
            if len(records) == 1:
                raise
            half = len(records) // 2
            extracted = sum(r.outcome == "extracted" for r in records[:half])
            self._write_what_fits(records[:half], features[:extracted])
            self._write_what_fits(records[half:], features[extracted:])

    def _clear(self) -> None:
        self._records: list[Record] = []
        self._features: list[Features] = []
        self._started = time.monotonic()


def merge_small(
    out: pathlib.Path, key: str, paths: Sequence[pathlib.Path]
) -> list[pathlib.Path]:
    """Merges the small ones of these shards if they are many; the paths that remain."""
    small = [path for path in paths if path.stat().st_size < SMALL_BYTES]
    if len(small) <= SMALL_SHARDS:
        return list(paths)
    places = current_records(open_shard(path) for path in small).values()
    batches: list[list[Place]] = [[]]
    size = 0
    for place in sorted(places, key=lambda place: place.record.id):
        if batches[-1] and size + place.bytes() > SHARD_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(place)
        size += place.bytes()
    merged = []
    try:
        for batch in batches:
            features = [place.features() for place in batch if place.extracted]
            merged.append(_write(out, key, [p.record for p in batch], features))
    except InputError:  # No room, or damaged. Nothing is lost by leaving them.
        for path in merged:
            path.unlink(missing_ok=True)
        return list(paths)
    for path in small:
        path.unlink(missing_ok=True)
    return [path for path in paths if path not in small] + merged


def write_share(
    out: pathlib.Path, key: str, records: list[Record], features: list[Features]
) -> pathlib.Path:
    """Writes a shard under a name that its content has: written twice, it is one."""
    content = digest([key, records, checksums(features)], 12)
    return _write(out, key, records, features, content)


def _write(
    out: pathlib.Path,
    key: str,
    records: list[Record],
    features: list[Features],
    name: str = "",
) -> pathlib.Path:
    sequence = max(record.sequence for record in records)
    name = name or uuid.uuid4().hex[:12]
    path = out / "shards" / f"{sequence:06d}-{name}{SUFFIX}"
    try:
        write_shard(path, key, records, features)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoomError(
            f"{out}: the disk is full; what was finished is kept: make room and run "
            "the same command again to resume"
        ) from None
    return path


def read_shards(
    out: pathlib.Path, key: str | None, damaged: list[pathlib.Path] | None = None
) -> list[Shard]:
    """The shards of a key, or all, oldest run first.

    With a list `damaged`, damaged ones are left out and listed there.
    """
    while True:
        shards = []
        try:
            for path in _list(out, _NAME):
                try:
                    shards.append(open_shard(path))
                except InputError:
                    if damaged is None:
                        raise
                    damaged.append(path)
        except FileNotFoundError:  # Another process has just merged it: look again.
            continue
        return [shard for shard in shards if key in (None, shard.key)]


def sound_shards(
    out: pathlib.Path, key: str, thorough: bool, progress: bool
) -> tuple[list[Shard], list[pathlib.Path], set[str]]:
    """The shards of a key that are sound, the others, and images that only these have.

    What is sound of a damaged shard is in a new one, in which its other images are
    pending; a truncated one tells nothing.

    Args:
      thorough: read all of their features, too.
    """
    damaged: list[pathlib.Path] = []
    shards, sound = read_shards(out, key, damaged), []
    known = current_records(shards).items()
    images = {id for id, place in known if place.record.outcome != "removed"}
    total = sum(len(shard.sound) for shard in shards) if thorough else 0
    with track("check", total, progress=progress) as advance:
        for shard in shards:
            try:
                if thorough:
                    check_features(shard, advance)
                sound.append(shard)
            except InputError:
                damaged.append(shard.path)
                sound.append(_mended(out, shard))
    return sound, damaged, images - current_records(sound).keys()


def _mended(out: pathlib.Path, shard: Shard) -> Shard:
    """A new shard with what is sound of one that is damaged."""
    owned(out / "shards")
    records, features, row = [], [], 0
    for record in shard.records:
        if record.outcome == "extracted":
            try:
                features.append(read_features(shard, row))
            except InputError:
                record = record._replace(outcome="pending")
            row += 1
        records.append(record)
    return open_shard(_write(out, shard.key, records, features))


def open_manifest(out: pathlib.Path) -> dict[str, Any]:
    """manifest.json; InputError if it is absent, damaged or of another format."""
    path = out / MANIFEST
    if not path.exists():
        inside = out / "store"  # Of an index.
        hint = f"; name {inside}" if (inside / MANIFEST).exists() else ""
        raise InputError(f"{out}: no feature store here ({MANIFEST} is missing){hint}")
    repair = "index or extract the same photos again to have it written anew"
    return read_manifest(path, _SCHEMA, repair)


def begin(out: pathlib.Path, manifest: dict[str, Any]) -> bool:
    """Creates the folder of a store and its manifest; whether its features are old.

    They are if made with another model or other settings.
    """
    known = known_key(out, manifest)
    owned(out / "shards").mkdir(parents=True, exist_ok=True)
    if known == manifest["key"]:
        _note_moved_models(out, manifest)
        return False
    write_manifest(out / MANIFEST, manifest)
    return known is not None


def _note_moved_models(out: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes where the models of a store are now, if it says where they were."""
    if "global_model" in manifest:
        known = open_manifest(out)
        models = {name: manifest[name] for name in ("model", "global_model")}
        if known != known | models:
            write_manifest(out / MANIFEST, known | models)


class Run(NamedTuple):
    """A store that is being brought up to date."""

    writer: Writer
    known: dict[str, Place]
    removed: int
    kept: int
    """images that are not among those of the run"""
    damaged: int
    """shards that were deleted"""


def start(
    out: pathlib.Path,
    manifest: dict[str, Any],
    ids: set[str],
    *,
    prune: bool,
    part: tuple[int, int] = (0, 1),
    thorough: bool = True,
    progress: bool = True,
) -> Run:
    """A store that is ready for a run that extracts these images.

    Damaged shards are mended or deleted. Images that are new, or that only a damaged
    shard had, are pending.

    Args:
      part: (i, n) takes every n-th of the images to be removed.
      prune: remove images that are not among these.
      thorough: see `sound_shards`.
    """
    key = manifest["key"]
    sound, damaged, lost = sound_shards(out, key, thorough, progress)
    known = current_records(sound)
    writer = Writer(out, key, known.values())
    live = {id for id, place in known.items() if place.record.outcome != "removed"}
    # Before the manifest: never is a store taken for whole that is to have more.
    writer.note(sorted((ids if prune else ids | lost) - live), "pending")
    # They were whole when they got their names: no process is still writing them.
    for path in damaged:
        path.unlink(missing_ok=True)
    begin(out, manifest)
    others = sorted(live - ids)
    removed = others[part[0] :: part[1]] if prune else []
    if removed and progress:
        print(f"{out}: forgetting {len(others)} of {len(live)} images, not among these")
    writer.note(removed, "removed")
    kept = 0 if prune else len(others)
    return Run(writer, known, len(removed), kept, len(damaged))


def known_key(out: pathlib.Path, manifest: dict[str, Any]) -> str | None:
    """The key of the store in a folder, None if there is none.

    InputError if this manifest cannot take the place of the one there.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file is in the way of the folder of the store")
    known = _known_manifest(out, manifest["key"])
    if known.get("key") == manifest["key"]:
        return known["key"]
    if known and "" in (_fingerprint(known), _fingerprint(manifest)):
        raise InputError(
            f"{out}: has features {_origin(known)}, which do not match those "
            f"{_origin(manifest)}: name another folder"
        )
    return known.get("key")


def _known_manifest(out: pathlib.Path, key: str) -> dict[str, Any]:
    """The manifest, if there is one; {} if it is damaged and all shards are of a key.

    InputError if it is damaged, and they may be of something else.
    """
    if not (out / MANIFEST).exists():
        return {}
    try:
        return open_manifest(out)
    except InputError as error:
        if all(shard.key == key for shard in read_shards(out, None, [])):
            return {}
        raise InputError(
            f"{error}, or name another folder: these photos were extracted by another "
            "model or with other settings"
        ) from None


def empty_manifest(
    key: str, model: dict[str, str], settings: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """What manifest.json says of a store that is empty."""
    made_by = {"format": FORMAT, "key": key, "model": model, "settings": settings}
    return {**made_by, **more, "images": 0, "failed": {}}


def _origin(manifest: dict[str, Any]) -> str:
    """Where features come from, in words."""
    name = manifest["model"]["name"]
    if _fingerprint(manifest):
        return f"of model {name}"
    settings = manifest["settings"].items()
    return f"from files ({', '.join([str(name), *(f'{k} {v}' for k, v in settings)])})"


def _fingerprint(manifest: dict[str, Any]) -> str:
    """Of the model; "" if the features were read from files."""
    return manifest["model"]["fingerprint"]


def finish(out: pathlib.Path, writer: Writer, *, alone: bool) -> None:
    """Leaves few shards, and a manifest that counts them.

    Args:
      alone: no other process fills the store: files of no shard may be deleted.
    """
    _drop_announcements(out, writer.key)
    clear_leftovers(out / "shards")
    if alone:
        _clear_away(out, writer.key)
        merge_small(out, writer.key, [s.path for s in read_shards(out, writer.key)])
    else:
        merge_small(out, writer.key, writer.written)
    current = current_records(read_shards(out, writer.key))
    records = [current[id].record for id in sorted(current)]
    manifest = open_manifest(out)
    manifest["images"] = sum(record.outcome == "extracted" for record in records)
    manifest["failed"] = {
        record.id: record.reason for record in records if record.outcome == "failed"
    }
    write_manifest(out / MANIFEST, manifest)


def _drop_announcements(out: pathlib.Path, key: str) -> None:
    """Deletes shards that only say of images, all of them done since, to be pending."""
    shards = read_shards(out, key)
    current = {id: p.record.outcome for id, p in current_records(shards).items()}
    for shard in shards:
        outcomes = {record.outcome for record in shard.records}
        now = (current[record.id] for record in shard.records)
        if outcomes == {"pending"} and "pending" not in now:
            shard.path.unlink(missing_ok=True)


def _clear_away(out: pathlib.Path, key: str) -> None:
    """Deletes shards of another model or setting."""
    kept = {shard.path for shard in read_shards(out, key, [])}
    for path in _list(out, _NAME):
        if path not in kept:
            path.unlink(missing_ok=True)


def _list(out: pathlib.Path, pattern: re.Pattern) -> list[pathlib.Path]:
    """The files of a store that have names of ours, the oldest run first."""
    folder = out / "shards"
    return sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name))
