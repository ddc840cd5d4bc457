"""Fetching datasets: in words what would be fetched and, only when asked, the files."""

import fnmatch
import os
import pathlib
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from delf_jax.download_table import DOWNLOADS, Files
from delf_jax.files import InputError
from delf_jax.transfer import fetch_file, size_in_words


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


def describe(name: str, chosen: Sequence[Files]) -> Iterator[str]:
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
    shown: bool = True,
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
                    fetch_file(each.url, each.md5, target, shown)
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
