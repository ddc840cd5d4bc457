import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from delf_jax import files
from delf_jax.extraction import model_folder
from delf_jax.training import checkpoints
from delf_jax.training.step import create_state
from tests.helpers.tiny_training import by_name, make_config, plain_static


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
        checkpoints, "read_state", lambda *asked: read.append(asked) or {"ema": best}
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
