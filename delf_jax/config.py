"""Configs as files: read by path, with single fields replaced on the command line."""

import contextlib
import json
import numbers
import os
import pathlib
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from delf_jax.files import InputError

# The folder of our own configs/: the package in a wheel, the one above in a clone.
_HERE = pathlib.Path(__file__).parent
_OURS = _HERE if (_HERE / "configs").is_dir() else _HERE.parent


def read_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file, with overrides such as `--config.seed=3`, locked.

    InputError if the file cannot be run, a field does not exist, or a value is of
    another type than the one it replaces.
    """
    config = run_config(path)
    override_fields(config, overrides)
    return config.lock()


def override_fields(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Replaces fields of a config by overrides such as `--config.seed=3`."""
    for override in overrides:
        if not override.startswith("--config.") or "=" not in override:
            raise InputError(f"{override}: write --config.FIELD=VALUE (see --help)")
        _override(config, override)


def run_config(path: str | os.PathLike) -> ConfigDict:
    """The result of `get_config()` of a file.

    Where there is no configs/NAME.py, the one that comes with the package is meant.
    """
    with _running(path) as names:
        config = names["get_config"]()
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config() must return a ConfigDict")
    return config


def read_sweep(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The fields of each trial that `sweep(add)` of the file adds, in its order.

    InputError if the file has no `sweep`, or if that adds nothing.
    """
    trials: list[dict[str, Any]] = []
    with _running(path) as names:
        if "sweep" not in names:
            raise InputError(f"{path}: has no sweep(add); `train` runs a single config")
        names["sweep"](lambda **fields: trials.append(fields))
    if not trials:
        raise InputError(f"{path}: sweep(add) adds no trial")
    return trials


@contextlib.contextmanager
def _running(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The names of a config file that was run; InputError for whatever goes wrong."""
    found = pathlib.Path(path)
    if not found.is_file() and found.parts[:1] == ("configs",):
        found = _OURS / path
    if not found.is_file():
        raise InputError(f"{path}: no such config file")
    before = sys.path.copy()
    # It may import its neighbours and ours, from any working directory.
    sys.path[:] = [str(found.resolve().parent.parent), *before, str(_OURS)]
    try:
        yield runpy.run_path(str(found))
    except InputError:
        raise
    except Exception as error:  # A config is a program: it may fail in any way.
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before


def _override(config: ConfigDict, override: str) -> None:
    """Replaces one field, by the rules of ml_collections' own flags."""
    values = flags.FlagValues()
    arguments = ["train", override]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=arguments
        )
        values(arguments)
    except (AttributeError, KeyError) as error:
        # The repr of a message of two lines: a name, and what it may have meant.
        name, _, hint = str(error).strip("'\" ").replace("\\'", "").partition("\\n")
        hint = f" ({hint})" if hint else ""
        raise InputError(f"{override}: there is no field {name}{hint}") from None
    except (flags.Error, TypeError, ValueError) as error:
        reason = str(error).removeprefix(f"flag {override}: ")
        if reason.startswith("invalid literal for int()"):
            reason = "use a whole number"
        raise InputError(f"{override}: {reason}") from None


def read_ranges(name: str) -> tuple[ConfigDict, dict[str, Any]]:
    """(every field, what each may be) of one of our own configs, such as "common"."""
    with _running(_OURS / "configs" / f"{name}.py") as names:
        return names["get_config"](), names["RANGES"]


def check_field(name: str, value: Any, allowed: Any) -> None:
    """InputError, naming the field, unless its value is as configs/common.py says.

    Args:
      allowed: a range, an interval such as "[0, 1)", choices, a list or a type, as
        explained there.
    """
    if not _fits(value, allowed):
        shown = " ".join(repr(value).split())[:80]
        raise InputError(f"{name} is {shown}: use {_words(allowed)}")


def fields_of(
    config: Mapping[str, Any] | ConfigDict, above: str = ""
) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all fields; a section without any is a value."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and value:
            yield from fields_of(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _fits(value: Any, allowed: Any) -> bool:
    if isinstance(allowed, type):
        return isinstance(value, allowed)
    if isinstance(allowed, tuple):
        return any(
            _fits(value, each)
            if isinstance(each, range)
            else type(each) is type(value) and each == value
            for each in allowed
        )
    if isinstance(allowed, list):
        return isinstance(value, tuple | list) and _all_fit(value, allowed)
    if isinstance(value, bool):
        return False
    if isinstance(allowed, range):
        return isinstance(value, numbers.Integral) and int(value) in allowed
    if not isinstance(value, numbers.Real):
        return False
    number: Any = value  # of numpy, too.
    low, high = map(float, allowed[1:-1].split(", "))
    above = low < number if allowed[0] == "(" else low <= number
    return bool(above and (number < high if allowed[-1] == ")" else number <= high))


def _all_fit(values: Sequence[Any], allowed: Sequence[Any]) -> bool:
    """Whether each value fits; what stands before `...` does for any number of them."""
    kinds = list(allowed)
    if kinds[-1] is ...:
        once = kinds[:-2]
        kinds = once + [kinds[-2]] * max(0, len(values) - len(once))
    return len(values) == len(kinds) and all(map(_fits, values, kinds))


def _words(allowed: Any) -> str:
    """What a field may be."""
    if isinstance(allowed, range):
        step = f" in steps of {allowed.step}" if allowed.step > 1 else ""
        return f"a whole number from {allowed[0]} to {allowed[-1]}{step}"
    if isinstance(allowed, tuple):
        each = (_words(x) if isinstance(x, range) else repr(x) for x in allowed)
        return " or ".join(each)
    if isinstance(allowed, list):
        count = f" {len(allowed)}" if ... not in allowed else " one or more"
        count = "" if allowed[1:] == [...] else count
        return f"a tuple of{count} values, each {_words(allowed[0])}"
    if isinstance(allowed, type):
        return {str: "text", bool: "True or False"}.get(allowed, allowed.__name__)
    return f"a number in {allowed}"


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The fields of a config as plain data."""
    return json.loads(config.to_json_best_effort())
