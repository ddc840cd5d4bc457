import errno
import io
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

import delf_jax
from delf_jax import cli
from delf_jax.files import InputError
from delf_jax.progress import print_results

ROOT = pathlib.Path(__file__).parent.parent


def run(monkeypatch, *arguments, behaviour=lambda options: 0):
    """The exit status, and the options that the command was given."""
    seen = []

    def command(options):
        seen.append(options)
        return behaviour(options)

    name = arguments[0]
    monkeypatch.setitem(cli.COMMANDS, name, cli.COMMANDS[name]._replace(run=command))
    status = cli.main(arguments)
    return status, seen[0]


def failing(error):
    def behaviour(options):
        raise error

    return behaviour


def test_alarms_of_xla_are_silent_unless_the_user_wants_them(monkeypatch):
    program = "import os, delf_jax.cli; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    for chosen, expected in (({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0")):
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | chosen,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(cli, "_PROGRAM", "python -m delf_jax")
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 32
    example = lines[lines.index("example:") + 1]
    assert f" {command} " in example
    assert max(map(len, lines)) <= 80


def test_the_list_of_commands_fits_a_screen(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= 40
    assert all(command in out for command in cli.COMMANDS)


@pytest.mark.parametrize("arguments", [["main.py"], ["-m", "delf_jax"]])
def test_help_does_not_wait_for_jax(arguments):
    program = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments, "search", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert f"python {' '.join(arguments)} search" in program.stdout
    imported = {line.split("|")[-1].strip() for line in program.stderr.splitlines()}
    assert "delf_jax.cli" in imported
    assert not imported & {"jax", "numpy", "matplotlib", "absl"}


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"delf_jax {delf_jax.__version__}\n"


@pytest.mark.parametrize("before", [True, False])
def test_every_command_can_be_quiet(monkeypatch, capsys, before):
    def behaviour(options):
        print("a remark")
        print_results("a result")
        return 0

    for name, command in cli.COMMANDS.items():
        words = command.example.splitlines()[0].split()
        words = ["-q", *words] if before else [*words, "--quiet"]
        monkeypatch.setitem(cli.COMMANDS, name, command._replace(run=behaviour))
        assert cli.main(words) == 0
        assert capsys.readouterr() == ("a result\n", ""), name


def complete(*words):
    """What bash completes a line to, by the script that is printed."""
    program = shlex.join([sys.executable, "main.py", "--print-completion=bash"])
    line = shlex.join(["delf_jax", *words])
    script = (
        f'eval "$({program})"; COMP_WORDS=({line}); COMP_CWORD={len(words)}; '
        '_shtab_delf_jax; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_choices_and_files():
    assert complete("") == [*cli.COMMANDS]
    assert complete("fit", "") == ["codebook", "pca", "whitening", "reranker", "pairs"]
    assert complete("search", "--js") == ["--json"]
    assert complete("gldv2", "score", "--s") == ["--solution"]
    assert complete("search", "--precision", "b") == ["bfloat16"]
    assert complete("match", "READ") == ["README.md"]
    assert complete("search", "q.jpg", "--index", "conf") == ["configs"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["match", "a", "b", "--out="], "--out"),
        (["match", "a", "b", "--json="], "--json"),
        (["match", "a", ""], "IMAGE"),
        (["extract", "p", "--out", ""], "--out"),
        (["index", "--index=i", "--add", "a", ""], "--add"),
        (["search", "q", "--index="], "--index"),
        (["train", "--config=c", "--workdir="], "--workdir"),
        (["prepare", "--dataset=p", "--data="], "--data"),
        (["fit", "pca", "", "--out=o", "--dimension=2"], "STORE"),
        (["gldv2", "score", "retrieval", "a.csv", "--solution="], "--solution"),
    ],
)
def test_an_empty_value_is_refused(command, name, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(command)
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {name}: expected a value" in line


@pytest.mark.parametrize(
    ("photos", "named"),
    [("ab", "a.jpg, b.jpg"), ("abcd", "a.jpg, b.jpg, 2 more")],
)
def test_who_sits_at_a_terminal_sees_a_start_at_once(photos, named, monkeypatch):
    """Before anything is read: these photos are not there."""
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", said)
    names = [f"{letter}.jpg" for letter in photos]
    assert cli.main(["index", *names, "--index=nowhere"]) == 2
    lines = said.getvalue().splitlines()
    assert lines[0] == f"index {named}: loading the model"
    assert lines[-1].startswith("error: ") and len(lines) == 2


def test_examples_are_valid_commands(monkeypatch):
    for name, command in cli.COMMANDS.items():
        for example in command.example.splitlines():
            assert run(monkeypatch, *example.split())[0] == 0, (name, example)


def test_options_take_their_value_after_an_equals_sign(monkeypatch):
    arguments = ("search", "q.jpg", "--index=i", "--top=3", "--no_rerank", "--html=h")
    _, options = run(monkeypatch, *arguments)
    assert (options.paths, options.index, options.top) == (["q.jpg"], "i", 3)
    assert (options.no_rerank, options.html, options.json) == (True, "h", None)


def test_several_images_are_added_or_removed_at_once(monkeypatch):
    _, options = run(monkeypatch, "index", "--index=i", "--remove", "a/1.jpg", "b.jpg")
    assert options.remove == ["a/1.jpg", "b.jpg"]
    _, options = run(monkeypatch, "index", "--add", "x", "y", "--index=i")
    assert (options.add, options.index) == (["x", "y"], "i")


def test_train_passes_fields_of_the_config_on(monkeypatch):
    fields = ["--config.seed=3", "--config.model.depth=18"]
    _, options = run(monkeypatch, "train", "--config=c", "--workdir=w", *fields)
    assert options.rest == fields


@pytest.mark.parametrize(
    "command", ["match a b", "extract p --out=o", "index --index=i"]
)
def test_commands_that_extract_pass_fields_of_the_config_on(monkeypatch, command):
    field = "--config.extraction.max_features=5"
    _, options = run(monkeypatch, *command.split(), "--config=c", field)
    assert (options.config, options.rest) == ("c", [field])


def test_parts_count_from_zero(monkeypatch):
    _, options = run(monkeypatch, "extract", "p", "--out=o", "--part=3/4")
    assert options.part == (3, 4)


@pytest.mark.parametrize("part", ["4/4", "-1/4", "1", "a/b", "1/0", "1/2/3"])
def test_a_part_that_is_none_is_refused(part, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["extract", "p", "--out=o", f"--part={part}"])
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["find"],
        ["match", "a.jpg"],
        ["search", "a.jpg"],
        ["search", "a.jpg", "--index=i", "--tops=3"],
        ["search", "a.jpg", "--index=i", "--top=many"],
        ["extract", "p", "--ou=o"],
        ["demo", "--config.extraction.max_features=5"],
        ["train", "--config=c", "--workdir=w", "--seed=3"],
    ],
)
def test_a_wrong_command_line_is_explained(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("a.jpg: broken"), 2, "a.jpg: broken"),
        (OSError(errno.ENOSPC, "", "out.png"), 1, "out.png: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "x: Permission"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("8 GiB"), 1, "the memory does not suffice (8 GiB)"),
        (RuntimeError("can't start new thread"), 1, "the system starts no more thre"),
        (UnicodeEncodeError("ascii", "ü.jpg", 0, 1, ""), 1, "ü.jpg: cannot be named"),
        (InputError("a\nb\x1b[2J\udce9: bad"), 2, r"a\nb\x1b[2J\xe9: bad"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_status(
    monkeypatch, capsys, error, status, words
):
    arguments = ("search", "q", "--index=i")
    found, _ = run(monkeypatch, *arguments, behaviour=failing(error))
    assert found == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words}")


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    for error in (ZeroDivisionError, RuntimeError):
        with pytest.raises(error):
            run(monkeypatch, "demo", behaviour=failing(error))


def test_what_is_printed_cannot_steer_the_terminal(monkeypatch, capsys):
    def behaviour(options):
        print("\x1b[2J\x9b1m\u202egpj.ü\udce9\ttab")
        print("\x07", file=sys.stderr)
        return 0

    run(monkeypatch, "demo", behaviour=behaviour)
    out, err = capsys.readouterr()
    assert out == "\\x1b[2J\\x9b1m\\u202egpj.ü\\xe9\ttab\n"
    assert err == "\\x07\n"


def test_a_terminal_without_a_letter_gets_its_escape(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    run(monkeypatch, "demo", behaviour=lambda options: print("ü") or 0)
    assert terminal.buffer.getvalue() == b"\\xfc\n"


def test_sigterm_is_an_interrupt(monkeypatch, capsys):
    """What catches an interrupt to keep what is finished does so for SIGTERM, too."""

    def terminated(options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    before = signal.getsignal(signal.SIGTERM)
    command = cli.COMMANDS["demo"]._replace(run=terminated)
    monkeypatch.setitem(cli.COMMANDS, "demo", command)
    assert cli.main(["demo"]) == 130
    assert "what was finished is kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


# Prints much, reports progress, then writes a file.
MUCH = """
import sys
from delf_jax import cli, files, progress
def run(options):
    for _ in range(100_000): print("a line of a long table")
    with progress.track("work", 1) as advance: advance()
    files.write_json(sys.argv[1], 1)
    return 0
cli.COMMANDS["demo"] = cli.COMMANDS["demo"]._replace(run=run)
sys.exit(cli.main(["demo"]))
"""


def test_a_reader_that_has_seen_enough_is_no_error_and_ends_no_work(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", MUCH, tmp_path / "a.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    writer.stdout.readline()
    writer.stdout.close()
    assert re.fullmatch(rb"work: 1 of 1 image in .*\n", writer.stderr.read())
    writer.stderr.close()
    assert writer.wait() == 0
    assert (tmp_path / "a.json").read_text() == "1\n"


FULL = pathlib.Path("/dev/full")


@pytest.mark.skipif(not FULL.is_char_device(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("streams", "status", "seen"),
    [
        (">&-", 0, b"work: 1 of 1 image in"),
        ("2>&- >/dev/null", 0, b""),
        ("<&- >&- 2>&-", 0, b""),
        ("2>/dev/full >/dev/null", 0, b""),
        (">/dev/full", 1, b"error: standard output: no space left on the disk; "),
    ],
)
def test_streams_that_cannot_be_written_end_no_work(tmp_path, streams, status, seen):
    path = tmp_path / "a.json"
    command = shlex.join([sys.executable, "-c", MUCH, str(path)])
    done = subprocess.run(
        ["bash", "-c", f"{command} {streams}"],
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == status
    assert done.stdout == b"" and seen in done.stderr
    assert b"Traceback" not in done.stderr and b"ignored" not in done.stderr
    assert path.read_text() == "1\n"


def test_every_command_is_behind_its_name():
    for name, command in cli.COMMANDS.items():
        assert command.run.__name__ == f"run_{name}"
        assert command.add_options.__name__ == f"add_{name}_options"


def test_hosts_that_train_together_are_named_or_found(monkeypatch, capsys):
    train = ["train", "--config=a.py", "--workdir=b"]
    seen = [
        run(monkeypatch, *train, *given)[1].multihost
        for given in ([], ["--multihost"], ["--multihost=10.0.0.1:80,1/2"])
    ]
    assert seen == [None, ("", None), ("10.0.0.1:80", (1, 2))]
    for wrong in ("nowhere", "10.0.0.1,0/2", "10.0.0.1:80,2/2"):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*train, f"--multihost={wrong}"])
        assert "--multihost: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "address", "paths"),
    [
        (["--ray", "photos"], "", ["photos"]),
        (["photos", "more", "--ray=head:6379"], "head:6379", ["photos", "more"]),
        (["photos"], None, ["photos"]),
    ],
)
def test_ray_takes_no_path_for_an_address(arguments, address, paths, monkeypatch):
    seen = []
    command = cli.COMMANDS["extract"]._replace(run=lambda o: seen.append(o) or 0)
    monkeypatch.setitem(cli.COMMANDS, "extract", command)
    assert cli.main(["extract", *arguments, "--out=out"]) == 0
    assert (seen[0].ray, seen[0].paths) == (address, paths)


@pytest.mark.parametrize("command", ["extract photos --out=o", "prepare --data=o"])
def test_work_is_not_dealt_out_twice(command, capsys, tmp_path):
    more = ["--dataset=photos"] if "prepare" in command else []
    assert cli.main([*command.split(), *more, "--part=0/2", "--ray"]) == 2
    assert "--part, --ray: use one of them" in capsys.readouterr().err
