import hashlib
import pathlib
from typing import NamedTuple

import pytest

from delf_jax.data import download
from delf_jax.files import InputError
from tests.helpers.faulty_server import CONTENT, serve


class File(NamedTuple):
    url: str
    md5: str
    target: pathlib.Path


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as running:
        yield running


@pytest.fixture
def file(server, tmp_path):
    server.files["/a.bin"] = CONTENT
    server.files["/a.md5"] = f"{hashlib.md5(CONTENT).hexdigest()}  a.bin\n".encode()
    return File(f"{server.url}/a.bin", f"{server.url}/a.md5", tmp_path / "in/a.bin")


def fetch(file):
    download.fetch_file(*file, progress=False)


def part_of(file):
    return file.target.with_name("a.bin.part")


def test_an_interrupted_file_goes_on_where_it_was(server, file):
    server.breaks = [100_000]
    message = "the connection ended after 100000 of 256000 bytes"
    with pytest.raises(InputError, match=message):
        fetch(file)
    assert not file.target.exists()
    assert part_of(file).stat().st_size == 100_000
    fetch(file)
    assert server.asked[-1] == ("/a.bin", "bytes=100000-")
    assert file.target.read_bytes() == CONTENT


def test_a_connection_that_ends_is_tried_again_at_once(server, file, monkeypatch):
    monkeypatch.setattr(download, "_ATTEMPTS", 3)
    server.breaks = [100_000, 50_000]
    fetch(file)
    ranges = [asked for path, asked in server.asked if path == "/a.bin"]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("fault", ["no ranges", "another file", "no tag"])
def test_what_cannot_go_on_begins_again(server, file, fault):
    server.tag = "" if fault == "no tag" else server.tag
    server.breaks = [100_000]
    with pytest.raises(InputError, match="what was got is kept"):
        fetch(file)
    if fault == "another file":
        server.tag = '"2"'
        server.files["/a.bin"] = CONTENT[::-1]
        digest = hashlib.md5(CONTENT[::-1]).hexdigest()
        server.files["/a.md5"] = digest.encode()
    server.ranges = fault != "no ranges"
    fetch(file)
    assert file.target.read_bytes() == server.files["/a.bin"]


def test_a_whole_file_that_was_not_yet_named_is_named(server, file):
    part = part_of(file)
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    part.with_name("a.bin.part.tag").write_text(server.tag)
    fetch(file)
    assert file.target.read_bytes() == CONTENT


def test_a_wrong_md5_removes_the_file(server, file):
    server.files["/a.bin"] = CONTENT + b"x"
    with pytest.raises(InputError, match=f"not {hashlib.md5(CONTENT).hexdigest()}"):
        fetch(file)
    assert not file.target.exists()
    assert not part_of(file).exists()


def test_an_md5_that_is_none_is_refused_before_the_file_is_fetched(server, file):
    server.files["/a.md5"] = b"<html>"
    with pytest.raises(InputError, match="says no MD5"):
        fetch(file)
    assert [path for path, _ in server.asked] == ["/a.md5"]


def test_a_server_that_cannot_be_reached_is_named(file):
    nobody = file._replace(url="http://127.0.0.1:9/a", md5="")
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(nobody)


def test_sizes_are_said_in_units_of_a_thousand():
    said = [download.size_in_words(size) for size in (None, 999, 1000, 5 * 10**15)]
    assert said == ["size not documented", "999 bytes", "1.0 kB", "5000.0 TB"]
