import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from delf_jax.files import InputError
from delf_jax.inspection import model_files
from delf_jax.training import checkpoints
from tests.training import test_checkpoints


@pytest.fixture
def training(tmp_path):
    """The workdir of a training with the states 1 and 2."""
    folder = tmp_path / "run" / "checkpoints"
    with checkpoints.open_checkpoints(folder, keep=2) as manager:
        for step in (1, 2):
            test_checkpoints.save(manager, step)
    return tmp_path / "run"


def test_what_is_not_ours_is_not_read(tmp_path):
    assert model_files.read(tmp_path) is None
    assert model_files.read(tmp_path / "none") is None


def test_a_model_folder_gives_its_tensors_as_stored_and_its_config(tiny_model):
    source = model_files.read(tiny_model)
    stored = safetensors.numpy.load_file(tiny_model / "model.safetensors")
    assert source.kind == "model" and source.path == tiny_model
    written = json.loads((tiny_model / "config.json").read_text())
    assert source.details == {n: v for n, v in written.items() if n != "checksum"}
    assert source.tensors.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(source.tensors[name], tensor, strict=True)


def test_a_training_gives_its_newest_state_or_that_of_a_step(training):
    for path in (training, training / "checkpoints"):
        source = model_files.read(path)
        assert (source.kind, source.path) == ("training", training / "checkpoints")
        assert set(source.tensors) == {"step", "params/kernel", "ema/a", "ema/noise"}
        assert source.tensors["step"] == 2
    one = model_files.read(training / "checkpoints" / "1")
    assert one.kind == "training" and one.tensors["step"] == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_of_a_damaged_training_the_checkpoint_before_is_read(training, capsys):
    (training / "checkpoints" / "2" / "state" / "_METADATA").write_text("{")
    assert model_files.read(training).tensors["step"] == 1
    assert "2: damaged (" in capsys.readouterr().out
    with pytest.raises(InputError, match="checkpoints/2: damaged"):
        model_files.read(training / "checkpoints" / "2")
    (training / "checkpoints" / "1" / "state" / "_METADATA").write_text("{")
    with pytest.raises(InputError, match="2: damaged .*, as are 1 before it"):
        model_files.read(training)


def test_a_model_folder_that_was_changed_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    with open(tmp_path / "model" / "model.safetensors", "ab") as file:
        file.write(b"1")
    with pytest.raises(InputError, match="not the file that config.json describes"):
        model_files.read(tmp_path / "model")
