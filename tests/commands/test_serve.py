import argparse
import importlib.util
import os
import socket

import pytest

from delf_jax.files import InputError
from tests.serve.conftest import MISSING


@pytest.fixture
def refused(run, index, capsys):
    """The sentence by which `serve` refuses options."""
    pytest.importorskip("fastapi", reason=MISSING)

    def refused(*options):
        with pytest.MonkeyPatch.context() as patch:
            # Should it not refuse, it must not serve for ever.
            patch.setattr("delf_jax.serve.server.run", lambda *_: None)
            from delf_jax import cli

            status = cli.main(["serve", index, "--port=0", *options])
        assert status == 2
        return capsys.readouterr().err

    return refused


def test_another_address_than_loopback_wants_a_token(refused):
    assert "--token" in refused("--host=0.0.0.0")
    assert "DELF_JAX_TOKEN" in refused("--host=::")


def test_a_token_of_the_environment_is_asked_for(run, index, monkeypatch):
    pytest.importorskip("fastapi", reason=MISSING)
    served = []
    monkeypatch.setattr("delf_jax.serve.server.make_app", lambda _, **given: given)
    monkeypatch.setattr("delf_jax.serve.server.run", lambda app, _: served.append(app))
    monkeypatch.setenv("DELF_JAX_TOKEN", "secret")
    for more in ((), ("--token=typed",)):
        status, _ = run("serve", index, "--host=0.0.0.0", "--port=0", *more)
        assert status == 0
    assert [app["token"] for app in served] == ["secret", "typed"]


def test_numbers_that_make_no_sense_are_refused(refused):
    assert "--queue" in refused("--queue=0")
    assert "--rate" in refused("--rate=-1")


def test_an_index_of_another_model_is_refused(refused):
    assert "indexed by model" in refused()  # The bundled model is not the tiny one.


def test_a_port_that_is_taken_is_named(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(f"--port={port}")
    assert "cannot listen" in refused("--port=99999")


def test_the_command_says_where_it_serves(run, index, monkeypatch):
    pytest.importorskip("fastapi", reason=MISSING)
    served = []
    monkeypatch.setattr("delf_jax.serve.server.run", lambda *each: served.append(each))
    status, out = run("serve", index, "--port=0")
    ((_, listening),) = served
    assert status == 0 and listening.fileno() < 0  # It is closed again.
    assert "index (4 photos): http://127.0.0.1:" in out


def test_without_the_extra_the_command_says_what_to_install(run, index, monkeypatch):
    find = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "fastapi" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    from delf_jax.commands import serve

    with pytest.raises(InputError, match=r"pip install 'delf_jax\[serve\]'"):
        serve.run_serve(argparse.Namespace())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_takes_no_photos(refused, photos):
    photos.chmod(0o500)
    try:
        assert "cannot be written to" in refused("--writable")
    finally:
        photos.chmod(0o700)
