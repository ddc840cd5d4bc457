"""Benchmarks of training and of a borrowed accelerator run, in miniature."""

import importlib
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent


def make_step(params, stats, batch, name=""):
    """Stands for a framework."""
    calls = []

    def step():
        calls.append(name)
        return os.getpid(), len(calls), params["a/b"].sum(), batch["label"].tolist()

    return step


@pytest.mark.slow
def test_peers_of_a_training_step_run_in_processes_of_their_own(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    training = importlib.import_module("training")
    state = types.SimpleNamespace(
        params={"model": {"a": {"b": np.ones(3)}}}, batch_stats={}
    )
    batch = {"label": np.arange(2)}
    steps = [training.apart(make_step, state, batch, name=n) for n in ("x", "y")]
    first = [step() for step in steps]
    again = [step() for step in steps]
    pids = {os.getpid(), *(pid for pid, *_ in first)}
    assert len(pids) == 3
    assert [[pid, 2, 3, [0, 1]] for pid, *_ in first] == [list(x) for x in again]


@pytest.mark.slow
def test_an_accelerator_is_measured_part_by_part(tmp_path):
    command = ["bash", "benchmarks/device.sh", "--smoke", "--minutes=30"]
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "device.md").read_text().splitlines()
    assert table[0] == "| what | measured |"
    assert not [row for row in table if "failed" in row], done.stderr
    text = "\n".join(table)
    (cosine,) = [row.split("|")[2] for row in table if "cosine" in row]
    assert float(cosine) > 0.99999
    for what in ("float32, 70 queries", "of a product", "ASMK of"):
        assert what in text
    for part in ("agreement", "extraction", "training", "search", "bundled"):
        assert f"| {part}: seconds in all |" in text


@pytest.mark.slow
def test_a_part_without_time_left_says_so(tmp_path):
    command = ["bash", "benchmarks/device.sh", "--smoke", "--minutes=0"]
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert (
        "| search | **failed**: no time left |"
        in (tmp_path / "device.md").read_text().splitlines()
    )
