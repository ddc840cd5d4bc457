"""What all tests run under: strict JAX, two CPU devices, and shared fixtures."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
PROVENANCE = {"note": "random"}

# Read by jax when it is first imported, and by the programs that tests start.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "MPLBACKEND": "Agg",
    # Each program runs a few times: to compile it well takes longer than it saves.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # A second run of the suite finds the programs that the first one compiled.
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}

import hypothesis  # noqa: E402  (after the flags)
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# No test asserts a time: the first example of many compiles, on a machine that is busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# Bytes that a process may hold, most of it compiled programs, between two files.
MEMORY = 2 << 30


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Programs are dropped when they are many; the cache on disk has them still."""
    yield
    statm = pathlib.Path("/proc/self/statm")  # Linux alone.
    if statm.exists():
        pages = int(statm.read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > MEMORY:
            import jax

            jax.clear_caches()


def _folder(variable: str, default: str) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; {variable} names another place")
    return folder


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of numbers that the original code computed."""
    return _folder("DELF_JAX_GOLDEN", "golden")


@pytest.fixture(scope="session")
def photos() -> pathlib.Path:
    """The folder of real photographs with ground truth."""
    return _folder("DELF_JAX_PHOTOS", "photos")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of datasets, with one in the shape of Revisited Oxford; see drawn.py."""
    from tests.helpers.drawn import draw_dataset

    return draw_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a very small DELG with random weights."""
    from delf_jax.extraction import model_folder
    from tests.helpers.random_models import random_variables

    architecture = {
        "name": "delg",
        "depth": 18,
        "width": 8,
        "layout": "v1.5",
        "attention_width": 16,
        "reduced_dimension": 16,
        "global_dimension": 32,
    }
    extraction = {
        "image_scales": (0.5, 1.0),
        "global_scales": (1,),
        "max_image_size": 160,
        "max_features": 200,
        "attention_threshold": 0.0,
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model_folder.save_model(
        folder, architecture, random_variables(architecture), extraction, PROVENANCE
    )
    return folder


@pytest.fixture(scope="session")
def model(tiny_model: pathlib.Path) -> Any:
    """The same, loaded."""
    from delf_jax.extraction.model_folder import load_model

    return load_model(tiny_model)


@pytest.fixture(scope="session")
def settings(model: Any) -> Any:
    """Settings of extraction for `model`: fifty features."""
    from delf_jax.extraction.settings import settings_for

    return settings_for(model, max_features=50)


@pytest.fixture(scope="session")
def indexed(
    tmp_path_factory: pytest.TempPathFactory, model: Any, settings: Any
) -> pathlib.Path:
    """A folder of photos/ and their index/; see indexed_photos.py."""
    from tests.helpers.indexed_photos import index_photos

    return index_photos(tmp_path_factory.mktemp("search"), model, settings)


@pytest.fixture
def copied(indexed: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of photos and index, to be changed."""
    from tests.helpers.indexed_photos import copy_photos

    return copy_photos(indexed, tmp_path)


@pytest.fixture(scope="session")
def global_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a very small model without local features, with random weights."""
    from delf_jax.extraction import model_folder
    from tests.helpers.random_models import random_variables

    architecture = {
        "name": "global",
        "depth": 18,
        "width": 8,
        "layout": "v1.5",
        "global_dimension": 32,
    }
    extraction = {
        "image_scales": (0.5, 1.0),
        "global_scales": (0, 1),
        "max_image_size": 160,
        "max_features": 0,
    }
    folder = tmp_path_factory.mktemp("models") / "global"
    model_folder.save_model(
        folder, architecture, random_variables(architecture), extraction, PROVENANCE
    )
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
