"""Weights of another training or model as the start of a new one."""

import functools
import re

import jax
import numpy as np
import pytest

from delf_jax import files
from delf_jax.extraction import model_folder
from delf_jax.files import InputError
from delf_jax.training import checkpoints, step, warm_start
from tests.conftest import PROVENANCE
from tests.helpers.random_models import random_variables
from tests.helpers.tiny_training import by_name, make_config, plain_static


@pytest.fixture(scope="module")
def config():
    config = make_config("", "")
    config.model.attention_width = 24
    return config


@pytest.fixture(scope="module")
def static(config):
    return plain_static(config)


@pytest.fixture(scope="module")
def fresh(static):
    """A state of zeros: to draw one takes longer than all tests."""
    start = functools.partial(step.create_state, static, view_size=64)
    shapes = jax.eval_shape(start, jax.random.key(0))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def start(config, fresh, source, **changes):
    """The state that begins with the weights of a source."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict({"init_from": str(source), **changes})
    return warm_start.start_from(str(source), warm_start.read_weights(config), fresh)


def test_weights_of_a_model_folder_are_taken_where_they_fit(
    tiny_model, fresh, config, capsys
):
    state = start(config, fresh, tiny_model)
    _, theirs = model_folder.read_model(tiny_model)
    kernel = "backbone/conv1/kernel"
    expected = by_name(theirs)[f"params/{kernel}"]
    for tree in (state.params["model"], state.ema["params"]):
        np.testing.assert_array_equal(by_name(tree)[kernel], expected)
    np.testing.assert_array_equal(by_name(state.params["model"])["whitening/bias"], 0)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"weights of {tiny_model}:" in printed
    assert "backbone 100 177,912 loaded" in printed
    assert (
        "local/attention 1 768 from scratch: 1x1x32x16 in the source, 1x1x32x24"
        in printed
    )
    assert "classifier 1 96 from scratch: not in the source" in printed
    numbers = sum(x.size for x in jax.tree.leaves(state.ema))
    found = re.search(r"loaded: (\S+) of (\S+) numbers, 9\d.\d%", printed)
    assert int(found[2].replace(",", "")) == numbers > int(found[1].replace(",", ""))


def save_state(state, workdir):
    with checkpoints.open_checkpoints(workdir / "checkpoints", keep=1) as manager:
        checkpoints.save(manager, 1, state, {})


def test_weights_of_a_workdir_are_the_averages_of_its_newest_checkpoint(
    fresh, config, tmp_path
):
    save_state(jax.tree.map(np.ones_like, fresh), tmp_path)
    state = start(config, fresh, tmp_path)
    assert all((np.asarray(x) == 1).all() for x in jax.tree.leaves(state.ema))
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(state.opt_state))


def test_a_workdir_of_another_layout_or_other_pixels_is_refused(
    fresh, config, tmp_path
):
    save_state(fresh, tmp_path)
    described = {"model": {"name": "delg", "layout": "keras"}, "extraction": {}}
    files.write_json(tmp_path / "config.json", described)
    with pytest.raises(InputError, match=f"{tmp_path} has model.layout 'keras'"):
        start(config, fresh, tmp_path)
    start(config, fresh, tmp_path, init_partial=True)
    described = {"model": {}, "extraction": {"pixel_std": [1.0, 2.0, 3.0]}}
    files.write_json(tmp_path / "config.json", described)
    with pytest.raises(InputError, match="trained with pixel_std .*; set extraction"):
        start(config, fresh, tmp_path)


def test_a_converted_backbone_without_heads_is_a_start(
    global_model, fresh, config, capsys
):
    state = start(config, fresh, global_model)
    _, theirs = model_folder.read_model(global_model)
    name = "backbone/block3_unit1/conv1/kernel"
    taken = by_name(state.params["model"])[name]
    np.testing.assert_array_equal(taken, by_name(theirs)[f"params/{name}"])
    assert "from scratch: not in the source" in capsys.readouterr().out


@pytest.fixture
def narrow(tmp_path):
    """A model whose vectors alone could fit another."""
    architecture = {
        **{"name": "global", "depth": 18, "width": 4, "layout": "v1.5"},
        "global_dimension": 32,
    }
    variables = random_variables(architecture)
    model_folder.save_model(tmp_path / "m", architecture, variables, {}, PROVENANCE)
    return tmp_path / "m"


def test_a_model_of_which_less_than_half_fits_is_refused(
    fresh, config, narrow, tmp_path, capsys
):
    message = r"^init_from: .*/m has \S+ of the \S+ numbers of this model, less than"
    with pytest.raises(InputError, match=message):
        start(config, fresh, narrow)
    start(config, fresh, narrow, init_partial=True)
    assert re.search(r"loaded: .* numbers, \d\.\d%", capsys.readouterr().out)
    with pytest.raises(InputError, match="no tensor of .*/m has the name and shape"):
        start(config, jax.tree.map(lambda x: x[None], fresh), narrow, init_partial=True)
    with pytest.raises(InputError, match="^init_from: .*absent: no such folder; name"):
        start(config, fresh, tmp_path / "absent")
    with pytest.raises(InputError, match="neither a model folder nor a workdir"):
        start(config, fresh, tmp_path)


def test_tensors_of_one_fate_share_a_row():
    ours = {
        "params/backbone/conv1/kernel": (3, 4),
        "params/backbone/conv1/scale": (4,),
        "params/whitening/kernel": (4, 8),
        "params/classifier/kernel": (8, 2),
        "params/gem_power": (),
    }
    theirs = {
        "params/backbone/conv1/kernel": (3, 4),
        "params/backbone/conv1/scale": (4,),
        "params/whitening/kernel": (4, 6),
        "params/decoder/kernel": (5, 5),
    }
    assert warm_start.compare(ours, theirs) == [
        ("backbone", 2, 16, "loaded"),
        ("classifier", 1, 16, "from scratch: not in the source"),
        ("decoder", 1, 25, "not used: this model has no such part"),
        ("params/gem_power", 1, 1, "from scratch: not in the source"),
        ("whitening", 1, 32, "from scratch: 4x6 in the source, 4x8 here"),
    ]
