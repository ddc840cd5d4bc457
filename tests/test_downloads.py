"""Downloads from a server of this machine, with its faults."""

import hashlib
import http.server
import io
import re
import tarfile
import threading

import pytest

from delf_jax import cli, download_table, downloads
from delf_jax.download_table import DOWNLOADS, Download, Files
from delf_jax.files import InputError

CONTENT = bytes(range(256)) * 1000


class Server:
    """What it holds, what is wrong with it, and what it was asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.ranges = True  # whether it knows Range.
        self.tag = '"1"'
        self.breaks: list[int] = []  # after so many bytes it hangs up, once each.
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.asked.append((self.path, asked))
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = 0
            if asked and state.ranges and self.headers["If-Range"] == state.tag:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content) and start:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                where = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", where)
            self.send_header("Content-Length", str(len(content) - start))
            if state.tag:
                self.send_header("ETag", state.tag)
            self.end_headers()
            hangs_up = state.breaks and self.path == "/a.bin"
            end = start + state.breaks.pop(0) if hangs_up else None
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    monkeypatch.setattr(downloads, "_PAUSE", 0.0)
    monkeypatch.setattr(downloads, "_ATTEMPTS", 1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def file(server):
    server.files["/a.bin"] = CONTENT
    server.files["/a.md5"] = f"{hashlib.md5(CONTENT).hexdigest()}  a.bin\n".encode()
    return Files(f"{server.url}/a.bin", "in/a.bin", md5=f"{server.url}/a.md5")


def fetch(file, out, **kwargs):
    return downloads.fetch([file], out, shown=False, **kwargs)


def test_a_file_is_fetched_checked_and_not_fetched_again(server, file, tmp_path):
    assert fetch(file, tmp_path) == (1, 0, 0, {})
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.bin"]
    server.asked.clear()
    assert fetch(file, tmp_path) == (0, 1, 0, {})
    assert server.asked == []


def test_an_interrupted_file_goes_on_where_it_was(server, file, tmp_path):
    server.breaks = [100_000]
    report = fetch(file, tmp_path)
    assert (
        "the connection ended after 100000 of 256000 bytes"
        in (report.failed["in/a.bin"])
    )
    assert not (tmp_path / "in/a.bin").exists()
    assert (tmp_path / "in/a.bin.part").stat().st_size == 100_000
    assert fetch(file, tmp_path).fetched == 1
    assert server.asked[-1] == ("/a.bin", "bytes=100000-")
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


def test_a_connection_that_ends_is_tried_again_at_once(
    server, file, tmp_path, monkeypatch
):
    monkeypatch.setattr(downloads, "_ATTEMPTS", 3)
    server.breaks = [100_000, 50_000]
    assert fetch(file, tmp_path).fetched == 1
    ranges = [asked for path, asked in server.asked if path == "/a.bin"]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("fault", ["no ranges", "another file", "no tag"])
def test_what_cannot_go_on_begins_again(server, file, tmp_path, fault):
    server.tag = "" if fault == "no tag" else server.tag
    server.breaks = [100_000]
    fetch(file, tmp_path)
    if fault == "another file":
        server.tag = '"2"'
        server.files["/a.bin"] = CONTENT[::-1]
        digest = hashlib.md5(CONTENT[::-1]).hexdigest()
        server.files["/a.md5"] = digest.encode()
    server.ranges = fault != "no ranges"
    assert fetch(file, tmp_path).fetched == 1
    assert (tmp_path / "in/a.bin").read_bytes() == server.files["/a.bin"]


def test_a_whole_file_that_was_not_yet_named_is_named(server, file, tmp_path):
    part = tmp_path / "in/a.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    part.with_name("a.bin.part.tag").write_text(server.tag)
    assert fetch(file, tmp_path).fetched == 1
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT


def test_a_wrong_md5_removes_the_file(server, file, tmp_path):
    server.files["/a.bin"] = CONTENT + b"x"
    failed = fetch(file, tmp_path).failed["in/a.bin"]
    assert "MD5 is" in failed and hashlib.md5(CONTENT).hexdigest() in failed
    assert not (tmp_path / "in/a.bin").exists()
    assert not (tmp_path / "in/a.bin.part").exists()


def test_an_md5_that_is_none_is_refused_before_the_file_is_fetched(
    server, file, tmp_path
):
    server.files["/a.md5"] = b"<html>"
    assert "says no MD5" in fetch(file, tmp_path).failed["in/a.bin"]
    assert [path for path, _ in server.asked] == ["/a.md5"]


def test_one_file_that_cannot_be_had_does_not_stop_the_others(
    server, file, tmp_path, capsys
):
    absent = Files(f"{server.url}/absent", "absent")
    report = downloads.fetch([absent, file], tmp_path, shown=False)
    assert report.fetched == 1
    assert "the server says 404" in report.failed["absent"]
    assert capsys.readouterr().err.startswith("failed: http://127.0.0.1")


def test_a_server_that_cannot_be_reached_is_named(file, tmp_path, monkeypatch):
    nobody = file._replace(url="http://127.0.0.1:9/a", md5="")
    assert "cannot be reached" in fetch(nobody, tmp_path).failed["in/a.bin"]


def _tar(members):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def test_an_archive_is_unpacked_once_if_that_is_asked_for(server, tmp_path):
    server.files["/t.tar"] = _tar({"0/1/2/012.jpg": b"photo"})
    file = Files(f"{server.url}/t.tar", "test/t.tar", unpack="test")
    assert fetch(file, tmp_path).unpacked == 0
    assert not (tmp_path / "test/0").exists()
    assert fetch(file, tmp_path, unpack=True) == (0, 1, 1, {})
    assert (tmp_path / "test/0/1/2/012.jpg").read_bytes() == b"photo"
    assert fetch(file, tmp_path, unpack=True).unpacked == 0


@pytest.mark.parametrize("name", ["../evil", "a/../../evil"])
def test_an_archive_cannot_write_elsewhere(server, tmp_path, name):
    server.files["/t.tar"] = _tar({name: b"evil"})
    file = Files(f"{server.url}/t.tar", "t.tar", unpack="in")
    failed = fetch(file, tmp_path / "out", unpack=True).failed["t.tar"]
    assert "cannot be unpacked" in failed
    assert not list(tmp_path.rglob("evil"))


def test_a_damaged_archive_is_named(server, tmp_path):
    server.files["/t.tar"] = b"no archive" * 100
    file = Files(f"{server.url}/t.tar", "t.tar", unpack="in")
    assert "cannot be unpacked" in fetch(file, tmp_path, unpack=True).failed["t.tar"]


def test_a_disk_that_is_too_small_is_told_before_anything(server, file, tmp_path):
    with pytest.raises(InputError, match=r"1\.0 TB are needed"):
        fetch(file._replace(size=10**18 // 10**6), tmp_path)
    assert server.asked == [] and not list(tmp_path.iterdir())


@pytest.fixture
def made(server, file, monkeypatch):
    numbered = Files(f"{server.url}/{{}}.bin", "{}.bin", 10, ("0", "1", "2"))
    for number in numbered.numbers:
        server.files[f"/{number}.bin"] = b"0123456789"
    entry = Download("made up", "https://example.org", (file, numbered))
    monkeypatch.setitem(download_table.DOWNLOADS, "made", entry)


def test_by_default_nothing_is_fetched_and_all_is_told(
    server, made, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["download", "made"]) == 0
    said = capsys.readouterr().out
    assert "0.bin to 2, 3 files: 30 bytes, from http://127.0.0.1" in said
    assert "in/a.bin: size not documented, MD5 checked" in said
    assert "in all 30 bytes and what is not known" in said
    assert "nothing was fetched" in said
    assert server.asked == [] and not list(tmp_path.iterdir())


def test_the_command_fetches_what_is_asked_for(server, made, tmp_path, capsys):
    arguments = ["download", "made", "--yes", f"--out={tmp_path}", "--only=*.bin"]
    assert cli.main([*arguments[:-1], "--only=[01].bin"]) == 0
    assert "2 fetched, 0 were there" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert "2 fetched, 2 were there" in capsys.readouterr().out
    del server.files["/a.bin"]
    (tmp_path / "in/a.bin").unlink()
    assert cli.main(arguments) == 1
    assert "3 were there, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no dataset 'nothing'"),
        (["gldv2_test", "--only=*.zip"], "no file of gldv2_test matches"),
        (["gldv2_test", "--yes"], "name a folder with --out"),
        (["gldv1", "--yes", "--out=x"], "nothing to fetch"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(arguments, message, capsys):
    assert cli.main(["download", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_a_dataset_all_are_listed(capsys):
    assert cli.main(["download"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in DOWNLOADS)
