"""Configs as files: read by path, with single fields replaced on the command line."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from delf_jax.files import InputError


def read_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file, with overrides such as `--config.seed=3`, locked.

    InputError if the file cannot be run, a field does not exist, or a value is of
    another type than the one it replaces.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such config file")
    for override in overrides:
        if not override.startswith("--config.") or "=" not in override:
            raise InputError(f"{override}: write --config.FIELD=VALUE (train --help)")
    config = _read(path, ())
    for place, override in enumerate(overrides, 1):
        try:
            config = _read(path, overrides[:place])
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise InputError(f"{override}: {reason}") from None
    return config.lock()


def _read(path: str | os.PathLike, overrides: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    arguments = ["train", f"--config={path}", *overrides]
    flag = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=arguments
    )
    try:
        with _importable(pathlib.Path(path).resolve().parent.parent):
            values(arguments)
            return flag.value
    except Exception as error:  # A config is a program: it may fail in any way.
        raise InputError(f"{path}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    # A KeyError prints the repr of its message, perhaps of another KeyError's.
    text = str(error).replace("\\n", "\n").replace("\\'", "'")
    lines = [line.strip("'\" ") for line in text.splitlines()] or [""]
    if isinstance(error, KeyError | AttributeError):
        hint = f" ({lines[1]})" if len(lines) > 1 else ""
        return f"there is no field {lines[0]}{hint}"
    return lines[0].split(": ", 1)[-1] or type(error).__name__


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """A config may import its neighbours, whatever the working directory is."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
