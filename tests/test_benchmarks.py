"""What benchmarks share with other frameworks: a process for each."""

import importlib
import os
import pathlib
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
