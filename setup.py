"""What pyproject.toml cannot say: configs/ is delf_jax.configs in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["delf_jax*"]), "delf_jax.configs"],
    package_dir={"delf_jax.configs": "configs"},
)
