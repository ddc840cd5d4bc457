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
    # Noise is stored as it is: its bits can be changed without a library noticing.
    noise = np.random.default_rng(0).random((64, 64), np.float32)
    ema = {"a": kernel, "noise": noise}
    return {"step": np.int32(value), "params": {"kernel": kernel}, "ema": ema}


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


@pytest.mark.parametrize(
    ("hours", "kept"), [(1e-9, [1, 2, 3, 4]), (1000.0, [1, 4]), (0.0, [4])]
)
def test_states_that_are_hours_apart_are_kept_for_good(tmp_path, hours, kept):
    """Also by a resumed run: they are told by when they were written."""
    for part in ((1, 2), (3, 4)):
        opened = checkpoints.open_checkpoints(tmp_path, keep=1, every_hours=hours)
        with opened as manager:
            for step in part:
                save(manager, step)
    assert sorted(manager.all_steps()) == kept


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


def test_what_grain_adds_to_a_message_is_no_part_of_the_sentence(saved):
    message = rf"^a\.jpg: broken; the last good checkpoint is {saved}/3$"
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        with pytest.raises(InputError, match=message):
            with checkpoints.naming_last_good(manager):
                raise InputError("a.jpg: broken\nException caught at index 3")


def largest(folder):
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def cut(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:10])


def change_a_bit(folder):
    path = largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def lose_metadata(folder):
    (folder / "state" / "_METADATA").unlink()


def change_the_run(folder):
    path = folder / "run" / "metadata"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))


def break_the_run(folder):
    (folder / "run" / "metadata").write_text("{")


# Threads of a read that failed may speak up at any time.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
DAMAGE = [cut, change_a_bit, lose_metadata, change_the_run, break_the_run]


def whole(manager):
    def read(step):
        run = checkpoints.read_run(manager, step)
        return run, checkpoints.restore(manager, make_state(), step)

    return checkpoints.newest_whole(manager, read, set_aside=True)


@pytest.mark.parametrize("damage", DAMAGE)
def test_of_a_damaged_checkpoint_the_one_before_is_used_and_it_is_kept(
    saved, capsys, damage
):
    damage(saved / "3")
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        run, state = whole(manager)
        assert state["step"] == run["position"]["next"] == 2
        save(manager, 3)
    printed = capsys.readouterr().out
    assert re.search(f"{saved}/3: damaged (.*) and kept as damaged-3-1; ", printed)
    assert f"{saved}/2 is used instead" in printed
    assert (saved / "damaged-3-1" / "state").is_dir()
    with checkpoints.open_checkpoints(saved, keep=2) as manager:
        assert whole(manager)[1]["step"] == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", DAMAGE[:3])
def test_another_training_is_read_from_the_newest_whole_checkpoint(
    saved, capsys, damage
):
    damage(saved / "3")
    assert checkpoints.read_state(saved)["step"] == 2
    assert f"{saved}/3: damaged (" in capsys.readouterr().out
    assert (saved / "3").is_dir()
    with pytest.raises(InputError, match=rf"{saved}/3: damaged \("):
        checkpoints.read_state(saved, 3)


def test_where_all_checkpoints_are_damaged_one_sentence_says_so(saved):
    cut(saved / "2")
    cut(saved / "3")
    message = rf"^{saved}/3: damaged \(.*\), as are 2 before it; .* another --workdir"
    with pytest.raises(InputError, match=message):
        checkpoints.read_state(saved)
    assert {"2", "3"} <= {path.name for path in saved.iterdir()}


def test_a_measurement_that_is_damaged_is_no_traceback(tmp_path, capsys):
    for step in (1, 2):
        opened = checkpoints.open_checkpoints(tmp_path, keep=2, best="mAP")
        with opened as manager:
            save(manager, step, {"mAP": float(step)})
    (tmp_path / "2" / "metrics" / "metrics").write_text("{")
    with checkpoints.open_checkpoints(tmp_path, keep=2, best="mAP") as manager:
        assert whole(manager)[1]["step"] == 2
        assert manager.best_step() == 1
        save(manager, 3, {"accuracy": 0.5})
    assert f"{tmp_path}/2: what was measured is damaged" in capsys.readouterr().out
    with checkpoints.open_checkpoints(tmp_path, keep=2, best="accuracy") as manager:
        assert manager.best_step() == 3


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


def test_where_the_best_checkpoint_is_damaged_the_last_state_is_the_model(
    config, state, tmp_path, capsys
):
    with checkpoints.open_checkpoints(tmp_path / "checkpoints", keep=1) as manager:
        checkpoints.save(manager, 2, state, {"position": {}, "config": {}})
    cut(tmp_path / "checkpoints" / "2")
    state = state.replace(step=state.step + 3)
    checkpoints.write_model(config, state, 2, tmp_path, None)
    printed = capsys.readouterr().out
    assert "checkpoints/2: damaged (" in printed
    assert "the model is that of step 3 instead" in printed
    written = files.read_json(tmp_path / "model" / "config.json")
    assert written["provenance"]["steps"] == 3


def test_the_revision_is_that_of_git_or_empty():
    assert re.fullmatch("[0-9a-f]{40}|", checkpoints.revision())
