"""Downloads from a server of this machine, with its faults."""

import errno
import gzip
import hashlib
import io
import lzma
import os
import re
import tarfile
import urllib.request

import pytest

from delf_jax import cli
from delf_jax.data import download, download_catalogue
from delf_jax.data.download_catalogue import DOWNLOADS, Download, Files
from delf_jax.files import InputError
from tests.helpers.faulty_server import CONTENT, serve


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as running:
        yield running


@pytest.fixture
def file(server):
    server.files["/a.bin"] = CONTENT
    server.files["/a.md5"] = f"{hashlib.md5(CONTENT).hexdigest()}  a.bin\n".encode()
    return Files(f"{server.url}/a.bin", "in/a.bin", md5=f"{server.url}/a.md5")


def fetch(file, out, **kwargs):
    return download.fetch([file], out, progress=False, **kwargs)


def test_a_file_is_fetched_checked_and_not_fetched_again(server, file, tmp_path):
    assert fetch(file, tmp_path) == (1, 0, 0, {})
    assert (tmp_path / "in/a.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.bin"]
    server.requests.clear()
    assert fetch(file, tmp_path) == (0, 1, 0, {})
    assert server.requests == []


def test_an_empty_folder_is_refused(file):
    with pytest.raises(InputError, match="--out is empty"):
        fetch(file, "")


def test_one_file_that_cannot_be_had_does_not_stop_the_others(
    server, file, tmp_path, capsys
):
    absent = Files(f"{server.url}/absent", "absent")
    report = download.fetch([absent, file], tmp_path, progress=False)
    assert report.fetched == 1
    assert "the server answers 404" in report.failed["absent"]
    assert capsys.readouterr().err.startswith("failed: http://127.0.0.1")


def _tar(members):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def test_an_archive_is_unpacked_once_on_request(server, tmp_path):
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


def test_a_disk_that_is_too_small_is_reported_first(server, file, tmp_path):
    with pytest.raises(InputError, match=r"1\.0 TB are needed"):
        fetch(file._replace(size=10**18 // 10**6), tmp_path)
    assert server.requests == [] and not list(tmp_path.iterdir())


@pytest.fixture
def made(server, file, monkeypatch):
    numbered = Files(f"{server.url}/{{}}.bin", "{}.bin", 10, ("0", "1", "2"))
    for number in numbered.numbers:
        server.files[f"/{number}.bin"] = b"0123456789"
    entry = Download("made up", "https://example.org", (file, numbered))
    monkeypatch.setitem(download_catalogue.DOWNLOADS, "made", entry)


def test_by_default_nothing_is_fetched_and_all_is_listed(
    server, made, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["download", "made"]) == 0
    printed = capsys.readouterr().out
    assert "0.bin to 2, 3 files: 30 bytes, from http://127.0.0.1" in printed
    assert "in/a.bin: size not documented, MD5 checked" in printed
    assert "in all 30 bytes and what is not documented" in printed
    assert "nothing was downloaded" in printed
    assert server.requests == [] and not list(tmp_path.iterdir())


def test_the_command_fetches_what_is_selected(server, made, tmp_path, capsys):
    arguments = ["download", "made", "--yes", f"--out={tmp_path}", "--only=*.bin"]
    assert cli.main([*arguments[:-1], "--only=[01].bin"]) == 0
    assert "2 fetched, 0 present" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert "2 fetched, 2 present" in capsys.readouterr().out
    del server.files["/a.bin"]
    (tmp_path / "in/a.bin").unlink()
    assert cli.main(arguments) == 1
    assert "3 present, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no dataset 'nothing'"),
        (["gldv2_test", "--only=*.zip"], "no file of gldv2_test matches"),
        (["gldv2_test", "--yes"], "name a folder with --out"),
        (["gldv1", "--yes", "--out=x"], "nothing to download"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(arguments, message, capsys):
    assert cli.main(["download", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_a_dataset_all_are_listed(capsys):
    assert cli.main(["download"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in DOWNLOADS)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "in/a.bin"


@pytest.fixture
def part(target):
    return target.with_name("a.bin.part")


def fetch_file(file, target):
    download.fetch_file(file, target, progress=False)


def test_an_interrupted_file_resumes(server, file, target, part):
    server.breaks = [100_000]
    message = "the connection ended after 100000 of 256000 bytes"
    with pytest.raises(InputError, match=message):
        fetch_file(file, target)
    assert not target.exists()
    assert part.stat().st_size == 100_000
    fetch_file(file, target)
    assert server.requests[-1] == ("/a.bin", "bytes=100000-")
    assert target.read_bytes() == CONTENT


def test_a_connection_that_ends_is_tried_again_at_once(
    server, file, monkeypatch, target
):
    monkeypatch.setattr(download, "_ATTEMPTS", 3)
    server.breaks = [100_000, 50_000]
    fetch_file(file, target)
    ranges = [part for path, part in server.requests if path == "/a.bin"]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("fault", ["no ranges", "another file", "no tag"])
def test_what_cannot_resume_starts_again(server, file, fault, target):
    server.tag = "" if fault == "no tag" else server.tag
    server.breaks = [100_000]
    with pytest.raises(InputError, match="what was fetched is kept"):
        fetch_file(file, target)
    if fault == "another file":
        server.tag = '"2"'
        server.files["/a.bin"] = CONTENT[::-1]
        digest = hashlib.md5(CONTENT[::-1]).hexdigest()
        server.files["/a.md5"] = digest.encode()
    server.ranges = fault != "no ranges"
    fetch_file(file, target)
    assert target.read_bytes() == server.files["/a.bin"]


def test_a_whole_file_that_was_not_yet_named_is_named(server, file, target, part):
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    part.with_name("a.bin.part.tag").write_text(server.tag)
    fetch_file(file, target)
    assert target.read_bytes() == CONTENT


def test_a_wrong_md5_removes_the_file(server, file, target, part):
    server.files["/a.bin"] = CONTENT + b"x"
    with pytest.raises(InputError, match=f"not {hashlib.md5(CONTENT).hexdigest()}"):
        fetch_file(file, target)
    assert not target.exists()
    assert not part.exists()


def test_an_md5_that_is_none_is_refused_before_the_file_is_fetched(
    server, file, target
):
    server.files["/a.md5"] = b"<html>"
    with pytest.raises(InputError, match="no MD5 found"):
        fetch_file(file, target)
    assert [path for path, _ in server.requests] == ["/a.md5"]


def test_a_server_that_cannot_be_reached_is_named(file, target):
    nobody = file._replace(url="http://127.0.0.1:9/a", md5="")
    with pytest.raises(InputError, match="cannot be reached"):
        fetch_file(nobody, target)


def test_sizes_are_in_units_of_a_thousand():
    sizes = [download.format_size(size) for size in (None, 999, 1000, 5 * 10**15)]
    assert sizes == ["size not documented", "999 bytes", "1.0 kB", "5000.0 TB"]


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("abc", "the server sent Content-Length 'abc'"),
        ("-5", "the server sent Content-Length '-5'"),
        ("1e3", "the server sent Content-Length '1e3'"),
        ("9" * 5000, "the server sent Content-Length '999"),
        (str(10**18), "1000000.0 TB are needed and .* free"),
    ],
)
def test_a_length_that_is_none_or_does_not_fit_is_refused(
    server, file, tmp_path, target, length, message
):
    server.length = length
    file = file._replace(md5="")
    (failed,) = fetch(file, tmp_path).failed.values()
    assert re.search(message, failed)
    assert not target.exists()


@pytest.mark.parametrize("name", ["a.bin.part", "a.bin.part.tag"])
@pytest.mark.parametrize("is_link", [True, False])
def test_nothing_is_written_through_links_or_into_pipes(
    server, file, tmp_path, target, name, is_link
):
    target.parent.mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    if is_link:
        (target.parent / name).symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(target.parent / name)
    (failed,) = fetch(file, tmp_path).failed.values()
    assert f"{name}: is a link or no regular file; remove it" in failed
    assert (tmp_path / "mine").read_text() == "mine"
    (target.parent / name).unlink()
    assert fetch(file, tmp_path).failed == {}


def test_redirects_are_followed_but_not_from_https_to_http(server, file, tmp_path):
    server.moved = {"/old.bin": f"{server.url}/a.bin"}
    moved = file._replace(url=f"{server.url}/old.bin")
    assert fetch(moved, tmp_path).fetched == 1
    handler, headers = download._Redirects(), {}
    request = urllib.request.Request("https://example.org/a.bin")
    for place in ("http://example.org/a.bin", "ftp://example.org/a.bin"):
        with pytest.raises(InputError, match=f"redirected to {place}, which is not"):
            handler.redirect_request(request, None, 302, "Found", headers, place)
    place = "HTTPS://example.net/b.bin"
    found = handler.redirect_request(request, None, 302, "Found", headers, place)
    assert found.full_url.endswith("example.net/b.bin")


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_damaged_archive_is_not_called_unpacked(server, tmp_path, compress):
    data = bytearray(compress(_tar({"a.jpg": b"photo" * 1000})))
    whole, data[-7] = bytes(data), data[-7] ^ 1
    server.files["/t.tar"] = bytes(data)
    file = Files(f"{server.url}/t.tar", "t.tar", unpack="in")
    for _ in range(2):
        report = fetch(file, tmp_path, unpack=True)
        assert report.unpacked == 0 and "cannot be unpacked" in report.failed["t.tar"]
    assert not list(tmp_path.rglob("*.jpg")) and not list(tmp_path.rglob("*.unpacked"))
    (tmp_path / "t.tar").write_bytes(whole)
    assert fetch(file, tmp_path, unpack=True).unpacked == 1


def test_the_sha_256_of_the_first_download_is_kept_and_compared(
    server, file, tmp_path, target
):
    file = file._replace(md5="")
    assert fetch(file, tmp_path).fetched == 1
    sums = target.with_name("SHA256SUMS")
    assert sums.read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  a.bin\n"
    server.files["/a.bin"] = CONTENT[::-1]
    assert fetch(file, tmp_path) == (0, 1, 0, {})
    target.unlink()
    (failed,) = fetch(file, tmp_path).failed.values()
    found = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert f"SHA-256 is {found}, not {hashlib.sha256(CONTENT).hexdigest()}" in failed
    assert f"remove its line in {sums}" in failed
    assert [path.name for path in target.parent.iterdir()] == ["SHA256SUMS"]
    sums.unlink()
    assert fetch(file, tmp_path).fetched == 1
    assert sums.read_text() == f"{found}  a.bin\n"


def test_a_file_that_was_damaged_since_is_named_and_kept(
    server, file, tmp_path, target
):
    file = file._replace(md5="")
    fetch(file, tmp_path)
    target.write_bytes(b"x")
    (failed,) = fetch(file, tmp_path).failed.values()
    assert re.search("a.bin: SHA-256 is .* damaged, or not from http.* remove", failed)
    assert target.read_bytes() == b"x"


def test_what_is_no_line_of_checksums_is_named(file, tmp_path, target):
    target.parent.mkdir()
    target.with_name("SHA256SUMS").write_text(f"{'0' * 64}  b.bin\nwhat?\n")
    (failed,) = fetch(file._replace(md5=""), tmp_path).failed.values()
    assert "SHA256SUMS, line 2: expected a SHA-256, two blanks and a name" in failed


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_digest_that_is_published_is_checked(file, tmp_path, target, kind):
    digest = hashlib.new(kind, CONTENT).hexdigest()
    good = file._replace(md5="", digest=f"{kind}:{digest[:8]}")
    assert fetch(good, tmp_path).fetched == 1
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    target.unlink()
    bad = good._replace(digest=f"{kind}:{'0' * 8}")
    (failed,) = fetch(bad, tmp_path).failed.values()
    assert f" is {digest[:8]}, not 00000000; the file was removed: run" in failed
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("is_said", [True, False])
def test_a_web_page_is_not_taken_for_a_file(server, file, tmp_path, target, is_said):
    server.files["/a.bin"] = b"\n<!DOCTYPE html><title>Sign in</title>"
    server.kind = "text/html; charset=utf-8" if is_said else server.kind
    (failed,) = fetch(file._replace(md5=""), tmp_path).failed.values()
    assert "a.bin: the server sent a web page instead of the file; open" in failed
    assert not target.exists() and not target.with_name("SHA256SUMS").exists()


def test_a_size_that_is_far_from_the_documented_is_refused_before(
    server, file, tmp_path, target
):
    (failed,) = fetch(file._replace(md5="", size=10**6), tmp_path).failed.values()
    assert "the file has 256.0 kB, documented are 1.0 MB" in failed
    assert not target.exists() and not target.with_name("a.bin.part").exists()
    assert fetch(file._replace(md5="", size=3 * 10**5), tmp_path).fetched == 1


def test_errors_say_that_something_is_kept_only_if_it_is(server, file, tmp_path):
    nothing = file._replace(url=f"{server.url}/absent", md5="")
    (failed,) = fetch(nothing, tmp_path).failed.values()
    assert failed == f"{server.url}/absent: the server answers 404 Not Found"


def test_a_full_disk_ends_the_command_with_the_name_of_the_file(
    server, file, tmp_path, monkeypatch, part
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        fetch(file._replace(md5=""), tmp_path)
    assert raised.value.filename == str(part)


def test_progress_is_lines_with_sizes_and_rates(server, file, tmp_path, capsys):
    download.fetch([file], tmp_path)
    line = r"a\.bin: 256\.0 kB of 256\.0 kB, [0-9.]+ (kB|MB|GB)/s\n"
    assert re.fullmatch(line, capsys.readouterr().err)
