"""Files that are complete or absent, and errors that a user can act on."""

import codecs
import contextlib
import functools
import hashlib
import io
import itertools
import json
import lzma
import math
import os
import pathlib
import platform
import re
import secrets
import shutil
import stat
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import IO, Any

from delf_jax import progress

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

STDOUT = "-"  # As the path of a file to write.
# Of a file that is being written: .NAME.PROCESS.RANDOM, with the host before what is
# random. Versions before 0.2 did not name the host.
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.([0-9a-f]{8}|)[0-9a-f]{8}", re.DOTALL)
_LONGEST_NAME = 50  # letters of a name that are repeated: systems allow 255 bytes.
# Unchanged for so long, they are of a process that was killed, on whatever host.
_STALE_SECONDS = 24 * 3600
# What Python's zipfile, and numpy's .npz, raise for a damaged archive.
BROKEN_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(ValueError, OSError, EOFError, RuntimeError),
)


class InputError(ValueError):
    """One sentence for the user: which file or field is wrong, and what to do."""

    def __init__(self, message: str, image: str = ""):
        super().__init__(message)
        self.image = image
        """its name, where an image cannot be used"""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """An open temporary file that takes the name `path` once it is safely on disk.

    On any error the temporary file is removed and whatever stood at `path` stays. A
    symbolic link stays, too: its target is replaced. What is no regular file, such as
    a pipe or a device, or is open already, as /dev/stderr, is written into, in one go
    at the end; `-` is standard output. Bytes of file names that are not UTF-8 are
    written as they are.
    """
    coding = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape"}
    if is_stdout(path) or _is_special(path):
        with tempfile.TemporaryFile(f"{mode}+", **coding) as file:  # type: ignore
            yield file
            file.seek(0)
            _pour(getattr(file, "buffer", file), path)
        return
    target = pathlib.Path(os.path.realpath(path) if os.path.islink(path) else path)
    temporary = temporary_path(target)
    try:
        with open(temporary, mode.replace("w", "x"), **coding) as file:  # type: ignore
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    with contextlib.suppress(OSError):  # Where it can be opened, the rename lasts.
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """An empty folder that takes the name `path` when all is written to it.

    InputError, before anything is done, if `path` exists.
    """
    path = pathlib.Path(path)
    _check_free(path)
    temporary = temporary_path(path)
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            _check_free(path)  # Another process was faster.
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def changing(folder: str | os.PathLike) -> Iterator[None]:
    """A context in which one process at a time is; makes the folder, if need be."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # Of a filesystem without locks.
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _check_free(path: pathlib.Path) -> None:
    if os.path.lexists(path):
        there = "is a symbolic link" if path.is_symlink() else "exists"
        raise InputError(f"{path} {there}: remove it, or choose another --out")


def is_stdout(path: str | os.PathLike) -> bool:
    """Whether a path is `-` or leads to standard output, as /dev/stdout does."""
    if os.fspath(path) == STDOUT:
        return True
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except (OSError, ValueError):
        return False


def _is_special(path: str | os.PathLike) -> bool:
    """Whether something is there that cannot be replaced by a file."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; name a file to write")
    # Links of the system lead to files that are open, such as the log of /dev/stderr.
    of_system = os.path.abspath(path).startswith(("/dev/", "/proc/"))
    return not stat.S_ISREG(mode) or (of_system and os.path.islink(path))


def _pour(source: IO[bytes], path: str | os.PathLike) -> None:
    """Copies bytes to standard output, a pipe or a device."""
    if is_stdout(path):
        progress.write_output(source)
        return
    # The reader of a pipe may have seen enough.
    with contextlib.suppress(BrokenPipeError), open(path, "ab") as file:
        shutil.copyfileobj(source, file)


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """A free name beside `path`; makes the folder, clears what killed writers left."""
    folder, name = path.parent, path.name[:_LONGEST_NAME]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        found = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
        raise InputError(f"{path}: {found} is in the way, it is no folder") from None
    for leftover in _leftovers(os.path.abspath(folder)).pop(name, ()):
        clear_abandoned(leftover)
    return folder / f".{name}.{os.getpid()}.{_host()}{secrets.token_hex(4)}"


def clear_leftovers(
    folder: str | os.PathLike, names: Iterable[str] | None = None
) -> None:
    """Deletes what killed writers have left in a folder that is this program's own.

    In folders with files of the user, `atomic_write` and `new_folder` delete only what
    was to become the file or folder that they write.

    Args:
      names: of files that this program writes: what was to become others stays.
    """
    found = _find_leftovers(os.path.abspath(folder))
    wanted = found if names is None else {name[:_LONGEST_NAME] for name in names}
    for path in itertools.chain.from_iterable(found[n] for n in wanted if n in found):
        clear_abandoned(path)


def _find_leftovers(folder: str) -> dict[str, list[pathlib.Path]]:
    """Temporary files and folders by the names of what they were to become."""
    found: dict[str, list[pathlib.Path]] = {}
    with contextlib.suppress(OSError):  # It may be written to and not be listed.
        for name in os.listdir(folder):
            if match := _TEMPORARY.fullmatch(name):
                found.setdefault(match[1], []).append(pathlib.Path(folder, name))
    return found


# A folder to which many files are written is listed once.
_leftovers = functools.lru_cache(maxsize=1024)(_find_leftovers)


def is_temporary(path: pathlib.Path) -> bool:
    """Whether a file has the name of one that is being written."""
    return _TEMPORARY.fullmatch(path.name) is not None


def clear_abandoned(path: pathlib.Path) -> None:
    """Deletes a temporary file or folder unless its writer may still be running."""
    with contextlib.suppress(OSError):  # Another process may clear it, too.
        if path.is_symlink() or not _is_abandoned(path):
            return
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_abandoned(path: pathlib.Path) -> bool:
    """Whether its writer has ended, on this host, or is of another host and idle."""
    match = _TEMPORARY.fullmatch(path.name)
    if match and match[3] == _host() and sys.platform != "win32":
        try:
            os.kill(int(match[2]), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False
    inside = path.rglob("*") if path.is_dir() else ()
    changed = max(each.lstat().st_mtime for each in (path, *inside))
    return time.time() - changed > _STALE_SECONDS


@functools.cache
def _host() -> str:
    """Where the number of a process means that process: a host, or a container."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return digest(f"{platform.node()} {space}", 8)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file, atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN and infinities are refused."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file; InputError if it is absent or broken."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: str | os.PathLike, repair: str = "") -> Any:
    """The value of JSON; InputError for duplicate fields and numbers not finite.

    Args:
      path: for the error alone, as is `repair`: what to do about it.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        then = f"; {repair}" if repair else ""
        raise InputError(f"{path}: not valid JSON ({error}){then}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"duplicate field {name!r:.80}")
        content[name] = value
    return content


def _finite(text: str) -> float:
    """A number of JSON; ValueError for NaN and what is infinite."""
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text:.20} is not a finite number")


def read_text(path: str | os.PathLike, *, names: bool = False) -> str:
    """The text of a file, its lines ended by "\\n"; InputError if absent or no text.

    It is in UTF-8, or in what a byte order mark at its beginning says.

    Args:
      names: it lists names of files: their bytes need not be UTF-8.
    """
    with reading(path):
        content = pathlib.Path(path).read_bytes()
    return decode_text(content, path, "surrogateescape" if names else "strict")


def decode_text(content: bytes, path: str | os.PathLike, errors: str = "strict") -> str:
    """As `read_text`, of the bytes of a file; `path` is for messages."""
    encoding = _encoding(content)
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError:
        raise _not_text(path, encoding) from None
    if "\0" in text:
        raise _not_text(path, encoding, has=", it has NUL bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text_lines(path: str | os.PathLike) -> Iterator[str]:
    """As `read_text`, one line at a time, each with the end that it has."""
    number = 0
    with reading(path), open(path, "rb") as file:
        encoding = _encoding(file.peek(4))
        try:
            with io.TextIOWrapper(file, encoding, newline="") as text:
                for line in text:
                    number += 1
                    if "\0" in line:
                        where = f"{path}, line {number}"
                        raise _not_text(where, encoding, has=", it has NUL bytes")
                    yield line
        except UnicodeDecodeError:
            raise _not_text(f"{path}, after line {number}", encoding) from None


def csv_delimiter(header: str) -> str:
    """What separates the fields of a CSV: semicolons or tabs only without commas."""
    return next((mark for mark in ",;\t" if mark in header), ",")


# The longer first: a mark of UTF-32 begins as one of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _encoding(start: bytes) -> str:
    """What a byte order mark says, else UTF-8, of which Python skips the mark."""
    found = (name for mark, name in _MARKS.items() if start.startswith(mark))
    return next(found, "utf-8-sig")


def _not_text(where: str | os.PathLike, encoding: str, has: str = "") -> InputError:
    name = encoding.removesuffix("-sig").upper()
    return InputError(f"{where}: not {name} text{has}; save it as UTF-8")


def read_bytes(path: str | os.PathLike, limit: int) -> bytes:
    """The bytes of a file; InputError if it is absent or has more than `limit`."""
    path = pathlib.Path(path)
    with reading(path):
        size = path.stat().st_size
        if size <= limit:
            return path.read_bytes()
    raise InputError(f"{path}: {size} bytes, expected at most {limit}")


def digest(value: Any, length: int = 64) -> str:
    """The first hex digits of the SHA-256 of bytes, of text, or of a value as JSON."""
    if not isinstance(value, (bytes, memoryview)):
        value = encode_name(value if isinstance(value, str) else json.dumps(value))
    return hashlib.sha256(value).hexdigest()[:length]


def encode_name(name: str) -> bytes:
    """The bytes of a file's name, as which it may not be UTF-8; or those of any text.

    Unlike os.fsencode, the same under every locale.
    """
    return name.encode("utf-8", "surrogateescape")


def decode_name(name: bytes) -> str:
    """The inverse of `encode_name`."""
    return name.decode("utf-8", "surrogateescape")


def check_utf8(path: str | os.PathLike) -> None:
    """InputError if the path is not UTF-8, for libraries that take no other."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{path}: choose a folder whose name is UTF-8; others cannot be written to"
        ) from None


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """A context in which a file that cannot be opened is an InputError."""
    if "\0" in os.fsdecode(path):
        raise InputError(f"{path}: no such file, for its path has a NUL byte")
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
