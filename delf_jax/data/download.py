"""Files of others: what a download would fetch, and the files themselves.

A file that was interrupted resumes where it ended, if it is still the same on the
server. What is published of its size and digest is checked; if no digest is, that of
the first download is kept, and later ones are compared with it.
"""

import contextlib
import errno
import fnmatch
import http.client
import os
import pathlib
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from delf_jax.data import archives, checksums
from delf_jax.data.download_catalogue import DOWNLOADS
from delf_jax.data.download_entry import Download, Files
from delf_jax.files import InputError
from delf_jax.progress import format_bytes, print_failures, track_bytes

_CHUNK = 2**20
_TIMEOUT = 60.0  # seconds without a byte.
_PAUSE = 2.0  # seconds before the second attempt, twice as many before the third.
_ATTEMPTS = 4  # of one file, each from where the one before ended.
_MD5_LIMIT = 2**12  # bytes of a file with an MD5.
_SIZES_APART = 2  # A file is as large as documented, within this factor.
_PAGE = "the server sent a web page instead of the file; open the address in a browser"
_USES = {
    "model": "with --yes it is converted to a model, OUT/{}",
    "detector": "detect, index and extract take it as it is",
    "codebook": "aggregate, search and evaluate take it as it is",
}
_PAGE_STARTS = (b"<!doctype html", b"<html")


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
        kind = "md5" if entry.md5 else entry.digest.partition(":")[0]
        checked = f", {checksums.TITLES[kind]} checked" if kind else ""
        yield f"  {one.path}{many}: {format_size(size)}{checked}, from {one.url}"
    if any(sizes):
        more = "" if all(sizes) else " and what is not documented"
        yield f"  in all {format_size(sum(filter(None, sizes)))}{more}"
    if download.use is not None:
        yield f"  {_USES[download.use.kind].format(name)}"


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
                if not each.unpack:  # Archives are looked at when they are unpacked.
                    _check_present(each, target)
                present += 1
            else:
                fetch_file(each, target, progress)
                fetched += 1
            if unpack and each.unpack:
                unpacked += _unpack(each, out)
        except InputError as error:
            failed[each.path] = str(error)
            print_failures([error])
    return Report(fetched, present, unpacked, failed)


def unpack_released(download: Download, out: pathlib.Path) -> pathlib.Path:
    """Where the artefact is that was fetched into a folder, now unpacked.

    InputError if it is not there.
    """
    assert download.use is not None
    for entry in download.files:
        if entry.unpack:
            _unpack(entry, out)
    found = sorted(out.glob(download.use.source))
    if not found:
        raise InputError(
            f"{out / download.files[0].path}: holds no {download.use.source}; see "
            f"what it has, and {download.documented}"
        )
    return found[0]


def fetch_file(entry: Files, target: pathlib.Path, progress: bool) -> None:
    """Writes a file; InputError if it cannot be fetched: what was fetched is kept."""
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    for path in (part, _tag(part), target.with_name(checksums.SUMS)):
        _no_link(path)
    published = f"md5:{_published_md5(entry.md5)}" if entry.md5 else entry.digest
    kept = "" if published else checksums.kept_digest(target)
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE * attempt)
        try:
            _resume(entry, part, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and _is_of_disk(error):
                error.filename = error.filename or str(part)
                raise
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if attempt == _ATTEMPTS - 1 or final:
                raise InputError(
                    f"{entry.url}: {_reason(error)}{_rest(part)}"
                ) from None
    _check_content(entry, part, published or kept, target)
    if not published and not kept:
        checksums.keep_digest(target, part)
    os.replace(part, target)
    _tag(part).unlink(missing_ok=True)


def format_size(size: int | None) -> str:
    """A number of bytes for people, if it is known: 1.9 GB."""
    return "size not documented" if size is None else format_bytes(size)


def _check_content(
    entry: Files, part: pathlib.Path, expected: str, target: pathlib.Path
) -> None:
    """InputError, and the file is removed, if it is not what was to be fetched."""
    with open(part, "rb") as file:
        start = file.read(512).lstrip().lower()
    wrong = difference = ""
    if start.startswith(_PAGE_STARTS):
        wrong = _PAGE
    elif _apart(entry.size, part.stat().st_size):
        wrong = _differing(entry.size, part.stat().st_size)
    elif expected and (difference := checksums.difference(part, expected)):
        wrong = f"{difference}; the file was removed: "
        if entry.md5 or entry.digest:
            wrong += "run the same command again to fetch it"
        else:
            wrong += "that is of the first download; if it has changed since, remove "
            wrong += f"its line in {target.with_name(checksums.SUMS)}"
    if wrong:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise InputError(f"{entry.url}: {wrong}")


def _apart(documented: int | None, size: int) -> bool:
    """Whether a file cannot be the one whose size is documented."""
    if documented is None:
        return False
    return not documented <= _SIZES_APART * size <= _SIZES_APART**2 * documented


def _differing(documented: int | None, size: int) -> str:
    return f"the file has {format_size(size)}, documented are {format_size(documented)}"


def _check_present(entry: Files, file: pathlib.Path) -> None:
    """InputError if a file that is there is not the one that was fetched."""
    expected = entry.digest or checksums.kept_digest(file)
    if expected and (difference := checksums.difference(file, expected)):
        raise InputError(
            f"{file}: {difference}: damaged, or not from {entry.url}; remove it and "
            "run the same command again"
        )


def _unpack(entry: Files, out: pathlib.Path) -> bool:
    """Whether an archive was unpacked now; NAME.unpacked marks one that is already."""
    archive = out / entry.path
    mark = archive.with_name(f"{archive.name}.unpacked")
    if mark.exists():
        return False
    _check_present(entry, archive)
    try:
        archives.unpack(archive, out / entry.unpack)
    except InputError:
        checksums.forget_digest(archive)  # What is damaged is no measure of others.
        raise
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


def _resume(entry: Files, part: pathlib.Path, progress: bool) -> None:
    """Appends to a file what it lacks; OSError if the connection ends before."""
    url, (start, tag) = entry.url, _resumable(part)
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
        if answer.headers.get_content_type() == "text/html":
            raise InputError(f"{url}: {_PAGE}")
        total = _total(entry, answer.headers.get("Content-Length"), start, part)
        _tag(part).write_text(_validator(answer.headers), encoding="utf-8")
        with (
            track_bytes(part.stem, start, total, progress=progress) as advance,
            open(part, "ab" if start else "wb") as file,
        ):
            file.writelines(_chunks(answer, advance))
            done = file.tell()
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise OSError(f"the connection ended after {done} of {total} bytes")


def _no_link(path: pathlib.Path) -> None:
    """InputError if a link, or what is no regular file, is there."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: is a link or no regular file; remove it")


def _total(
    entry: Files, rest: str | None, start: int, part: pathlib.Path
) -> int | None:
    """The bytes of the whole file; None if the server does not say."""
    url = entry.url
    if rest is None:
        return None
    if not (rest.isascii() and rest.isdigit() and len(rest) < 20):
        raise InputError(f"{url}: the server sent Content-Length {rest!r:.40}")
    free = shutil.disk_usage(part.parent).free
    if int(rest) > free:
        raise InputError(
            f"{url}: {format_size(int(rest))} are needed and {format_size(free)} free"
        )
    if _apart(entry.size, total := start + int(rest)):
        raise InputError(f"{url}: {_differing(entry.size, total)}")
    return total


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


def _chunks(answer: Any, advance: Callable[[int], None]) -> Iterator[bytes]:
    """What is read, and reported."""
    while chunk := answer.read(_CHUNK):
        yield chunk
        advance(len(chunk))


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
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error.filename is not None or error.errno in full


def _rest(part: pathlib.Path) -> str:
    """What to do after an error, in words."""
    if part.exists() and part.stat().st_size:
        return "; what was fetched is kept: run the same command again to resume"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached ({error.reason})"
    return str(error) or type(error).__name__
