import hashlib
import os
import subprocess
import sys

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
        (b"\xff", "JSON"),
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
