"""Packages that not everyone needs: which extra brings them, and where it is named."""

import importlib.util

from delf_jax.files import InputError

# What pip installs for `delf_jax[EXTRA]`, by the names of imports.
PACKAGES = {
    "serve": ("fastapi", "uvicorn", "multipart", "prometheus_client"),
    "train": (
        *("array_record", "clu", "cv2", "grain", "orbax"),
        *("tensorboardX", "tensorflow_datasets"),
    ),
}


def require(extra: str, what: str) -> None:
    """InputError if a package of an extra, which `what` needs, is not installed."""
    if any(importlib.util.find_spec(name) is None for name in PACKAGES[extra]):
        raise InputError(f"{what} needs more packages: pip install 'delf_jax[{extra}]'")
