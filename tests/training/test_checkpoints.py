"""Training states on disk."""

import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from delf_jax import files
from delf_jax.extraction import model_folder
from delf_jax.files import InputError
from delf_jax.training import checkpoints
from delf_jax.training.step import create_state
from tests.helpers.tiny_training import by_name, make_config, plain_static


def make_state(value=0.0, shape=(2, 3)):
    kernel = np.full(shape, value, np.float32)
    return {"step": np.int32(value), "params": {"kernel": kernel}, "ema": {"a": kernel}}


def save(manager, step, metrics=None):
    run = {"position": {"next": step}, "config": {"seed": 1}}
    checkpoints.save(manager, step, make_state(step), run, metrics)


@pytest.fixture
def saved(tmp_path):
    """A folder with the states 1, 2 and 3, of which two are kept."""
    with checkpoints.open_checkpoints(tmp_path, keep=2) as manager:
        for step in (1, 2, 3):
            save(manager, step)
    return tmp_path


def test_the_newest_state_comes_back_with_what_describes_the_run(saved):
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        assert manager.all_steps() == [2, 3]
        state = checkpoints.restore(manager, make_state())
        run = checkpoints.read_run(manager, 3)
    np.testing.assert_array_equal(state["params"]["kernel"], 3)
    assert state["step"] == 3
    assert run == {"position": {"next": 3}, "config": {"seed": 1}}


def test_the_best_state_is_kept_beside_the_newest(tmp_path):
    """Also by a resumed run, and beside states that were not measured."""
    values = {1: 0.2, 2: 0.9, 3: None, 4: 0.9, 5: 0.1, 6: None}
    for part in ((1, 2, 3), (4, 5, 6)):
        opened = checkpoints.open_checkpoints(tmp_path, keep=2, best="mAP")
        with opened as manager:
            for step in part:
                value = values[step]
                save(manager, step, None if value is None else {"mAP": value})
            manager.wait_until_finished()
            assert manager.best_step() == max(part[0], 2 if part[0] == 1 else 4)
    assert sorted(manager.all_steps()) == [4, 5, 6]


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_leaves_the_last_good_state_and_names_it(saved, monkeypatch, when):
    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")

    message = f"no space left .*; the last good checkpoint is {saved}/3$"
    with pytest.raises(InputError, match=message):
        with checkpoints.open_checkpoints(saved, keep=2) as manager:
            with checkpoints.naming_last_good(manager):
                if when == "before":
                    usage = shutil._ntuple_diskusage(100, 99, 1)
                    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
                else:
                    monkeypatch.setattr(manager, "save", fail)
                save(manager, 4)
    state = checkpoints.read_state(saved)
    assert state["step"] == 3


def test_a_state_of_an_older_version_is_no_place_to_go_on_from(saved):
    shutil.rmtree(saved / "3" / "run")
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        with pytest.raises(InputError, match="3: was saved by an older version"):
            checkpoints.read_run(manager, 3)


def test_other_errors_are_left_as_they_are(saved):
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        with pytest.raises(ZeroDivisionError):
            with checkpoints.naming_last_good(manager):
                raise ZeroDivisionError


def test_what_a_killed_run_was_writing_is_not_a_state(saved):
    (saved / "4.orbax-checkpoint-tmp").mkdir()
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        assert manager.latest_step() == 3


def test_another_architecture_is_refused_in_one_sentence(saved):
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        with pytest.raises(InputError, match="expected params/kernel 5x3, got 2x3"):
            checkpoints.restore(manager, make_state(shape=(5, 3)))


def test_the_state_of_another_training_is_read_without_its_config(saved):
    state = checkpoints.read_state(saved)
    np.testing.assert_array_equal(state["ema"]["a"], np.full((2, 3), 3, np.float32))


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(InputError, match="no checkpoint found"):
        checkpoints.read_state(tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        checkpoints.read_state("nowhere")


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path / "images", tmp_path / "prepared")


@pytest.fixture
def state(config):
    start = jax.jit(lambda key: create_state(plain_static(config), key, view_size=64))
    return start(jax.random.key(0))


def test_the_model_is_the_average_and_says_where_it_comes_from(config, state, tmp_path):
    averages = jax.tree.map(lambda x: x + 1, state.ema)
    state = state.replace(ema=averages, step=state.step + 3)
    checkpoints.write_model(config, state, None, tmp_path, None)
    model = model_folder.load_model(tmp_path / "model")
    provenance = model.config["provenance"]
    assert provenance["steps"] == 3
    assert provenance["config"]["seed"] == config.seed
    assert provenance["revision"] == checkpoints.revision()
    stored = load_file(tmp_path / "model" / "model.safetensors")
    name = "params/local/attention/conv1/bias"
    np.testing.assert_allclose(stored[name], by_name(averages)[name], rtol=1e-6)


def test_a_checkpoint_that_was_best_is_taken_and_whitened(
    config, state, tmp_path, monkeypatch
):
    best = jax.tree.map(np.asarray, state.ema)
    read = []
    monkeypatch.setattr(
        checkpoints, "read_state", lambda *places: read.append(places) or {"ema": best}
    )

    def whiten(averages, folder):
        assert averages.keys() == best.keys() and folder == tmp_path / "model"
        return {"path": "whitening.npz"}

    checkpoints.write_model(config, state, 2, tmp_path, whiten)
    assert read == [(tmp_path / "checkpoints", 2)]
    written = files.read_json(tmp_path / "model" / "config.json")
    assert written["provenance"]["steps"] == 2
    assert written["extraction"]["global_pca"] == {"path": "whitening.npz"}


def test_the_revision_is_that_of_git_or_empty():
    assert re.fullmatch("[0-9a-f]{40}|", checkpoints.revision())
