"""Buckets (gs://, s3://): commands work on copies of them on this machine.

What is new in a bucket comes before a command does its work, what is new in the copy
goes back after it, what tells of other files last. A note of what both were like
says which of them has changed since; what two machines add under names of their own is
all kept. Photos may come one by one, when they are looked at: until then a file of
their size and time stands for each.
"""

import contextlib
import datetime
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from delf_jax import files
from delf_jax.files import InputError, digest
from delf_jax.progress import format_bytes, say, track

_ADDRESS = re.compile("(gs|s3|az|abfss?|hdfs)://")
# Files that are fetched or sent in one call.
_TOGETHER = 64
# What differs when the content does, and when it was written, by store.
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "created")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
# Of a training, which holds its folder while it runs.
_HELD = ".lock"


class Unreachable(InputError):
    """A bucket does not answer, or not as it should; it may, later."""


class Mirror(NamedTuple):
    """A copy of what lies at an address, a folder or a file."""

    url: str
    path: pathlib.Path
    is_written: bool = False
    """what changes in the copy goes back; of all else the bucket stays as it is"""
    on_demand: bool = False
    """files come when they are looked at"""


# Those of the command that runs.
_active: list[Mirror] = []


def addresses(values: Mapping[str, Any]) -> list[str]:
    """Those among texts and lists of texts; `@` may stand before that of a list."""
    parts = ([v] if isinstance(v, str) else v for v in values.values())
    texts = (text for part in parts if isinstance(part, (str, list)) for text in part)
    return [t.removeprefix("@") for t in texts if _is_address(t)]


def _is_address(text: Any) -> bool:
    return isinstance(text, str) and bool(_ADDRESS.match(text.removeprefix("@")))


@contextlib.contextmanager
def mirrored(
    values: dict[str, Any],
    root: pathlib.Path,
    written: Collection[str] = (),
    on_demand: Collection[str] = (),
) -> Iterator[None]:
    """While it lasts, addresses among the values are the paths of copies.

    InputError, with addresses in the place of paths, for what goes wrong meanwhile.

    Args:
      values: by name, as of `addresses`; changed in place.
      root: the folder for copies.
      written: values whose files the command writes.
      on_demand: values whose files come when they are looked at.
    """
    try:
        for name, value in list(values.items()):
            how = name in written, name in on_demand
            values[name] = _to_copies(value, root, *how)
        for mirror in _active:
            pull(mirror)
        try:
            yield
        except BaseException:
            with contextlib.suppress(InputError):  # What went wrong first is told.
                _push_all()
            raise
        _push_all()
    except InputError as error:
        message = str(error)
        for mirror in _active:
            message = message.replace(str(mirror.path), mirror.url)
        raise InputError(message, error.image) from None
    finally:
        for mirror in _active:
            if mirror.on_demand:
                _drop_stand_ins(mirror)
        _active.clear()


def _to_copies(
    value: Any, root: pathlib.Path, is_written: bool, on_demand: bool
) -> Any:
    """A text, or a list, with the paths of copies, which from now on are active."""
    if isinstance(value, list):
        return [_to_copies(each, root, is_written, on_demand) for each in value]
    if not _is_address(value):
        return value
    at, url = "@" * value.startswith("@"), value.removeprefix("@").rstrip("/")
    path = _place(root, url)
    if all(mirror.path != path for mirror in _active):
        _active.append(Mirror(url, path, is_written, on_demand and not at))
    return f"{at}{path}"


def _push_all() -> None:
    for mirror in _active:
        push(mirror)


def active() -> list[Mirror]:
    """The copies that the command works on."""
    return list(_active)


def adopt(mirrors: Iterable[Mirror]) -> None:
    """Works on these copies, too, which another process has begun with."""
    _active[:] = mirrors


def of(path: str | os.PathLike) -> Mirror | None:
    """The copy that a path lies in."""
    whole = pathlib.Path(os.path.abspath(path))
    return next((m for m in _active if whole.is_relative_to(m.path)), None)


def pull(mirror: Mirror) -> None:
    """Brings the copy up to date with the bucket."""
    with _note(mirror) as known, _asking(mirror):
        remote = _listing(mirror)
        for name in known.keys() - remote.keys():
            path = _inside(mirror, name)
            if _look(path) == known.pop(name)[1:]:
                path.unlink(missing_ok=True)
        wanted = [
            name
            for name, info in remote.items()
            if known.get(name, [None])[0] != _first(info, _STAMPS)
            or not _is_there(mirror, _inside(mirror, name))
        ]
        size = sum(remote[name].get("size") or 0 for name in wanted)
        mirror.path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(mirror.path.parent).free
        if not mirror.on_demand and size > free:
            raise InputError(
                f"{mirror.url}: {format_bytes(size)} are to be copied to the cache, "
                f"which has room for {format_bytes(free)}; let DELF_JAX_CACHE name "
                "another folder"
            )
        if wanted and not mirror.on_demand:
            say(f"{mirror.url}: {format_bytes(size)} are copied to {mirror.path}")
        shown = not mirror.on_demand
        with track("copy", len(wanted), "file", progress=shown) as advance:
            for some in _batches(wanted):
                paths = [_inside(mirror, name) for name in some]
                if mirror.on_demand:
                    for path, name in zip(paths, some, strict=True):
                        _stand_in(path, remote[name])
                else:
                    _get(mirror, some, [_time(remote[name]) for name in some])
                for name, path in zip(some, paths, strict=True):
                    known[name] = [_first(remote[name], _STAMPS), *_look(path)]
                advance(len(some))


def fetch(paths: Iterable[pathlib.Path]) -> None:
    """Gets photos that so far something stands for."""
    absent: dict[Mirror, list[pathlib.Path]] = {}
    for path in paths:
        mirror = of(path)
        if mirror is not None and mirror.on_demand and _stands_in(path):
            absent.setdefault(mirror, []).append(path)
    for mirror, those in absent.items():
        with _asking(mirror):
            for some in _batches(those):
                names = [_name(mirror, path) for path in some]
                _get(mirror, names, [path.stat().st_mtime_ns for path in some])


def push(mirror: Mirror) -> None:
    """Brings the bucket up to date with the copy, if that is written to.

    InputError if nothing is left of a copy: somebody has cleared the cache.
    """
    if not mirror.is_written:
        return
    with _note(mirror) as known, _asking(mirror):
        looks = _looks(mirror)
        changed = {
            name: look
            for name, look in looks.items()
            if known.get(name, [])[1:] != look
        }
        gone = [name for name in known if name not in looks]
        if not changed and not gone:
            return
        if not looks:
            raise InputError(
                f"{mirror.url}: its copy in the cache has gone, and nothing of the "
                "bucket is deleted; run the same command again"
            )
        system, root = _open(mirror)
        with track("send", len(changed), "file") as advance:
            for some in _in_order(changed):
                targets = [_key(root, name) for name in some]
                system.put([str(_inside(mirror, name)) for name in some], targets)
                system.invalidate_cache()
                for name, target in zip(some, targets, strict=True):
                    stamp = _first(system.info(target), _STAMPS)
                    known[name] = [stamp, *changed[name]]
                advance(len(some))
        for name in gone:
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(_key(root, name))  # `rm` takes [ and * for patterns.
            del known[name]
    say(f"{mirror.url}: is up to date with {mirror.path}")


def _in_order(changed: Mapping[str, list[int]]) -> Iterator[Sequence[str]]:
    """Files that are sent together, then one by one what tells of other files."""
    written = sorted(changed, key=lambda name: changed[name][1])
    yield from _batches([name for name in written if not name.endswith(".json")])
    yield from ([name] for name in written if name.endswith(".json"))


def _place(root: pathlib.Path, url: str) -> pathlib.Path:
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in rest or "\0" in rest:
        raise InputError(f"{url}: expected {scheme}://BUCKET/PATH")
    return root.joinpath("buckets", scheme, *parts)


@contextlib.contextmanager
def _note(mirror: Mirror) -> Iterator[dict[str, list]]:
    """By name, of what both sides have: stamp in the bucket; size and time here.

    One process at a time.
    """
    folder = mirror.path.parents[len(mirror.url.split("://")[1].split("/"))] / "notes"
    folder /= digest(mirror.url, 16)
    path = folder / "note.json"
    with files.changing(folder):
        known: dict[str, list] = {}
        with contextlib.suppress(FileNotFoundError, InputError):
            known = files.read_json(path)
        before = dict(known)
        try:
            yield known
        finally:
            if known != before:
                files.write_json(path, known)


@contextlib.contextmanager
def _asking(mirror: Mirror) -> Iterator[None]:
    """InputError for what a bucket answers with."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(
            f"{mirror.url}: {str(error).rstrip('.')}; pip install 'delf_jax[buckets]' "
            "has what gs:// and s3:// need"
        ) from None
    except Exception as error:  # Each store has a family of its own.
        reason = " ".join(str(error).split())[:300].rstrip(".")
        kind = type(error).__name__
        raise Unreachable(f"{mirror.url}: {reason or kind} ({kind})") from None


def _open(mirror: Mirror) -> tuple[Any, str]:
    """The file system of a bucket, and the place in it."""
    import fsspec

    system, root = fsspec.url_to_fs(mirror.url)
    return system, root.rstrip("/")


def _listing(mirror: Mirror) -> dict[str, Mapping[str, Any]]:
    """What the bucket says of each file, by its name in the copy ("": the whole)."""
    system, root = _open(mirror)
    system.invalidate_cache()
    found = {}
    for key, info in system.find(root, detail=True).items():
        name = key[len(root) + 1 :]
        parts = name.split("/")
        is_path = all(parts) and not {".", ".."} & set(parts) and "\0" not in name
        if key == root or is_path:
            found[name] = info
    return found


def _get(mirror: Mirror, names: Sequence[str], times: Sequence[int | None]) -> None:
    """Files of the bucket, each complete or absent, with these times."""
    system, root = _open(mirror)
    targets = [_inside(mirror, name) for name in names]
    parts = [files.temporary_path(target) for target in targets]
    try:
        system.get([_key(root, name) for name in names], [str(part) for part in parts])
        for part, target, time in zip(parts, targets, times, strict=True):
            if time is not None:
                os.utime(part, ns=(time, time))
            os.replace(part, target)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _stand_in(path: pathlib.Path, info: Mapping[str, Any]) -> None:
    part = files.temporary_path(path)
    with open(part, "xb") as file:
        file.truncate(info.get("size") or 0)
    if (time := _time(info)) is not None:
        os.utime(part, ns=(time, time))
    os.replace(part, path)


def _drop_stand_ins(mirror: Mirror) -> None:
    """What nobody has looked at goes: for other commands it is no photo."""
    with _note(mirror) as known:
        for name in list(known):
            if _stands_in(path := _inside(mirror, name)):
                path.unlink()
                del known[name]


def _is_there(mirror: Mirror, path: pathlib.Path) -> bool:
    return path.exists() and (mirror.on_demand or not _stands_in(path))


def _stands_in(path: pathlib.Path) -> bool:
    """Whether a file has a size, and nothing on the disk."""
    try:
        look = path.stat()
    except OSError:
        return False
    return look.st_size > 0 and not look.st_blocks


def _looks(mirror: Mirror) -> dict[str, list[int]]:
    """What each file of the copy is like, by name; unfinished ones are left out."""
    if mirror.path.is_file():
        return {"": _look(mirror.path)}
    found = {}
    for folder, _, names in os.walk(mirror.path):
        for name in names:
            path = pathlib.Path(folder, name)
            if files.is_temporary(path) or name == _HELD:
                continue
            if look := _look(path):  # Another process may just have removed it.
                found[_name(mirror, path)] = look
    return found


def _look(path: pathlib.Path) -> list[int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _inside(mirror: Mirror, name: str) -> pathlib.Path:
    return mirror.path / name if name else mirror.path


def _name(mirror: Mirror, path: pathlib.Path) -> str:
    return path.relative_to(mirror.path).as_posix()


def _key(root: str, name: str) -> str:
    return f"{root}/{name}" if name else root


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _TOGETHER):
        yield items[start : start + _TOGETHER]


def _first(info: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((str(info[name]) for name in names if info.get(name)), "")


def _time(info: Mapping[str, Any]) -> int | None:
    """When a file was written, in nanoseconds; None if the store does not say."""
    found = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(found, str):
        found = datetime.datetime.fromisoformat(found)
    if isinstance(found, datetime.datetime):
        found = found.timestamp()
    return None if found is None else int(found * 1e9)
