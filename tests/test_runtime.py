"""The compilation cache, several hosts, signals to stop."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import pytest

from delf_jax import runtime
from delf_jax.files import InputError
from delf_jax.runtime import stop_signals

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("DELF_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("value", ["off", "", "0", " OFF "])
def test_one_variable_turns_the_cache_off(monkeypatch, value):
    monkeypatch.setenv("DELF_JAX_CACHE", value)
    assert runtime.cache_directory() is None
    assert runtime.enable_compilation_cache() is None


def test_the_variable_may_name_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path / "here"))
    assert runtime.cache_directory().parent == tmp_path / "here"


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_directory().parent == tmp_path / "delf_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path / "home")
    assert runtime.user_cache() == tmp_path / "home" / ".cache"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert runtime.user_cache() == tmp_path / "home" / "Library" / "Caches"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert runtime.user_cache() == tmp_path / "local"


def test_a_folder_that_cannot_be_made_means_no_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path / "file" / "below"))
    assert runtime.enable_compilation_cache() is None


def test_a_folder_that_cannot_be_written_means_no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime.os, "access", lambda path, mode: False)
    assert runtime.enable_compilation_cache() is None


def test_an_account_without_a_home_has_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    assert runtime.cache_directory() is None


def test_jaxs_own_variable_is_respected(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert runtime.enable_compilation_cache() == tmp_path


def test_programs_are_kept_for_the_next_process(monkeypatch, tmp_path):
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path))
    program = (
        "from delf_jax import runtime\n"
        "runtime.enable_compilation_cache()\n"
        "import jax, jax.numpy as jnp\n"
        "f = lambda x: jnp.sort(jnp.linalg.inv(x @ x.T + jnp.eye(9)))\n"
        "print(jax.jit(f)(jnp.ones((9, 9))).shape)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    assert list(tmp_path.glob("xla-*/*"))


def test_a_network_is_announced_before_it_is_compiled_and_not_when_it_is_kept(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path))
    program = (
        "from delf_jax import progress, runtime\n"
        "directory = runtime.enable_compilation_cache()\n"
        "import jax, jax.numpy as jnp\n"
        "def extract_canvases(x):\n"
        "    return jnp.sort(jnp.linalg.inv(x @ x.T + jnp.eye(9)))\n"
        "jax.jit(extract_canvases)(jnp.ones((9, 9)))\n"
        "assert progress._spent_once > 0\n"
        "print(f'compiling (once; kept in {directory})')\n"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    ]
    assert found[0].stderr == found[0].stdout
    assert found[1].stderr == ""


def test_a_host_that_is_alone_waits_for_nobody():
    assert runtime.first_host_first(lambda: (1, 2)) == (1, 2)


def test_what_the_first_host_made_is_not_made_twice(monkeypatch):
    order = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    meet = runtime.multihost_utils
    monkeypatch.setattr(meet, "sync_global_devices", lambda _: order.append("met"))
    for host, expected in ((0, ["made", "met"]), (1, ["met", "made"])):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        assert runtime.first_host_first(lambda: order.append("made") or [1]) == [1]
        assert order == expected
        order.clear()


@pytest.mark.parametrize(
    ("arguments", "passed"), [((), ()), (("10.0.0.1:1", (1, 2)), ("10.0.0.1:1", 2, 1))]
)
def test_hosts_that_cannot_meet_name_the_option(monkeypatch, arguments, passed):
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        raise ValueError("coordinator_address should be defined.\nMore.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(InputError, match="defined; .* or give --multihost=ADDR"):
        runtime.join_processes("--multihost", *arguments)
    with pytest.raises(InputError, match="--distributed: coordinator.*of a TPU$"):
        runtime.join_processes("--distributed")
    assert calls == [passed, ()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_signals() as stopped:
        assert not stopped.is_set()
        os.kill(os.getpid(), number)
        assert stopped.wait(timeout=5)
    assert signal.getsignal(number) is before


def test_another_thread_may_train_without_handlers():
    seen = []

    def run():
        with stop_signals() as stopped:
            seen.append(stopped.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]
