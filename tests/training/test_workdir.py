"""What a workdir has beside checkpoints."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from delf_jax.files import InputError
from delf_jax.training import workdir

CLASSES = {"images": ["a", "b", "c"], "more": ["x"]}


def test_a_second_training_in_a_workdir_is_refused_while_the_first_runs(tmp_path):
    with workdir.locked(tmp_path / "run"):
        message = rf"run: another training is running in it \(process {os.getpid()} on"
        with pytest.raises(InputError, match=message):
            with workdir.locked(tmp_path / "run"):
                pass
        with workdir.locked(tmp_path / "other"):
            pass
    with workdir.locked(tmp_path / "run"):
        pass


def test_a_lock_dies_with_its_process(tmp_path):
    program = (
        "import os, pathlib, sys; from delf_jax.training.workdir import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print(); sys.stdout.flush(); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        with pytest.raises(InputError, match=f"process {process.pid} on"):
            with workdir.locked(tmp_path):
                pass
        process.kill()
    with workdir.locked(tmp_path):
        pass


def test_threads_of_a_process_lock_one_another_out_too(tmp_path):
    found = []

    def enter():
        try:
            with workdir.locked(tmp_path, "sweep"):
                found.append("in")
        except InputError as error:
            found.append(str(error))

    with workdir.locked(tmp_path, "sweep"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert "another sweep is running" in found[0]


def test_where_a_filesystem_has_no_locks_that_is_said(tmp_path, monkeypatch, capsys):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(workdir.fcntl, "flock", refuse)
    with workdir.locked(tmp_path):
        assert "its filesystem has no locks" in capsys.readouterr().out
    monkeypatch.setattr(workdir, "fcntl", None)
    with workdir.locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({**CLASSES, "images": ["a", "b", "c", "d"]}, "images class 'd' is new"),
        ({**CLASSES, "images": ["a", "c"]}, "images class 'b' is gone"),
        (
            {**CLASSES, "images": ["a", "bb", "c"]},
            "images class 'b' is gone and class 'bb' is new",
        ),
        ({**CLASSES, "more": ["x", "y", "z"]}, "more class 'y' is new and 1 more"),
        ({"images": ["a", "b", "c"]}, "more class 'x' is gone"),
    ],
)
def test_classes_that_have_changed_are_named(tmp_path, classes, words):
    workdir.write_classes(tmp_path, CLASSES)
    before = workdir.digest_classes(CLASSES)
    message = rf"^run/7: cannot go on, as in data\.sources\.{words}.*--workdir$"
    with pytest.raises(InputError, match=message):
        workdir.check_classes(tmp_path, "run/7", before, classes)
    (tmp_path / workdir.CLASSES).unlink()
    with pytest.raises(InputError, match="its classes have changed"):
        workdir.check_classes(tmp_path, "run/7", before, classes)


def test_the_same_classes_and_those_of_an_older_version_go_on(tmp_path):
    before = workdir.digest_classes(CLASSES)
    workdir.check_classes(tmp_path, "run/7", before, dict(CLASSES))
    workdir.check_classes(tmp_path, "run/7", "", {"images": ["z"]})
