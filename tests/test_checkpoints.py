"""Training states on disk."""

import grain
import numpy as np
import pytest

from delf_jax import checkpoints
from delf_jax.files import InputError


def stream():
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(grain.MapDataset.range(100).to_iter_dataset(options))


def make_state(value=0.0, shape=(2, 3)):
    kernel = np.full(shape, value, np.float32)
    return {"step": np.int32(value), "params": {"kernel": kernel}, "ema": {"a": kernel}}


@pytest.fixture
def saved(tmp_path):
    """A folder with the states 1, 2 and 3, of which two are kept."""
    iterator = stream()
    with checkpoints.open_checkpoints(tmp_path, keep=2) as manager:
        for step in (1, 2, 3):
            next(iterator)
            checkpoints.save(manager, step, make_state(step), iterator)
    return tmp_path


def test_the_newest_state_comes_back_with_the_data_at_its_place(saved):
    iterator = stream()
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        assert manager.all_steps() == [2, 3]
        state = checkpoints.restore(manager, make_state(), iterator)
    np.testing.assert_array_equal(state["params"]["kernel"], 3)
    assert state["step"] == 3
    assert next(iterator) == 3


def test_what_a_killed_run_was_writing_is_not_a_state(saved):
    (saved / "4.orbax-checkpoint-tmp").mkdir()
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        assert manager.latest_step() == 3


def test_another_architecture_is_refused_in_one_sentence(saved):
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        with pytest.raises(InputError, match="params/kernel is 2x3 there and 5x3"):
            checkpoints.restore(manager, make_state(shape=(5, 3)), stream())


def test_the_state_of_another_training_is_read_without_its_config(saved):
    state = checkpoints.read_state(saved)
    np.testing.assert_array_equal(state["ema"]["a"], np.full((2, 3), 3, np.float32))


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoints.read_state(tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        checkpoints.read_state("nowhere")
