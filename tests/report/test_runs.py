"""Trainings of a sweep, read with what each of them changed."""

import json

import pytest

import delf_jax
from delf_jax.files import InputError


def leave_run(folder, **changes):
    """A workdir as `train` leaves it."""
    config = {"seed": 0, "loss": {"margin": 0.1, "scale": 16.0}, "views": {"size": 64}}
    for name, value in changes.items():
        group, _, field = name.rpartition("__")
        (config[group] if group else config)[field] = value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"step": step, "validation/mAP": step / 10} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_runs_say_what_differs_among_them_and_what_they_measured(tmp_path):
    leave_run(tmp_path / "margin=0.3", loss__margin=0.3)
    leave_run(tmp_path / "margin=0.1,seed=1", seed=1)
    leave_run(tmp_path / "only_here", views__colour=0.5)
    (tmp_path / "not_begun").mkdir()
    (tmp_path / "table.md").write_text("| a |")
    first, second, third = delf_jax.read_runs(tmp_path)
    assert first.name == "margin=0.1,seed=1"
    assert first.fields == {"seed": 1, "loss.margin": 0.1}
    assert second.fields == {"seed": 0, "loss.margin": 0.3}
    assert third.fields == {"seed": 0, "loss.margin": 0.1, "views.colour": 0.5}
    assert first.curves == {"validation/mAP": ([1, 2], [0.1, 0.2])}


def test_a_folder_without_trainings_or_a_config_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match="no trainings; name the --workdir of a sweep"):
        delf_jax.read_runs(tmp_path / "nowhere")
    leave_run(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="config.json: not the config of a training"):
        delf_jax.read_runs(tmp_path)
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(InputError, match="config.json"):
        delf_jax.read_runs(tmp_path)
