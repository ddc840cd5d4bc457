"""TARs, whole, damaged and malicious."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile

import pytest

from delf_jax.data import archives
from delf_jax.files import InputError

PHOTOS = {"0/1/2/a.jpg": b"photo" * 300, "b.jpg": bytes(range(256)) * 5, "empty": b""}
COMPRESSORS = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


def make(photos=PHOTOS, *more, format=tarfile.PAX_FORMAT) -> bytes:
    """A TAR of files and of (name, type, size) more."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=format) as tar:
        for name, content in photos.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_000_000_000
            tar.addfile(info, io.BytesIO(content))
        for name, kind, size in more:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, size, "/etc/passwd"
            tar.addfile(info, io.BytesIO(bytes(min(size, 1 << 20))) if size else None)
    return data.getvalue()


def unpack(tmp_path, data):
    path = tmp_path / "photos.tar"
    path.write_bytes(data)
    archives.unpack(path, tmp_path / "out")


def unpacked(tmp_path):
    """What lies in the folder that was unpacked to."""
    out = tmp_path / "out"
    files = (path for path in out.rglob("*") if not path.is_dir())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", COMPRESSORS)
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_archives_are_unpacked_however_they_are_compressed(tmp_path, kind, format):
    unpack(tmp_path, COMPRESSORS[kind](make(format=format)))
    assert unpacked(tmp_path) == PHOTOS
    assert os.path.getmtime(tmp_path / "out" / "b.jpg") == 1_000_000_000
    unpack(tmp_path, make({"b.jpg": b"new"}))
    assert unpacked(tmp_path) == PHOTOS | {"b.jpg": b"new"}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_no_damage_to_a_compressed_archive_is_taken_for_its_end(tmp_path, kind):
    data = COMPRESSORS[kind](make())
    damaged = [data[:length] for length in range(0, len(data), max(1, len(data) // 60))]
    for place in () if kind == "tar" else range(0, len(data), max(1, len(data) // 60)):
        damaged.append(bytearray(data))
        damaged[-1][place] ^= 0xFF
    for each in damaged:
        if each[:512].rstrip(b"\0"):
            try:
                unpack(tmp_path, bytes(each))
            except InputError as error:
                assert "photos.tar: cannot be unpacked (" in str(error)
                assert not (tmp_path / "out").exists()
            else:  # The time in gzip's header, or zeros after the end of the TAR.
                assert unpacked(tmp_path) == PHOTOS and kind in ("tar", "tar.gz")
                shutil.rmtree(tmp_path / "out")


def test_a_wrong_checksum_at_the_end_is_noticed(tmp_path):
    data = bytearray(gzip.compress(make()))
    data[-6] ^= 1
    with pytest.raises(InputError, match="cannot be unpacked .CRC check failed"):
        unpack(tmp_path, data)
    assert not (tmp_path / "out").exists()


def test_a_damaged_header_within_is_not_the_end(tmp_path):
    data = bytearray(make())
    data[data.index(b"b.jpg")] ^= 1
    with pytest.raises(InputError, match="damaged or cut short at byte 2048"):
        unpack(tmp_path, data)
    whole = make({"a.jpg": b"a" * 512})
    with pytest.raises(InputError, match="damaged or cut short at byte 1024"):
        unpack(tmp_path, whole[:1024])
    with pytest.raises(InputError, match="damaged or cut short at byte 1024"):
        unpack(tmp_path, whole + b"more")
    unpack(tmp_path, whole[:1536])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("/tmp/evil", tarfile.REGTYPE, "lies outside of the folder"),
        ("../evil", tarfile.REGTYPE, "lies outside of the folder"),
        ("a/../../evil", tarfile.REGTYPE, "lies outside of the folder"),
        ("../evil", tarfile.DIRTYPE, "lies outside of the folder"),
        ("evil", tarfile.SYMTYPE, "is neither a file nor a folder"),
        ("evil", tarfile.LNKTYPE, "is neither a file nor a folder"),
        ("evil", tarfile.FIFOTYPE, "is neither a file nor a folder"),
        ("evil", tarfile.CHRTYPE, "is neither a file nor a folder"),
        ("evil", tarfile.BLKTYPE, "is neither a file nor a folder"),
        ("./b.jpg", tarfile.REGTYPE, "'b.jpg' comes twice"),
        ("b.jpg/evil", tarfile.REGTYPE, "File exists|Not a directory"),
        ("x" * 300, tarfile.REGTYPE, "File name too long"),
    ],
)
def test_archives_write_new_files_into_their_folder_alone(
    tmp_path, name, kind, message
):
    with pytest.raises(InputError, match=message):
        unpack(tmp_path, make(PHOTOS, (name, kind, 0)))
    assert not list(tmp_path.rglob("evil")) and not os.path.exists("/tmp/evil")
    assert not list(tmp_path.rglob("*.part"))


def test_links_on_the_disk_are_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0").symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link to another folder"):
        unpack(tmp_path, make())
    unpack(tmp_path, make({"b.jpg": b"new"}))
    (tmp_path / "out" / "b.jpg").unlink()
    (tmp_path / "out" / "b.jpg").symlink_to(elsewhere / "mine")
    unpack(tmp_path, make({"b.jpg": b"new"}))
    assert (elsewhere / "mine").read_text() == "mine"
    assert not (tmp_path / "out" / "b.jpg").is_symlink()


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "drive")
    unpack(tmp_path, make())
    assert (tmp_path / "drive" / "b.jpg").read_bytes() == PHOTOS["b.jpg"]


def test_what_would_fill_the_disk_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    bomb = gzip.compress(make({"zeros": bytes(1 << 20)}))
    monkeypatch.setattr(archives, "_LARGEST_RATIO", 1)
    with pytest.raises(InputError, match="more than 1 times as large unpacked"):
        unpack(tmp_path, bomb)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    usage = archives.shutil.disk_usage(tmp_path)._replace(free=1 << 10)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="1048576 bytes are needed, 1024 are free"):
        unpack(tmp_path, bomb)
    assert unpacked(tmp_path) == {}


def test_a_killed_job_leaves_whole_files_and_no_mark(tmp_path, monkeypatch):
    copied = []

    def copy(source, target):
        copied.append(target.name)
        target.write(source.read(3))
        if len(copied) == 2:
            raise KeyboardInterrupt
        target.write(source.read())

    monkeypatch.setattr(archives.shutil, "copyfileobj", copy)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path, make())
    assert unpacked(tmp_path) == {"0/1/2/a.jpg": PHOTOS["0/1/2/a.jpg"]}
    (tmp_path / "out" / ".photos.tar.part").write_bytes(b"of a job killed harder")
    monkeypatch.undo()
    unpack(tmp_path, make())
    assert unpacked(tmp_path) == PHOTOS
