"""Fetching datasets: in words what would be fetched and, only when asked, the files."""

import contextlib
import errno
import fnmatch
import hashlib
import http.client
import os
import pathlib
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from delf_jax.data.download_catalogue import DOWNLOADS, Files
from delf_jax.files import InputError
from delf_jax.progress import INTERVAL


class Report(NamedTuple):
    """What became of the files, by numbers and, of those that failed, names."""

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


def format_files(name: str, chosen: Sequence[Files]) -> Iterator[str]:
    """Lines of text: what would be fetched, from where, how large."""
    download = DOWNLOADS[name]
    yield f"{name}: {download.about}"
    yield f"  documented at {download.documented}"
    for files in chosen:
        first, last = (files.numbers[place] for place in (0, -1))
        many = f" to {last}, {len(files.numbers)} files" if first != last else ""
        one = next(files.each())
        size = size_in_words(
            None if files.size is None else files.size * len(files.numbers)
        )
        checked = ", MD5 checked" if files.md5 else ""
        yield f"  {one.path}{many}: {size}{checked}, from {one.url}"
    known = [f.size * len(f.numbers) for f in chosen if f.size is not None]
    if known:
        more = " and what is not known" if len(known) < len(chosen) else ""
        yield f"  in all {size_in_words(sum(known))}{more}"


def fetch(
    chosen: Sequence[Files],
    out: str | os.PathLike,
    *,
    unpack: bool = False,
    progress: bool = True,
) -> Report:
    """Fetches the files that are not there, and goes on where one cannot be had.

    unpack: archives, too, each once; what would be written elsewhere is refused.
    """
    out, failed = pathlib.Path(out), {}
    counts = dict.fromkeys(("fetched", "present", "unpacked"), 0)
    _check_room(chosen, out)
    for files in chosen:
        for each in files.each():
            target = out / each.path
            try:
                if target.exists():
                    counts["present"] += 1
                else:
                    fetch_file(each.url, each.md5, target, progress)
                    counts["fetched"] += 1
                if unpack and each.unpack:
                    counts["unpacked"] += _unpack(target, out / each.unpack)
            except InputError as error:
                failed[each.path] = str(error)
                print(f"failed: {error}", file=sys.stderr, flush=True)
    return Report(**counts, failed=failed)


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether an archive was unpacked now; NAME.unpacked says that it was before."""
    mark = archive.with_name(f"{archive.name}.unpacked")
    if mark.exists():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error})") from None
    mark.touch()
    return True


def _check_room(chosen: Sequence[Files], out: pathlib.Path) -> None:
    """InputError if what is documented of the sizes already exceeds the disk."""
    needed = sum(
        each.size or 0
        for files in chosen
        for each in files.each()
        if not (out / each.path).exists()
    )
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"{out}: {size_in_words(needed)} are needed and {size_in_words(free)} "
            "free; name another folder, or some of the files with --only"
        )


_CHUNK = 2**20
_TIMEOUT = 60.0  # seconds without a byte.
_PAUSE = 2.0  # seconds before the second attempt, twice as many before the third.
_ATTEMPTS = 4  # of one file, each from where the one before ended.
_MD5_LIMIT = 2**12  # bytes of a file that says one.


def fetch_file(url: str, md5: str, target: pathlib.Path, progress: bool) -> None:
    """Writes a file; InputError if it cannot be had whole: what was got is kept."""
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    expected = _published_md5(md5) if md5 else None
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE * attempt)
        try:
            _go_on(url, part, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if _is_of_disk(error):
                error.filename = error.filename or str(part)
                raise
            if attempt == _ATTEMPTS - 1 or _is_final(error):
                raise InputError(
                    f"{url}: {_reason(error)}; what was got is kept: run the same "
                    "command again to go on"
                ) from None
    if expected is not None:
        found = _md5_of(part)
        if found != expected:
            part.unlink()
            raise InputError(
                f"{url}: MD5 is {found}, not {expected}; it was removed: run the "
                "same command again to fetch it anew"
            )
    os.replace(part, target)
    _tag(part).unlink(missing_ok=True)


def _go_on(url: str, part: pathlib.Path, progress: bool) -> None:
    """Appends to a file what it lacks; OSError if the connection ends before."""
    start, tag = _resumable(part)
    headers = {"User-Agent": "delf_jax", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    request = urllib.request.Request(url, headers=headers)
    with _opened(request, start) as answer:
        if answer is None:  # All of it is there.
            return
        if answer.status == 206 and not _begins_at(answer.headers, start):
            part.unlink(missing_ok=True)
            raise OSError("the server sent another part of the file than asked for")
        if answer.status != 206:
            start = 0
        rest = answer.headers.get("Content-Length")
        total = None if rest is None else start + int(rest)
        _tag(part).write_text(_validator(answer.headers), encoding="utf-8")
        with open(part, "ab" if start else "wb") as file:
            done = start
            for chunk in _chunks(answer, part.name, start, total, progress):
                file.write(chunk)
                done += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise OSError(f"the connection ended after {done} of {total} bytes")


@contextlib.contextmanager
def _opened(request: urllib.request.Request, start: int) -> Iterator[Any]:
    """The answer; None if there is nothing after `start`."""
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        whole = error.headers.get("Content-Range") == f"bytes */{start}"
        if error.code != 416 or not whole:
            raise
        yield None


def _chunks(
    answer: Any, name: str, start: int, total: int | None, progress: bool
) -> Iterator[bytes]:
    """What is read, with a line now and then."""
    name, done, begun = name.removesuffix(".part"), start, time.monotonic()
    last = begun
    while chunk := answer.read(_CHUNK):
        yield chunk
        done += len(chunk)
        now = time.monotonic()
        if progress and (now - last >= INTERVAL or done == total):
            last = now
            of = "" if total is None else f" of {size_in_words(total)}"
            rate = (done - start) / max(now - begun, 1e-9) / 1e6
            line = f"{name}: {size_in_words(done)}{of}, {rate:.1f} MB/s"
            print(line, file=sys.stderr, flush=True)


def _resumable(part: pathlib.Path) -> tuple[int, str]:
    """How much of a file is there, and by what the server knows that file again."""
    try:
        size, tag = part.stat().st_size, _tag(part).read_text(encoding="utf-8")
    except OSError:
        return 0, ""
    return (size, tag) if tag else (0, "")


def _tag(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(f"{part.name}.tag")


def _validator(headers: Any) -> str:
    """What If-Range takes: a strong entity tag, or the time of the last change."""
    tag = headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified", "")


def _begins_at(headers: Any, start: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _published_md5(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            words = answer.read(_MD5_LIMIT).decode("ascii", "replace").split()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url}: {_reason(error)}") from None
    md5 = words[0].lower() if words else ""
    if len(md5) != 32 or set(md5) - set("0123456789abcdef"):
        raise InputError(f"{url}: says no MD5")
    return md5


def _md5_of(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _is_of_disk(error: Exception) -> bool:
    if isinstance(error, urllib.error.URLError) or not isinstance(error, OSError):
        return False
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_final(error: Exception) -> bool:
    """Whether to ask again would be of no use."""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached ({error.reason})"
    return str(error) or type(error).__name__


def size_in_words(size: int | None) -> str:
    if size is None:
        return "size not documented"
    count = float(size)
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"
