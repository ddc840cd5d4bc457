"""Files that are complete or absent, and errors that a user can act on."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import IO, Any


class InputError(ValueError):
    """One sentence for the user: which file or field is wrong, and what to do."""

    def __init__(self, message: str, image: str = ""):
        super().__init__(message)
        self.image = image
        """its name, where an image cannot be used"""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """An open temporary file that takes the name `path` once it is safely on disk.

    On any error the temporary file is removed and whatever stood at `path` stays.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode.replace("w", "x"), encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    with contextlib.suppress(OSError):  # Where it can be opened, the rename lasts.
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """An empty folder that takes the name `path` when all is written to it.

    InputError, before anything is done, if something stands there.
    """
    path = pathlib.Path(path)
    if os.path.lexists(path):
        raise InputError(f"{path} exists: remove it, or choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file, atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN and infinities are refused."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file; InputError if it is absent or broken."""
    with reading(path):
        content = pathlib.Path(path).read_bytes()
    try:
        text = content.decode("utf-8")
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _finite(text: str) -> float:
    """A number of JSON; ValueError for NaN and what is infinite."""
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text:.20} is not a finite number")


def read_text(path: str | os.PathLike) -> str:
    """The text of a file; InputError if it is absent or not UTF-8."""
    try:
        with reading(path):
            return pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


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
        value = (value if isinstance(value, str) else json.dumps(value)).encode()
    return hashlib.sha256(value).hexdigest()[:length]


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """A context in which a file that cannot be opened is an InputError."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
