"""Which image files there are in folders and lists, and what is left out."""

import concurrent.futures
import os
import pathlib
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from delf_jax import image_files, images
from delf_jax.files import InputError


@pytest.fixture
def notes(monkeypatch):
    """What is noted, in the order of it."""
    found: list[str] = []
    monkeypatch.setattr(image_files, "add_note", found.append)
    return found


@pytest.fixture
def without_heic(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _forget_formats()
    yield
    _forget_formats()


def _forget_formats() -> None:
    image_files.missing_formats.cache_clear()
    image_files._suffixes.cache_clear()


def _touch(*paths: pathlib.Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def _ids(*paths: str | os.PathLike) -> list[str]:
    return [id for id, _ in image_files.find_images(paths)]


def test_ids_are_paths_within_the_folder(tmp_path):
    _touch(tmp_path / "b" / "1.jpg", tmp_path / "a" / "1.JPG", tmp_path / "note.txt")
    _touch(tmp_path / ".thumbnails" / "2.jpg", tmp_path / "a" / "._1.jpg")
    found = image_files.find_images([tmp_path])
    assert [id for id, _ in found] == ["a/1.JPG", "b/1.jpg"]
    assert found[0][1] == tmp_path / "a" / "1.JPG"


def test_ids_of_several_folders_differ(tmp_path):
    _touch(tmp_path / "b" / "1.jpg", tmp_path / "a" / "1.jpg", tmp_path / "c.jpg")
    assert _ids(tmp_path / "a", tmp_path / "b", tmp_path / "a") == [
        "a/1.jpg",
        "b/1.jpg",
    ]
    assert _ids(tmp_path / "a" / "1.jpg", tmp_path / "c.jpg") == ["a/1.jpg", "c.jpg"]


def test_a_named_file_may_end_in_anything(tmp_path):
    _touch(tmp_path / "photo")
    assert _ids(tmp_path / "photo") == ["photo"]


def test_what_cannot_be_searched_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        _ids(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no images in this folder"):
        _ids(tmp_path)
    with pytest.raises(InputError, match="were given"):
        _ids()


def test_photos_of_telephones_and_browsers_are_found(tmp_path):
    suffixes = "jfif jpe mpo avif jp2 dib apng pgm JPEG".split()
    _touch(*(tmp_path / f"a.{suffix}" for suffix in suffixes))
    assert _ids(tmp_path) == sorted(f"a.{suffix}" for suffix in suffixes)


def test_what_is_left_out_is_counted_with_the_reason(tmp_path, notes, without_heic):
    _touch(*(tmp_path / f"{number}.heic" for number in range(3)))
    _touch(tmp_path / "a.jpg", tmp_path / "a.txt", tmp_path / "b.TXT", tmp_path / "b")
    _touch(tmp_path / "raw.dng", tmp_path / "._a.jpg", tmp_path / "Thumbs.db")
    for folder in ("__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN"):
        _touch(tmp_path / folder / "a.jpg")
    assert _ids(tmp_path) == ["a.jpg"]
    assert notes == [
        f"{tmp_path}: 9 files skipped: 3 .heic (pip install delf_jax[heic]), 2 .txt, "
        "2 hidden, 1 .dng (raw photos are not supported: export JPEG or TIFF), "
        "1 without a suffix; 3 folders skipped: 3 hidden"
    ]


def test_photos_are_named_among_more_kinds_than_are_listed(
    tmp_path, notes, without_heic
):
    _touch(tmp_path / "a.jpg", tmp_path / "b.heic")
    _touch(*(tmp_path / f"{n}.{kind}" for n in "12" for kind in "abcdefghi"))
    assert _ids(tmp_path) == ["a.jpg"]
    assert notes[0].endswith("2 .g, 1 .heic (pip install delf_jax[heic]), 4 others")


def test_a_folder_of_photos_alone_leaves_no_note(tmp_path, notes):
    _touch(tmp_path / "a" / "1.jpg")
    assert _ids(tmp_path) == ["a/1.jpg"] and notes == []


def test_a_folder_of_what_cannot_be_read_says_why_it_has_no_images(
    tmp_path, without_heic
):
    _touch(tmp_path / "a.heic")
    with pytest.raises(InputError, match=r"1 \.heic \(pip install delf_jax\[heic\]\)"):
        _ids(tmp_path)


def test_formats_that_this_pillow_lacks_are_left_out(tmp_path, notes, monkeypatch):
    _touch(tmp_path / "a.avif", tmp_path / "a.png")
    _forget_formats()
    monkeypatch.setattr(image_files.features, "check", lambda part: part != "avif")
    try:
        assert _ids(tmp_path) == ["a.png"]
        assert "AVIF" not in image_files.readable_formats()
    finally:
        _forget_formats()
    assert "1 .avif (this Pillow is without AVIF" in notes[0]


def test_heic_photos_need_their_package(tmp_path, without_heic):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    with pytest.raises(InputError, match=r"a.heic: .*pip install delf_jax\[heic\]"):
        images.read_image(path)


def test_heic_photos_are_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    grey = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, axis=0)
    photo = np.repeat(grey, 3, axis=2)
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.fromarray(photo)).save(path, quality=95)
    assert _ids(tmp_path) == ["a.heic"]
    assert np.abs(images.read_image(path).astype(int) - photo).max() < 12


def test_linked_folders_are_followed_and_loops_are_not(tmp_path, notes):
    _touch(tmp_path / "elsewhere" / "in" / "1.jpg", tmp_path / "photos" / "a" / "2.jpg")
    photos = tmp_path / "photos"
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "a" / "up").symlink_to(photos)
    (photos / "again").symlink_to(photos / "a")
    (photos / "nowhere").symlink_to(tmp_path / "absent")
    (photos / "3.jpg").symlink_to(tmp_path / "elsewhere" / "in" / "1.jpg")
    (photos / "self").symlink_to(photos / "self")
    assert _ids(photos) == ["3.jpg", "a/2.jpg", "linked/in/1.jpg"]
    assert notes == [
        f"{photos}: 2 files skipped: 2 without a suffix; 2 folders skipped: 2 linked "
        "twice"
    ]
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
    assert _ids(tmp_path / "root") == ["in/1.jpg"]


def test_folders_that_cannot_be_read_are_counted(tmp_path, notes, monkeypatch):
    _touch(tmp_path / "a" / "1.jpg", tmp_path / "b" / "2.jpg")
    scan = os.scandir

    def refuse(folder):
        if folder == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(image_files.os, "scandir", refuse)
    assert _ids(tmp_path) == ["a/1.jpg"]
    assert notes[0].endswith("1 folder skipped: 1 not readable (Permission denied)")


def test_a_list_names_images_one_a_line(tmp_path, monkeypatch):
    _touch(tmp_path / "photos" / "a#1.jpg", tmp_path / "photos" / "b" / "2.jpg")
    _touch(tmp_path / "lists" / "beside.jpg", tmp_path / "photos" / "c" / "note.txt")
    listed = tmp_path / "lists" / "all.txt"
    lines = "# ours", "photos/a#1.jpg", "", "photos/b", ' "beside.jpg" ', "absent.jpg"
    listed.write_bytes("\r\n".join(lines).encode())
    monkeypatch.chdir(tmp_path)
    expected = ["absent.jpg", "lists/beside.jpg", "photos/a#1.jpg", "photos/b/2.jpg"]
    assert _ids("@lists/all.txt") == _ids(f"@{listed}") == expected
    assert _ids("@lists/all.txt", "photos/c/note.txt")[-1] == "photos/c/note.txt"


@pytest.mark.parametrize("text", ["Image,label\n{},x\n", "id;path\n1;{}\n"])
def test_a_list_may_be_a_column_of_a_csv(tmp_path, text):
    _touch(tmp_path / "a, b.jpg", tmp_path / "c" / "1.jpg")
    name = '"a, b.jpg"' if "," in text else "a, b.jpg"
    (tmp_path / "list.csv").write_text(text.format(name))
    assert _ids(f"@{tmp_path / 'list.csv'}") == ["a, b.jpg"]


def test_a_list_that_is_none_is_refused_by_name(tmp_path):
    cases = {
        "empty.txt": ("# a\n", "lists no images"),
        "nul.txt": ("a\0b", "NUL bytes"),
    }
    cases["other.csv"] = ("name\na.jpg\n", "no column image, path or id, only 'name'")
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            _ids(f"@{tmp_path / name}")
    with pytest.raises(InputError, match="nowhere.txt: no such file"):
        _ids(f"@{tmp_path / 'nowhere.txt'}")


def test_a_file_whose_name_begins_as_a_list_is_a_file(tmp_path, monkeypatch):
    _touch(tmp_path / "@a.jpg", tmp_path / "@b" / "1.jpg")
    monkeypatch.chdir(tmp_path)
    assert _ids("@a.jpg") == ["@a.jpg"] and _ids("@b") == ["1.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_list_may_come_through_a_pipe(tmp_path):
    _touch(tmp_path / "1.jpg")
    pipe, text = tmp_path / "pipe", f"{tmp_path / '1.jpg'}\n"
    os.mkfifo(pipe)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(pipe.write_text, text)
        assert _ids(f"@{pipe}") == ["1.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.jpg"))
        (tmp_path / "device.jpg").symlink_to("/dev/zero")
        assert _ids(tmp_path) == ["device.jpg", "pipe.jpg", "socket.jpg"]
        for name in _ids(tmp_path):
            with pytest.raises(InputError, match=f"{name}: cannot be read"):
                images.read_image(tmp_path / name)


def test_a_file_too_large_for_any_image_is_refused_unread(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(40 * 2**30)
    with pytest.raises(InputError, match="a.jpg: 40.0 GiB, more than the 1 GiB"):
        images.read_image(tmp_path / "a.jpg")


def test_a_path_with_a_nul_byte_is_refused():
    with pytest.raises(InputError, match="has a NUL byte"):
        images.read_image("a\0b.jpg")


def test_raw_photos_are_refused_rather_than_their_thumbnails(tmp_path):
    thumbnail = Image.new("RGB", (16, 16))
    thumbnail.save(tmp_path / "a.tif", tiffinfo={50706: b"\x01\x04\0\0"})
    (tmp_path / "a.nef").write_bytes((tmp_path / "a.tif").read_bytes())
    for name in ("a.tif", "a.nef"):
        with pytest.raises(InputError, match=f"{name}: raw photos are not supported"):
            images.read_image(tmp_path / name)
