"""Datasets of others: what a download would fetch, and the files themselves.

A file that was interrupted resumes where it ended, if it is still the same on the
server; where an MD5 is published it is checked.
"""

import contextlib
import errno
import fnmatch
import hashlib
import http.client
import os
import pathlib
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from delf_jax.data import archives
from delf_jax.data.download_catalogue import DOWNLOADS, Files
from delf_jax.files import InputError
from delf_jax.progress import INTERVAL, print_failures

_CHUNK = 2**20
_TIMEOUT = 60.0  # seconds without a byte.
_PAUSE = 2.0  # seconds before the second attempt, twice as many before the third.
_ATTEMPTS = 4  # of one file, each from where the one before ended.
_MD5_LIMIT = 2**12  # bytes of a file with an MD5.


class Report(NamedTuple):
    """Counts of files, and the reasons of those that failed by path."""

    fetched: int
    present: int
    unpacked: int
    failed: dict[str, str]


def plan(name: str, pattern: str = "*") -> list[Files]:
    """The files of a dataset whose paths match a pattern; InputError if there are none.

    Numbered ones stay together where all match.
    """
    if name not in DOWNLOADS:
        known = ", ".join(DOWNLOADS)
        raise InputError(f"download: no dataset {name!r:.80}; there are {known}")
    found = []
    for files in DOWNLOADS[name].files:
        kept = [each for each in files.each() if fnmatch.fnmatch(each.path, pattern)]
        found += [files] if len(kept) == len(files.numbers) else kept
    if not found and DOWNLOADS[name].files:
        raise InputError(f"download: no file of {name} matches --only={pattern}")
    return found


def format_files(name: str, files: Sequence[Files]) -> Iterator[str]:
    """Lines of text: what would be fetched, from where, how large."""
    download = DOWNLOADS[name]
    yield f"{name}: {download.about}"
    yield f"  documented at {download.documented}"
    sizes = [entry.size and entry.size * len(entry.numbers) for entry in files]
    for entry, size in zip(files, sizes, strict=True):
        count, one = len(entry.numbers), next(entry.each())
        many = f" to {entry.numbers[-1]}, {count} files" if count > 1 else ""
        checked = ", MD5 checked" if entry.md5 else ""
        yield f"  {one.path}{many}: {format_size(size)}{checked}, from {one.url}"
    if any(sizes):
        more = "" if all(sizes) else " and what is not documented"
        yield f"  in all {format_size(sum(filter(None, sizes)))}{more}"


def fetch(
    files: Sequence[Files],
    out: str | os.PathLike,
    *,
    unpack: bool = False,
    progress: bool = True,
) -> Report:
    """Fetches the files that are not there; one that fails does not stop the others.

    Args:
      out: the folder of the dataset.
      unpack: archives, too, each once; see archives.py for what is refused.
    """
    if not os.fspath(out):
        raise InputError("--out is empty: name a folder for the files")
    out, failed = pathlib.Path(out), {}
    fetched = present = unpacked = 0
    singles = [each for entry in files for each in entry.each()]
    _check_room(singles, out)
    for each in singles:
        target = out / each.path
        try:
            if target.exists():
                present += 1
            else:
                fetch_file(each.url, each.md5, target, progress)
                fetched += 1
            if unpack and each.unpack:
                unpacked += _unpack(target, out / each.unpack)
        except InputError as error:
            failed[each.path] = str(error)
            print_failures([error])
    return Report(fetched, present, unpacked, failed)


def fetch_file(url: str, md5: str, target: pathlib.Path, progress: bool) -> None:
    """Writes a file; InputError if it cannot be fetched: what was fetched is kept."""
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    _no_link(part)
    _no_link(_tag(part))
    expected = _published_md5(md5) if md5 else None
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE * attempt)
        try:
            _resume(url, part, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and _is_of_disk(error):
                error.filename = error.filename or str(part)
                raise
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if attempt == _ATTEMPTS - 1 or final:
                raise InputError(
                    f"{url}: {_reason(error)}; what was fetched is kept: run the same "
                    "command again to resume"
                ) from None
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest() if md5 else None
    if found != expected:
        part.unlink()
        raise InputError(
            f"{url}: MD5 is {found}, not {expected}; the file was removed: run the "
            "same command again to fetch it"
        )
    os.replace(part, target)
    _tag(part).unlink(missing_ok=True)


def format_size(size: int | None) -> str:
    """A number of bytes for people: 1.9 GB."""
    if size is None:
        return "size not documented"
    count = float(size)
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether an archive was unpacked now; NAME.unpacked marks one that is already."""
    mark = archive.with_name(f"{archive.name}.unpacked")
    if mark.exists():
        return False
    archives.unpack(archive, folder)
    _no_link(mark)
    mark.touch()
    return True


def _check_room(files: Sequence[Files], out: pathlib.Path) -> None:
    """InputError if what is documented of the sizes already exceeds the disk."""
    needed = sum(each.size or 0 for each in files if not (out / each.path).exists())
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"{out}: {format_size(needed)} are needed and {format_size(free)} "
            "free; name another folder, or some of the files with --only"
        )


def _resume(url: str, part: pathlib.Path, progress: bool) -> None:
    """Appends to a file what it lacks; OSError if the connection ends before."""
    start, tag = _resumable(part)
    headers = {"User-Agent": "delf_jax", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    request = urllib.request.Request(url, headers=headers)
    with _opened(request, start) as answer:
        if answer is None:  # All of it is there.
            return
        sent = answer.headers.get("Content-Range", "")
        if answer.status != 206:
            start = 0
        elif not sent.startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise OSError("the server sent another part of the file than requested")
        total = _total(url, answer.headers.get("Content-Length"), start, part)
        _tag(part).write_text(_validator(answer.headers), encoding="utf-8")
        with open(part, "ab" if start else "wb") as file:
            file.writelines(_chunks(answer, part.stem, start, total, progress))
            done = file.tell()
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise OSError(f"the connection ended after {done} of {total} bytes")


def _no_link(path: pathlib.Path) -> None:
    """InputError if a link, or what is no regular file, is there."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: is a link or no regular file; remove it")


def _total(url: str, rest: str | None, start: int, part: pathlib.Path) -> int | None:
    """The bytes of the whole file; None if the server does not say."""
    if rest is None:
        return None
    if not (rest.isascii() and rest.isdigit() and len(rest) < 20):
        raise InputError(f"{url}: the server sent Content-Length {rest!r:.40}")
    free = shutil.disk_usage(part.parent).free
    if int(rest) > free:
        raise InputError(
            f"{url}: {format_size(int(rest))} are needed and {format_size(free)} free"
        )
    return start + int(rest)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none from https to where others can read and change."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, *args: Any
    ) -> urllib.request.Request | None:
        newurl = args[-1]
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise InputError(
                f"{req.full_url}: redirected to {newurl:.200}, which is not https"
            )
        return super().redirect_request(req, fp, code, msg, *args)


def _open_url(request: str | urllib.request.Request) -> Any:
    """The answer of a server."""
    opener = urllib.request.build_opener(_Redirects)
    return opener.open(request, timeout=_TIMEOUT)


@contextlib.contextmanager
def _opened(request: urllib.request.Request, start: int) -> Iterator[Any]:
    """The answer; None if there is nothing after `start`."""
    try:
        with _open_url(request) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        whole = error.headers.get("Content-Range") == f"bytes */{start}"
        if error.code != 416 or not whole:
            raise
        yield None


def _chunks(
    answer: Any, name: str, start: int, total: int | None, progress: bool
) -> Iterator[bytes]:
    """What is read; prints progress at intervals."""
    done, begun = start, time.monotonic()
    last = begun
    while chunk := answer.read(_CHUNK):
        yield chunk
        done += len(chunk)
        now = time.monotonic()
        if progress and (now - last >= INTERVAL or done == total):
            last = now
            of = "" if total is None else f" of {format_size(total)}"
            rate = (done - start) / max(now - begun, 1e-9) / 1e6
            line = f"{name}: {format_size(done)}{of}, {rate:.1f} MB/s"
            print(line, file=sys.stderr, flush=True)


def _resumable(part: pathlib.Path) -> tuple[int, str]:
    """How many bytes of a file are there, and the server's tag of that version."""
    try:
        size, tag = part.stat().st_size, _tag(part).read_text(encoding="utf-8")
    except (OSError, ValueError):  # A tag that is no text any more is as none.
        return 0, ""
    return (size, tag) if tag else (0, "")


def _tag(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(f"{part.name}.tag")


def _validator(headers: Any) -> str:
    """What If-Range takes: a strong entity tag, or the time of the last change."""
    tag, changed = headers.get("ETag", ""), headers.get("Last-Modified", "")
    return tag if tag and not tag.startswith("W/") else changed


def _published_md5(url: str) -> str:
    try:
        with _open_url(url) as answer:
            text = answer.read(_MD5_LIMIT).decode("ascii", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url}: {_reason(error)}") from None
    md5 = text.strip().partition(" ")[0].lower()
    if len(md5) != 32 or set(md5) - set("0123456789abcdef"):
        raise InputError(f"{url}: no MD5 found")
    return md5


def _is_of_disk(error: OSError) -> bool:
    if isinstance(error, urllib.error.URLError):
        return False
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached ({error.reason})"
    return str(error) or type(error).__name__
