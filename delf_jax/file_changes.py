"""Whether the file of an image is as it was when its features were extracted."""

import pathlib

from delf_jax.files import sha256_of
from delf_jax.shards import Record


def look_at(path: pathlib.Path, record: Record) -> Record:
    """The record with size and time of the file, if there is one."""
    try:
        status = path.stat()
    except OSError:
        return record
    return record._replace(file_size=status.st_size, modified=status.st_mtime_ns)


def digest(path: pathlib.Path, record: Record) -> str:
    """The SHA-256 of the file; "" if it has changed since the record was made."""
    try:
        digest = sha256_of(path)
    except OSError:
        return ""
    return digest if look_at(path, record) == record else ""


def is_changed(path: pathlib.Path, known: Record, now: Record) -> bool:
    """Whether an image must be extracted: its bytes decide if only the time differs."""
    if known.outcome != "extracted" or known.file_size != now.file_size:
        return True
    if known.modified == now.modified:
        return False
    return known.sha256 == "" or digest(path, now) != known.sha256
