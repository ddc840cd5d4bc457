"""Sweeps: one training for each trial of a config, and what came out of them.

The trials are those that `sweep(add)` of the config file adds, for instance by
`add(**{"loss.margin": 0.2})`. Each is a process of its own, `train` with these fields
replaced, in a workdir of its own. With --dry_run the commands are printed, one a line,
for whatever runs them elsewhere: SLURM's array jobs, xmanager, or GNU parallel, which
gives each GPU a trial by `| parallel -j8 'CUDA_VISIBLE_DEVICES=$(({%} - 1)) {}'`.
"""

import concurrent.futures
import functools
import json
import operator
import os
import pathlib
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from delf_jax.config import read_sweep
from delf_jax.files import InputError, atomic_write, read_json
from delf_jax.progress import format_count, format_duration, print_results
from delf_jax.report import curves
from delf_jax.training.config import read_training_config
from delf_jax.training.workdir import locked

LOG, TABLE, FIGURE = "log.txt", "table.md", "curves.png"
_STILL_RUNNING = (
    "trials go on when their sweep is killed: wait for its end, or end that process, "
    "and run the same command again"
)


class Trial(NamedTuple):
    """One training of a sweep."""

    name: str
    workdir: pathlib.Path
    command: list[str]
    fields: dict[str, str]
    """what differs from the config, as text"""
    config: str
    """all of it, as JSON"""


def plan(
    config: str | os.PathLike, workdir: str | os.PathLike, overrides: Sequence[str] = ()
) -> list[Trial]:
    """The trials of a sweep, in the order of the config.

    InputError if a trial names a field that does not exist, or two are the same.

    Args:
      workdir: above those of the trials.
      overrides: `--config.FIELD=VALUE`, for all trials; a trial's own replace them.
    """
    if not os.fspath(workdir):
        raise InputError("--workdir is empty: name a folder for the trials")
    trials: dict[str, Trial] = {}
    added = read_sweep(config)
    short = _short_names(added)
    for values in added:
        fields = {name: _as_text(value) for name, value in values.items()}
        named = ",".join(f"{short[name]}={text}" for name, text in fields.items())
        # Nothing that separates folders, or that a shell would take apart.
        kept = (c if c.isalnum() or c in "=,._-+" else "_" for c in named)
        name = "".join(kept) or "trial"
        if name in trials:
            raise InputError(f"{config}: sweep adds the trial {name} twice")
        own = [f"--config.{name}={text}" for name, text in fields.items()]
        folder = pathlib.Path(workdir) / name
        read = read_training_config(config, [*overrides, *own], folder)
        whole = read.to_json_best_effort()
        files = [f"--config={config}", f"--workdir={folder}"]
        command = [*_program(), "train", *files, *overrides, *own]
        trials[name] = Trial(name, folder, command, fields, whole)
    return list(trials.values())


def _short_names(added: Sequence[dict]) -> dict[str, str]:
    """The last parts of the fields' names, where these are unique."""
    names = list(dict.fromkeys(name for values in added for name in values))
    last = [name.split(".")[-1] for name in names]
    return {n: x if last.count(x) == 1 else n for n, x in zip(names, last, strict=True)}


def _as_text(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)


def _program() -> list[str]:
    """How this program was called, for a command that can be pasted."""
    called = sys.argv[0]
    by_file = pathlib.Path(called).name == "main.py"
    return ["python", called] if by_file else ["python", "-m", "delf_jax"]


def commands(trials: Sequence[Trial]) -> Iterator[str]:
    """The commands of the trials that have not finished, one a line."""
    return (shlex.join(trial.command) for trial in trials if not is_finished(trial))


def is_finished(trial: Trial) -> bool:
    """Whether the trial has left a model, trained with the config as it is now."""
    path = trial.workdir / "model" / "config.json"
    if not path.is_file():
        return False
    try:
        trained = read_json(path)["provenance"]["config"]
    except (LookupError, TypeError):  # of a model from elsewhere.
        return False
    return trained == json.loads(trial.config)


def run(trials: Sequence[Trial], workdir: str | os.PathLike, jobs: int = 1) -> int:
    """How many trials have finished, after all of them ran; prints how each ended.

    Finished ones are skipped, interrupted ones resume. One that fails is reported with
    the last line of its log; the others continue. Writes a table and a figure of all.
    Interrupted, it stops the running trials, which keep what they have done.
    InputError if another sweep is running in the workdir.
    """
    with locked(pathlib.Path(workdir), "sweep"):
        return _run_all(trials, workdir, jobs)


def _run_all(trials: Sequence[Trial], workdir: str | os.PathLike, jobs: int) -> int:
    todo = [trial for trial in trials if not is_finished(trial)]
    done = len(trials) - len(todo)
    print(f"{format_count(len(trials), 'trial')}, {done} finished before", flush=True)
    running: set[subprocess.Popen] = set()
    stopped = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(jobs, "trials") as pool:
        try:
            futures = [pool.submit(_run, trial, running, stopped) for trial in todo]
            ended = concurrent.futures.as_completed(futures)
            for number, future in enumerate(ended, 1):
                print(f"{number} of {len(todo)}: {future.result()}", flush=True)
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    summarize(trials, workdir)
    return sum(map(is_finished, trials))


def _run(trial: Trial, running: set[subprocess.Popen], stopped: threading.Event) -> str:
    """Trains one trial to its end; returns how it ended."""
    if stopped.is_set():
        return f"{trial.name}: not started"
    try:
        with locked(trial.workdir, remedy=_STILL_RUNNING):
            pass
    except InputError as error:
        return f"{trial.name}: not started: {error}"
    command = [sys.executable, *trial.command[1:]]
    start = time.monotonic()
    with (trial.workdir / LOG).open("ab") as log:
        # In a session of its own: Ctrl-C reaches it by us, once.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        running.add(process)
        status = process.wait()
        running.discard(process)
    seconds = time.monotonic() - start
    if status:
        text = (trial.workdir / LOG).read_text(encoding="utf-8", errors="replace")
        last = (text.strip().splitlines() or ["no output"])[-1]
        return f"{trial.name}: FAILED: {last} (log: {trial.workdir / LOG})"
    done, values = "finished" if is_finished(trial) else "stopped", results(trial)
    validated = {n: x for n, x in values.items() if n.startswith("validation/")}
    shown = " ".join(f"{n} {x:.4g}" for n, x in (validated or values).items())
    return f"{trial.name}: {done} after {format_duration(seconds)}; {shown}"


def results(trial: Trial) -> dict[str, float]:
    """Last values of loss and accuracies, and the best of each validation."""
    if not (trial.workdir / "metrics.jsonl").is_file():
        return {}
    found = {}
    for name, (_, values) in curves.read_curves(trial.workdir).items():
        if name.startswith("validation/"):
            found[name] = max(values)
        elif name == "loss" or name.endswith("_accuracy"):
            found[name] = values[-1]
    return found


def summarize(trials: Sequence[Trial], workdir: str | os.PathLike) -> None:
    """Prints and writes a table of all trials and draws their curves."""
    folder = pathlib.Path(workdir)
    lines = table(trials)
    print_results(*lines)
    with atomic_write(folder / TABLE, "w") as file:
        file.write("\n".join(lines) + "\n")
    runs = {
        trial.name: curves.read_curves(trial.workdir)
        for trial in trials
        if (trial.workdir / "metrics.jsonl").is_file()
    }
    if any(runs.values()):
        curves.draw_curves(runs, folder / FIGURE)
        print(f"table: {folder / TABLE}, curves: {folder / FIGURE}", flush=True)


def _value(trial: Trial, name: str) -> str:
    """A field as the trial changes it, or as the config has it."""
    value = functools.reduce(
        operator.getitem, name.split("."), json.loads(trial.config)
    )
    return trial.fields.get(name, _as_text(value))


def table(trials: Sequence[Trial]) -> list[str]:
    """A table in Markdown: fields, state, results; the best in bold.

    But for the loss, which a trial's own margin and weights make large or small.
    """
    fields = list(dict.fromkeys(name for trial in trials for name in trial.fields))
    found = [results(trial) for trial in trials]
    names = sorted(
        dict.fromkeys(name for values in found for name in values),
        key=lambda name: (not name.startswith("validation/"), name != "loss"),
    )
    measured = (name for name in names if name != "loss")
    best = {name: max(v[name] for v in found if name in v) for name in measured}
    rows = [[*fields, "state", *names]]
    for trial, values in zip(trials, found, strict=True):
        cells = [_value(trial, name) for name in fields]
        cells.append("finished" if is_finished(trial) else "not finished")
        for name in names:
            text = f"{values[name]:.4g}" if name in values else ""
            bold = text and values[name] == best.get(name) and len(trials) > 1
            cells.append(f"**{text}**" if bold else text)
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in rows]
