"""TARs of images, plain or compressed, unpacked: wholly, or with one sentence why not.

tarfile alone takes damage inside of an archive for its end, and does not read as far as
the checksum of a compressed one; so everything is read once before anything is written.
"""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import pathlib
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from delf_jax.files import InputError

_BLOCK = 512  # A TAR is made of these; one of zeros, at least, ends it.
# Photos do not become smaller when they are compressed.
_LARGEST_RATIO = 100
# By the first bytes of a file.
_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_DAMAGES = (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError, OSError)


class _Stream(io.RawIOBase):
    """What an archive holds, decompressed, which knows where its last byte is."""

    def __init__(self, file: Any, limit: int):
        self._file, self._limit = file, limit
        self.size = 0
        self.end = 0
        """of what is not zero"""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if used := len(data.rstrip(b"\0")):
            self.end = self.size + used
        self.size += len(data)
        if self.size > self._limit:
            raise ValueError(f"more than {_LARGEST_RATIO} times as large unpacked")
        return data


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the files of an archive into a folder, each of which is whole or absent.

    InputError, before anything is written, if the archive is damaged, cut or too large
    for the disk, has anything but files and folders, or a file twice or elsewhere.
    """
    try:
        needed = _check(archive)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(f"{needed} bytes are needed, {free} are free")
        inside = folder.resolve()
        temporary = inside / f".{archive.name}.part"
        with _opened(archive) as (tar, _):
            for member in tar:
                _extract(tar, member, inside, temporary)
    except _DAMAGES as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{archive}: cannot be unpacked ({error!s:.200})") from None


def _check(archive: pathlib.Path) -> int:
    """The bytes that the files of an archive take; one of _DAMAGES if it is bad."""
    needed, names = 0, set()
    with _opened(archive) as (tar, stream):
        for member in tar:
            name = str(_path(member))
            if not member.isreg() and not member.isdir():
                raise ValueError(f"{member.name!r:.80} is neither a file nor a folder")
            if member.isreg() and name in names:
                raise ValueError(f"{name!r:.80} comes twice")
            names.add(name)
            needed += member.size if member.isreg() else 0
        while stream.read(1 << 20):
            pass  # As far as the checksum.
        if stream.end > tar.offset or stream.size < tar.offset + _BLOCK:
            raise ValueError(f"damaged or cut short at byte {tar.offset}")
    return needed


@contextlib.contextmanager
def _opened(archive: pathlib.Path) -> Iterator[tuple[tarfile.TarFile, _Stream]]:
    """An archive to be read once, from beginning to end."""
    if not archive.is_file():  # A FIFO would be waited for.
        raise ValueError("not a file")
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open(archive, "rb"))
        start = file.read(6)
        file.seek(0)
        for magic, decompress in _COMPRESSED.items():
            if start.startswith(magic):
                file = stack.enter_context(decompress(file))
        limit = _LARGEST_RATIO * max(archive.stat().st_size, 1 << 20)
        stream = _Stream(file, limit)
        tar = tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20)
        yield stack.enter_context(tar), stream


def _path(member: tarfile.TarInfo) -> pathlib.PurePosixPath:
    """Where a member goes in the folder; ValueError if that is outside of it."""
    path = pathlib.PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise ValueError(f"{member.name!r:.80} lies outside of the folder")
    return path


def _extract(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    folder: pathlib.Path,
    temporary: pathlib.Path,
) -> None:
    target = folder / _path(member)
    inside = target if member.isdir() else target.parent
    inside.mkdir(parents=True, exist_ok=True)
    if not inside.resolve().is_relative_to(folder):
        raise ValueError(f"{inside} is a link to another folder")
    if member.isdir():
        return
    source = tar.extractfile(member)
    assert source is not None  # as of all that are regular files.
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as file:
            shutil.copyfileobj(source, file)
        with contextlib.suppress(OverflowError):  # A time that no file has.
            os.utime(temporary, (member.mtime, member.mtime))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
