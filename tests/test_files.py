import hashlib
import os
import subprocess
import sys
import threading
import time

import pytest

from delf_jax import files


def test_written_file_has_the_content_and_no_temporary_stays(tmp_path):
    with files.atomic_write(tmp_path / "deep" / "a.bin") as file:
        file.write(b"123")
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"123"
    assert os.listdir(tmp_path / "deep") == ["a.bin"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_write(path, "w") as file:
        file.write("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_is_complete_or_absent(tmp_path):
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "in" / "a") as folder:
        (folder / "half").write_text("of it")
        raise RuntimeError
    assert os.listdir(tmp_path / "in") == []
    with files.new_folder(tmp_path / "in" / "a") as folder:
        (folder / "all").write_text("of it")
    assert os.listdir(tmp_path / "in") == ["a"]
    assert os.listdir(tmp_path / "in" / "a") == ["all"]


def test_a_folder_takes_no_others_place(tmp_path):
    (tmp_path / "a").write_text("mine")
    refused = pytest.raises(files.InputError, match="a exists: remove it")
    with refused, files.new_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "mine"


def test_a_killed_writer_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    program = (
        "import os, sys\nfrom delf_jax import files\n"
        "with files.atomic_write(sys.argv[1], 'w') as file:\n"
        "    file.write('new'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.json").write_text("old")
    (tmp_path / "link").symlink_to("far/a.json")
    (tmp_path / "new").symlink_to("far/b.json")
    (tmp_path / "link to a link").symlink_to("link")
    files.write_json(tmp_path / "link to a link", 1)
    files.write_json(tmp_path / "new", 2)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "new").is_symlink()
    assert files.read_json(tmp_path / "far" / "a.json") == 1
    assert files.read_json(tmp_path / "far" / "b.json") == 2
    assert sorted(os.listdir(tmp_path / "far")) == ["a.json", "b.json"]


def test_a_link_that_leads_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        files.write_json(tmp_path / "loop", 1)


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_pipe_is_written_into(tmp_path, mode):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(
        target=lambda: read.append((tmp_path / "pipe").read_bytes())
    )
    reader.start()
    with files.atomic_write(tmp_path / "pipe", mode) as file:
        file.write("1\n" if mode == "w" else b"1\n")
    reader.join()
    assert read == [b"1\n"]
    assert (tmp_path / "pipe").is_fifo()
    files.write_bytes(os.devnull, b"2")
    assert not os.path.isfile(os.devnull)


def test_a_pipe_gets_all_or_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RuntimeError), files.atomic_write(tmp_path / "pipe") as file:
        file.write(b"half")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(not os.path.islink("/dev/fd"), reason="/dev/fd has no links")
def test_what_is_open_already_is_written_into(tmp_path):
    with open(tmp_path / "log", "ab", buffering=0) as log:
        log.write(b"before\n")
        files.write_json(f"/dev/fd/{log.fileno()}", 1)
        log.write(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before\n1\nafter\n"
    assert os.listdir(tmp_path) == ["log"]


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
def test_standard_output_is_a_file_to_write(path, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_json(path, 1)
    assert capfd.readouterr().out == "1\n"
    assert os.listdir(tmp_path) == []


def test_what_is_in_the_way_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(files.InputError, match="folder: is a folder; name a file"):
        files.write_json(tmp_path / "folder", 1)
    with pytest.raises(files.InputError, match="b: .*/file is in the way"):
        files.write_json(tmp_path / "file" / "a" / "b", 1)
    (tmp_path / "gone").symlink_to("nowhere")
    refused = pytest.raises(files.InputError, match="gone is a symbolic link: remove")
    with refused, files.new_folder(tmp_path / "gone"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "gone"]


def test_a_name_as_long_as_a_name_may_be_is_written(tmp_path):
    for letter, length in (("x", 255), ("ü", 127)):
        files.write_json(tmp_path / (letter * length), 1)
    assert sorted(map(len, os.listdir(tmp_path))) == [127, 255]


KILLED = """
import os, sys
from delf_jax import files
name, folder = sys.argv[1:]
with files.new_folder(folder) as new:
    (new / "half").write_text("of it")
    with files.atomic_write(name) as file:
        os.kill(os.getpid(), 9)
"""


def _kill_writer(folder):
    command = [sys.executable, "-c", KILLED, folder / "a.json", folder / "model"]
    assert subprocess.run(command, check=False).returncode == -9
    left = sorted(os.listdir(folder))
    assert len(left) == 2 and left[0].startswith(".a.json.")
    return left


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path):
    _kill_writer(tmp_path)
    files.write_json(tmp_path / "a.json", 1)
    with files.new_folder(tmp_path / "model") as folder:
        (folder / "all").write_text("of it")
    assert sorted(os.listdir(tmp_path)) == ["a.json", "model"]
    assert os.listdir(tmp_path / "model") == ["all"]


def test_of_two_writers_of_one_folder_the_slower_says_that_it_is_there(tmp_path):
    refused = pytest.raises(files.InputError, match="model exists: remove it")
    with refused, files.new_folder(tmp_path / "model") as folder:
        (folder / "mine").write_text("mine")
        with files.new_folder(tmp_path / "model") as other:
            (other / "theirs").write_text("theirs")
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["theirs"]


def test_what_another_writer_needs_is_not_cleared(tmp_path):
    dead = _kill_writer(tmp_path)
    mine, of_host = f".a.json.{os.getpid()}.{dead[0][-16:]}", f"{dead[0][:-16]}0000abcd"
    others = (mine, f"{of_host}01234567", of_host, ".a.json", ".a.json.old", "a.json~")
    for name in (*others, f".b{dead[0][2:]}"):
        (tmp_path / name).write_text("mine")
    (tmp_path / f"{dead[0][:-8]}76543210").symlink_to(tmp_path / "a.json~")
    before = {*os.listdir(tmp_path)}
    files.write_json(tmp_path / "a.json", 1)
    assert {*os.listdir(tmp_path)} == before - {dead[0]} | {"a.json"}


def test_what_no_process_is_known_of_is_cleared_after_a_day(tmp_path):
    for name in ("old", "young"):
        folder = tmp_path / name
        (folder / ".model.1.0123abcd").mkdir(parents=True)
        (folder / ".model.1.0123abcd" / "half").write_text("of it")
        (folder / ".b.1.0123abcd").write_text("half")
    past = (time.time() - 2 * 24 * 3600,) * 2
    for path in sorted((tmp_path / "old").rglob("*"), reverse=True):
        os.utime(path, past)
    os.utime(tmp_path / "young" / ".model.1.0123abcd", past)
    for name, left in (("old", 1), ("young", 2)):
        files.write_json(tmp_path / name / "model", 1)
        assert len(os.listdir(tmp_path / name)) == 1 + left
        files.clear_leftovers(tmp_path / name)
    assert os.listdir(tmp_path / "old") == ["model"]
    assert len(os.listdir(tmp_path / "young")) == 3


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(previous)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, 2.5, "ü"]})
    assert files.read_json(path) == {"a": [1, 2.5, "ü"]}
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == {"a": [1, 2.5, "ü"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"{", "JSON"),
        (b"\xff", "not UTF-8 text; save it as UTF-8"),
        (b'{"a": 1, "a": 2}', "duplicate field 'a'"),
        (b"[" * 200_000, "JSON"),
        (b'{"a": [1, NaN]}', "NaN is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
    ],
)
def test_broken_json_is_named(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(files.InputError, match=words) as error:
        files.read_json(path)
    assert str(path) in str(error.value)


MARKED = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32-le": b"\xff\xfe\0\0",
    "utf-32-be": b"\0\0\xfe\xff",
}


@pytest.mark.parametrize("encoding", MARKED)
def test_text_has_the_encoding_that_its_mark_says(tmp_path, encoding):
    def write(text):
        (tmp_path / "a").write_bytes(MARKED[encoding] + text.encode(encoding))
        return tmp_path / "a"

    assert files.read_text(write("ü,1\r\n\r😀\n")) == "ü,1\n\n😀\n"
    lines = ["ü,1\r\n", "\r", "😀\n"]
    assert [*files.read_text_lines(write("".join(lines)))] == lines
    assert files.read_text(write("")) == ""
    assert files.read_json(write('{"ü": ["😀"]}')) == {"ü": ["😀"]}


def test_lists_of_file_names_may_have_any_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfcaf\xe9.jpg\r\n")
    names = files.read_text(tmp_path / "a", names=True)
    assert os.fsencode(names) == b"caf\xe9.jpg\n"
    with pytest.raises(files.InputError, match="not UTF-8 text"):
        files.read_text(tmp_path / "a")


def open_lines(path):
    return [*files.read_text_lines(path)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\n\xff", "not UTF-8 text; save it as UTF-8"),
        (b"a\nb\0", "not UTF-8 text, it has NUL bytes; save it as UTF-8"),
        ("a\nb".encode("utf-16-le"), "not UTF-8 text, it has NUL bytes"),
        (b"\xff\xfea\0\n\0a", "not UTF-16 text; save it as UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_in_one_sentence(tmp_path, content, words):
    (tmp_path / "a").write_bytes(content)
    for read in (files.read_text, open_lines, files.read_json):
        with pytest.raises(files.InputError, match=words) as error:
            read(tmp_path / "a")
        assert str(error.value).startswith(str(tmp_path / "a"))


def test_a_path_with_a_nul_byte_is_named():
    for read in (files.read_text, files.read_json, open_lines):
        with pytest.raises(files.InputError, match="its path has a NUL byte"):
            read("a\0b")


def test_names_that_are_not_utf8_come_back_from_json_and_keep_their_bytes(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    files.write_json(tmp_path / "a.json", {name: name})
    assert (tmp_path / "a.json").read_bytes().isascii()
    assert files.read_json(tmp_path / "a.json") == {name: name}
    with files.atomic_write(tmp_path / "names", "w") as file:
        file.write(name)
    assert (tmp_path / "names").read_bytes() == b"caf\xe9.jpg"
    assert files.digest(name) == hashlib.sha256(b"caf\xe9.jpg").hexdigest()


def test_sha256_is_the_published_one_of_abc(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_only_files_up_to_a_size_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert files.read_bytes(tmp_path / "a", 4) == b"1234"
    with pytest.raises(files.InputError, match=r"a: 4 bytes, expected at most 3"):
        files.read_bytes(tmp_path / "a", 3)
    with pytest.raises(files.InputError, match="b: no such file"):
        files.read_bytes(tmp_path / "b", 3)
    with pytest.raises(files.InputError, match="cannot be read"):
        files.read_bytes(tmp_path, 1 << 20)


def test_text_is_utf8_or_refused(tmp_path):
    (tmp_path / "a").write_text("ü\n", encoding="utf-8")
    assert files.read_text(tmp_path / "a") == "ü\n"
    (tmp_path / "b").write_bytes(b"\xff")
    with pytest.raises(files.InputError, match="b: not UTF-8 text"):
        files.read_text(tmp_path / "b")
    with pytest.raises(files.InputError, match="c: no such file"):
        files.read_text(tmp_path / "c")


def test_a_digest_is_that_of_bytes_of_text_or_of_json():
    expected = hashlib.sha256(b"[1, null]").hexdigest()
    values = (b"[1, null]", memoryview(b"[1, null]"), "[1, null]", [1, None])
    for value in values:
        assert files.digest(value) == expected
        assert files.digest(value, 16) == expected[:16]
