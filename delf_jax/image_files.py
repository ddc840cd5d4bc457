"""Image files: which there are in folders and lists, and the bytes of one.

All commands look for photos here: hidden files are left out, linked folders followed,
and files that are no images, or of formats not read here, are counted in a note.
"""

import collections
import contextlib
import csv
import functools
import heapq
import importlib.util
import io
import os
import pathlib
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from PIL import features

from delf_jax.files import InputError, csv_delimiter, read_text, reading
from delf_jax.progress import add_note, format_count

# Pillow's names of what folders are searched for.
FORMATS = {
    "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "BMP": ".bmp .dib",
    "GIF": ".gif",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm",
    "AVIF": ".avif",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "HEIF": ".heic .heif .hif",
}
# What else is read where a file is named. Not among them are programs, such as EPS,
# which Pillow gives to Ghostscript, and formats whose plugins are mere stubs.
_NAMED_FORMATS = ("DIB", "ICO", "PCX", "PSD", "QOI", "SGI", "TGA")
RAW = (
    *(".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2"),
    *(".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".rwl", ".gpr"),
)
RAW_ADVICE = "raw photos are not supported: export JPEG or TIFF"
# What systems and programs leave beside photos; names with a dot in front, as well.
_LEFT_BY_SYSTEMS = {
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"),
    *("Thumbs.db", "ehthumbs.db", "desktop.ini"),
}
# 128 million pixels of four channels of 16 bits.
MAX_BYTES = 2**30
_LIST = "@"
_LIST_COLUMNS = ("image", "path", "id")
# A note names so many kinds of skipped files.
_MOST_KINDS = 8

Skipped = collections.Counter[tuple[str, str]]


@functools.cache
def missing_formats() -> dict[str, str]:
    """The formats that cannot be read here, and what to do about it."""
    parts = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
    with warnings.catch_warnings():  # An older Pillow does not know of AVIF.
        warnings.simplefilter("ignore")
        missing = {
            name: f"this Pillow is without {name}: pip install -U pillow"
            for name, part in parts.items()
            if not features.check(part)
        }
    if importlib.util.find_spec("pillow_heif") is None:
        missing["HEIF"] = "pip install delf_jax[heic]"
    return missing


def readable_formats() -> list[str]:
    """Pillow's names of the formats that files are opened as, and no others.

    HEIF is not among them, as Pillow does not know of it without a package.
    """
    unknown = {"HEIF", *missing_formats()}
    return [name for name in (*FORMATS, *_NAMED_FORMATS) if name not in unknown]


def find_images(paths: Iterable[str | os.PathLike]) -> list[tuple[str, pathlib.Path]]:
    """(id, path) of images and of all images in folders and lists, sorted by id.

    Ids are paths with forward slashes within the folder, or within the closest one that
    holds all paths. InputError if a path does not exist or a folder holds no image;
    files in lists may be absent. What is left out is noted.

    Args:
      paths: of images, of folders, and of lists as `@LIST`: see `read_list`.
    """
    listed: dict[str, bool] = {}  # path -> whether it stands in a list
    for path in (os.fspath(path) for path in paths):
        if is_list(path):
            listed |= {os.path.abspath(each): True for each in read_list(path[1:])}
        else:
            listed[os.path.abspath(path)] = False
    if not listed:
        raise InputError("no images or folders were given")
    found: set[str] = set()
    folders: list[str] = []
    skipped: Skipped = collections.Counter()
    for path, in_list in listed.items():
        if os.path.isdir(path):
            folders.append(path)
            found.update(_images_in(path, skipped))
        elif in_list or os.path.exists(path):
            found.add(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    if skipped:
        where = f"{folders[0]}: " if len(folders) == 1 else ""
        add_note(f"{where}{format_skipped(skipped)}")
    root = next(iter(listed))
    if len(listed) > 1 or not folders:
        root = os.path.commonpath({os.path.dirname(path) for path in listed})
    start = len(os.path.join(root, ""))
    paths_of = ((path[start:].replace(os.sep, "/"), path) for path in found)
    return [(id, pathlib.Path(path)) for id, path in sorted(paths_of)]


def is_list(path: str) -> bool:
    """Whether it is `@LIST`, and no file or folder of that name."""
    return path.startswith(_LIST) and not os.path.lexists(path)


def read_list(path: str | os.PathLike) -> list[str]:
    """The paths in a list of images: one a line, or a column of a .csv file.

    The column is `image`, `path` or `id`. Lines that are blank or begin with # are
    skipped. Paths are relative to the current folder, as `ls photos/*.jpg` writes them;
    what is not there is looked for beside the list.
    """
    text = read_text(path, names=True)
    if os.fspath(path).lower().endswith(".csv"):
        lines = _read_column(path, text)
    else:
        # Windows copies paths with quotation marks around them.
        lines = [re.sub('^"(.+)"$', r"\1", line.strip()) for line in text.split("\n")]
        lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path}: lists no images")
    folder = os.path.dirname(path)
    beside = [os.path.join(folder, line) for line in lines]
    return [
        other if not os.path.lexists(line) and os.path.lexists(other) else line
        for line, other in zip(lines, beside, strict=True)
    ]


def walk(folder: pathlib.Path, suffixes: Iterable[str]) -> list[pathlib.Path]:
    """The regular files in a folder, at any depth, that end in one of the suffixes.

    Hidden files and linked folders are as for `find_images`. They come in any order.
    """
    found = _walk(os.fspath(folder), tuple(suffixes), collections.Counter())
    return [path for path in map(pathlib.Path, found) if path.is_file()]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's photos."""
    return name.startswith(".") or name in _LEFT_BY_SYSTEMS


def format_skipped(skipped: Skipped) -> str:
    """How many files and folders were left out, and why."""
    parts = []
    for unit in ("file", "folder"):
        kinds = sorted((-n, kind) for (of, kind), n in skipped.items() if of == unit)
        # Photos are named first, as the others are rarely missed.
        first = sorted(kinds, key=lambda each: not _advice(each[1]))[:_MOST_KINDS]
        named = [f"{-count} {kind}{_advice(kind)}" for count, kind in sorted(first)]
        if others := sum(-count for count, _ in {*kinds} - {*first}):
            named.append(format_count(others, "other"))
        if kinds:
            total = format_count(sum(-count for count, _ in kinds), unit)
            parts.append(f"{total} skipped: {', '.join(named)}")
    return "; ".join(parts)


@contextlib.contextmanager
def open_file(path: str | os.PathLike) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file and its size; InputError, at once, for whatever else there is.

    Opening a FIFO would wait for a writer, and some devices have no end.
    """
    flags = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"))
    with reading(path):
        descriptor = os.open(path, os.O_RDONLY | sum(flags))
    try:
        status = os.fstat(descriptor)
        _check_file(path, status)
    except InputError:
        os.close(descriptor)
        raise
    with open(descriptor, "rb") as file:
        yield file, status.st_size


def _check_file(path: str | os.PathLike, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: cannot be read (Is a directory)")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: cannot be read (a FIFO or device, not a file)")
    if status.st_size > MAX_BYTES:
        raise InputError(
            f"{path}: {status.st_size / 2**30:.1f} GiB, more than the "
            f"{MAX_BYTES / 2**30:g} GiB that the largest images take"
        )


def _images_in(folder: str, skipped: Skipped) -> list[str]:
    """The images in a folder; InputError if there are none."""
    left_out: Skipped = collections.Counter()
    found = _walk(folder, _suffixes(), left_out)
    if not found:
        known = format_skipped(left_out) or " ".join(_suffixes())
        raise InputError(f"{folder}: no images in this folder ({known})")
    skipped.update(left_out)
    return found


def _walk(root: str, suffixes: tuple[str, ...], skipped: Skipped) -> list[str]:
    """The files that end in a suffix; links to folders come last, and each folder once.

    A link may lead back to a folder that it lies in.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [root], list[str]()  # A stack, and a heap: the first by name.
    linked = False
    while folders or links:
        if not folders:
            folders, linked = [heapq.heappop(links)], True
        folder = folders.pop()
        try:
            status = os.stat(folder)
            place = status.st_dev, status.st_ino
            if linked and place in seen:
                skipped["folder", "linked twice"] += 1
                continue
            seen.add(place)
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if _is_folder(entry):
                        if is_hidden(name):
                            skipped["folder", "hidden"] += 1
                        elif entry.is_symlink():
                            heapq.heappush(links, entry.path)
                        else:
                            folders.append(entry.path)
                    elif is_hidden(name):
                        skipped["file", "hidden"] += 1
                    elif name.lower().endswith(suffixes):
                        found.append(entry.path)
                    else:
                        skipped["file", _kind(name)] += 1
        except OSError as error:
            skipped["folder", f"not readable ({error.strerror})"] += 1
    return found


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder or links to one: asks the disk of links only."""
    try:
        return entry.is_dir()
    except OSError:  # A link that leads nowhere, or to itself.
        return False


@functools.cache
def _suffixes() -> tuple[str, ...]:
    """What files end in that can be read here."""
    missing = missing_formats()
    known = (suffixes for name, suffixes in FORMATS.items() if name not in missing)
    return tuple(" ".join(known).split())


def _kind(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    if not suffix:
        return "without a suffix"
    return suffix if suffix[1:].isalnum() and suffix.isascii() else "of other kinds"


def _advice(suffix: str) -> str:
    """Why images of this suffix are left out, in parentheses."""
    if suffix in RAW:
        return f" ({RAW_ADVICE})"
    for name, reason in missing_formats().items():
        if suffix in FORMATS[name].split():
            return f" ({reason})"
    return ""


def _read_column(path: str | os.PathLike, text: str) -> list[str]:
    """The images in a CSV."""
    delimiter = csv_delimiter(text.split("\n", 1)[0])
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        known = {name.lower(): name for name in rows.fieldnames or ()}
        column = next((known[c] for c in _LIST_COLUMNS if c in known), None)
        if column is None:
            there = ", ".join(map(repr, rows.fieldnames or ()))
            raise InputError(
                f"{path}: the CSV has no column image, path or id, only {there:.200}"
            )
        return [name for row in rows if (name := (row[column] or "").strip())]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV ({error})") from None
