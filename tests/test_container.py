"""The Dockerfile, without docker: its steps run in an empty environment."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request

import pytest

from delf_jax import cli

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [tuple(line.split(maxsplit=1)) for line in lines]


def given(name: str) -> list[str]:
    """What stands after each instruction of a name."""
    return [rest for each, rest in instructions() if each == name]


def copied() -> list[str]:
    """The files and folders of ours that the image is built from."""
    each = [c.split()[:-1] for c in given("COPY") if not c.startswith("--from")]
    return [name for names in each for name in names]


def test_docker_starts_a_command_of_ours_that_parses():
    (entry,), command = (json.loads(given(n)[0]) for n in ("ENTRYPOINT", "CMD"))
    assert entry in PROJECT["scripts"]
    options = cli._parser().parse_args(command)
    assert options.command == "serve" and given("EXPOSE") == [str(options.port)]


def test_the_image_is_built_from_what_is_there_and_nothing_else_is_sent():
    assert all((ROOT / name).exists() for name in copied())
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == {*copied()}


def test_python_and_the_extras_are_those_of_the_project():
    version = {re.match(r"python:3\.(\d+)-slim", base)[1] for base in given("FROM")}
    assert version == {"12"} and "constraints-py312.txt" in copied()
    (argument,) = given("ARG")
    extras = argument.partition("=")[2].split(",")
    assert {*extras} <= PROJECT["optional-dependencies"].keys()
    page = (ROOT / "docs" / "container.md").read_text("utf-8")
    for more in re.findall(r"EXTRAS=(\S+)", page):
        assert {*extras} < {*more.split(",")} <= {*PROJECT["optional-dependencies"]}


def test_the_image_does_not_run_as_root():
    assert [user.split(":")[0] for user in given("USER")] == ["1000"]


def test_commands_of_the_page_parse():
    page = (ROOT / "docs" / "container.md").read_text("utf-8").replace("\\\n", "")
    commands = re.findall(r"^docker run .* delf_jax (\w.*)$", page, re.MULTILINE)
    assert commands
    for command in commands:
        cli._parser().parse_args(shlex.split(command))


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> pathlib.Path:
    """The root of a file system in which the Dockerfile's first stage has run.

    Of the dependencies nothing is downloaded: those of this environment are borrowed.
    """
    root = tmp_path_factory.mktemp("image")
    source, installed = root / "source", root / "opt" / "delf_jax"
    source.mkdir()
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    environment = {
        **os.environ,
        **dict(argument.split("=") for argument in given("ARG")),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_NO_DEPS": "1",
    }
    for step in given("RUN"):
        step = re.sub(r" /(opt|cache)\b", rf" {root}/\1", f" {step}")
        done = subprocess.run(
            step,
            shell=True,
            cwd=source,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = installed.glob("lib/python*/site-packages")
    borrowed = sysconfig.get_path("purelib")
    (packages / "borrowed.pth").write_text(borrowed + "\n", "utf-8")
    shutil.rmtree(source)  # The second stage is without.
    return root


def start(image: pathlib.Path, data: pathlib.Path, *command: str, **variables: str):
    """A process in the mounted folder, with the environment that the image has."""
    (settings,) = given("ENV")
    ours = dict(each.split("=") for each in settings.split())
    paths = {name: re.sub(r"^/", f"{image}/", each) for name, each in ours.items()}
    environment = {
        **paths,
        "PATH": paths["PATH"].replace("$PATH", os.environ["PATH"]),
        "JAX_PLATFORMS": "cpu",
        **variables,
    }
    (entry,) = json.loads(given("ENTRYPOINT")[0])
    return subprocess.Popen(
        [shutil.which(entry, path=environment["PATH"]), *command],
        cwd=data,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_image_indexes_the_mounted_folder_and_serves_it(
    image, tmp_path, tiny_model
):
    from tests.helpers.tiny_training import draw_images

    for name in ("fastapi", "uvicorn", "multipart", "prometheus_client"):
        pytest.importorskip(name)
    draw_images(tmp_path / "photos")
    model = f"--model={tiny_model}"
    index = start(image, tmp_path, "index", "photos", "--index=index", model)
    out, err = index.communicate(timeout=600)
    assert index.returncode == 0, out + err
    assert any((image / "cache").rglob("*")), "nothing compiled is kept"

    command = [*json.loads(given("CMD")[0]), model, "--port=0"]
    refused = start(image, tmp_path, *command)
    assert "DELF_JAX_TOKEN" in refused.communicate(timeout=600)[1]
    assert refused.returncode == 2

    served = start(image, tmp_path, *command, DELF_JAX_TOKEN="secret")
    with contextlib.closing(served.stdout):
        address = re.search(r"http://0\.0\.0\.0:(\d+)/", _line(served, "http://"))
        home = f"http://127.0.0.1:{address[1]}"
        with urllib.request.urlopen(f"{home}/healthz", timeout=60) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{home}/metrics", timeout=60)
        served.send_signal(signal.SIGTERM)  # as `docker stop` does.
        assert served.wait(timeout=60) in (0, 130), served.stderr.read()
    served.stderr.close()


def _line(process: subprocess.Popen, text: str) -> str:
    """The first line that the process prints with this in it."""
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(process.stderr.read())
