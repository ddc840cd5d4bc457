"""The wheel is enough: installed into an empty environment, run from elsewhere."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.helpers.tiny_training import draw_images

ROOT = pathlib.Path(__file__).parent.parent


def _run(*command: str | os.PathLike, cwd: pathlib.Path) -> str:
    """What a command prints; its errors are the test's."""
    # Neither this process' flags nor a path set for it may help the installed package.
    skipped = ("PYTHON", "JAX_", "XLA_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(skipped)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[pathlib.Path, list[str]]:
    """The Python of a fresh environment, and what the wheel put into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools leaves build/ and *.egg-info in its source folder.
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "delf_jax", source / "delf_jax", ignore=ignored)
    shutil.copytree(ROOT / "configs", source / "configs", ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("models", "losses", "retrieval"):  # No packages, though importable.
        (source / name).symlink_to(f"delf_jax/{name}")
    pip = (sys.executable, "-m", "pip")
    build = ("wheel", "--quiet", "--no-deps", "--wheel-dir", folder)
    _run(*pip, *build, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")

    environment = folder / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = pathlib.Path(_run(python, "-c", code, cwd=folder).strip())
    install = ("--python", python, "install", "--quiet", "--no-deps", "--no-index")
    _run(*pip, *install, wheel, cwd=folder)
    names = sorted(path.name for path in packages.iterdir())
    # The dependencies are borrowed from the environment that runs the tests. Its .pth
    # files, an editable install of this project among them, are not read from here.
    borrowed = sysconfig.get_path("purelib")
    (packages / "borrowed.pth").write_text(borrowed + "\n", "utf-8")
    return python, names


@pytest.mark.slow
def test_only_our_own_name_lands_in_site_packages(installed):
    _, names = installed
    assert {name for name in names if not name.startswith("delf_jax")} == set()
    assert "delf_jax" in names


@pytest.mark.slow
def test_the_installed_package_runs_from_another_directory(installed, tmp_path):
    python, _ = installed
    code = "import delf_jax; print(delf_jax.__file__)"
    assert str(python.parent.parent) in _run(python, "-c", code, cwd=tmp_path)
    assert "match" in _run(python, "-m", "delf_jax", "--help", cwd=tmp_path)
    assert "match" in _run(python.parent / "delf_jax", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_carries_the_bundled_model(installed, tmp_path):
    python, _ = installed
    code = (
        "from delf_jax.extraction import model_folder as m; print(m.load_model().name)"
    )
    assert _run(python, "-c", code, cwd=tmp_path).strip() == "delg_tiny"


@pytest.mark.slow
def test_the_wheel_carries_the_photos_of_the_demo(installed, tmp_path):
    python, _ = installed
    code = "from delf_jax import demo; print(len([*demo.VILLAGE.glob('*/*/*.jpg')]))"
    assert _run(python, "-c", code, cwd=tmp_path).strip() == "84"


@pytest.mark.slow
def test_the_wheel_carries_the_configs(installed, tmp_path):
    python, _ = installed
    images = draw_images(tmp_path / "images")
    train = ("train", "--config=configs/tiny.py", "--workdir=run")
    fields = (f"--config.data.sources.images.path={images}", "--config.steps=1")
    _run(python, "-m", "delf_jax", *train, *fields, cwd=tmp_path)
    assert (tmp_path / "run" / "model" / "config.json").exists()

    # A copy in a folder of the user's still finds its neighbours.
    shutil.copy(ROOT / "configs" / "tiny.py", tmp_path / "mine.py")
    code = "from delf_jax.config import read_config as r; print(r('mine.py').steps)"
    assert _run(python, "-c", code, cwd=tmp_path).strip() == "6"
