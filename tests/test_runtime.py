import pathlib
import subprocess
import sys

import pytest

from delf_jax import runtime

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
