"""A training like that of configs/delg_tiny.py in miniature: taught, drawn on devices.

Stages are narrow; all else is as there: photos in the device's memory, a teacher of
which every stage is learned, stages that are forced in the first steps.
"""

import functools
import os
import signal

import jax
import numpy as np
import pytest

from delf_jax.config import read_config
from delf_jax.data import teacher
from delf_jax.extraction import extract, model_folder, settings
from delf_jax.files import InputError
from delf_jax.training import build, inputs, log, train
from delf_jax.training.step import (
    _forward,
    _teach,
    create_state,
    with_views,
)
from tests.helpers.narrow import make_narrow, save_lite
from tests.helpers.tiny_training import (
    TINY,
    by_name,
    draw_images,
    final_state,
    lines_of,
)

STEPS, FORCED = 4, 2
DIMENSION = 4


@pytest.fixture(scope="module", autouse=True)
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        make_narrow(patch)
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of images, of prepared ones, and of the teacher."""
    root = tmp_path_factory.mktemp("taught")
    return draw_images(root / "images"), root / "data", save_lite(root / "teacher")


def make_config(places):
    """configs/delg_tiny.py of a few steps on a few small images."""
    images, prepared, taught_by = places
    config = read_config(TINY.parent / "delg_tiny.py")
    config.steps, config.batch_size = STEPS, 4
    config.log_every, config.checkpoint_every, config.images_every = 1, 2, 0
    config.views.size, config.views.resolutions = 64, (64.0, 96.0)
    config.model.attention_width = config.model.reduced_dimension = 8
    config.model.global_dimension = config.teacher.dimension = DIMENSION
    config.teacher.model, config.teacher.forced_steps = taught_by, FORCED
    config.optimizer.warmup_steps = 0
    config.data.directory, config.data.threads = str(prepared), 1
    with config.unlocked():
        config.data.sources = {"images": {"path": str(images)}}
    return config


@pytest.fixture
def config(places):
    return make_config(places)


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    """The workdir of a training that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    assert train.train(make_config(places), str(workdir)).finished
    return workdir


@pytest.mark.slow
def test_it_reports_its_losses_and_leaves_a_model_that_extracts(finished):
    lines = lines_of(finished)
    losses = {"map_distillation", "global_distillation", "similarity_distillation"}
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert losses | {"correspondence", "matchability"} < set(line)
    model = model_folder.load_model(finished / "model")
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    chosen = settings.settings_for(model, max_features=20)
    (found,) = extract.extract_features(model, [photo], chosen)
    assert found.local.descriptors.shape == (20, 8)
    assert found.global_descriptor.shape == (DIMENSION,)


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_with_the_same_numbers(
    finished, config, tmp_path, monkeypatch
):
    """It stops while stages are forced, and its targets are read, not fitted again."""
    add = log.TrainingLog.add

    def add_and_stop(self, step, *rest):
        add(self, step, *rest)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(log.TrainingLog, "add", add_and_stop)
    assert not train.train(config, str(tmp_path)).finished
    monkeypatch.undo()

    def fail(*rest):
        raise AssertionError("fitted again")

    monkeypatch.setattr(teacher, "_half_whitening", fail)
    assert train.train(config, str(tmp_path)).finished
    assert lines_of(tmp_path) == lines_of(finished)
    expected, resumed = final_state(finished), final_state(tmp_path)
    assert expected.keys() == resumed.keys()
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)


@pytest.mark.slow
def test_while_stages_are_forced_those_before_learn_nothing_of_them(config):
    """The gradient of what block4 says, in the last forced step and when none is."""
    sources = inputs.open_sources(config)
    static, _ = build.make_static(config, 2, None)
    constants = inputs.open_constants(config, sources)
    batch = dict(next(inputs.open_batches(config, sources, 1)))
    batch.pop("id")
    start = jax.jit(functools.partial(create_state, static, view_size=64))
    before = start(jax.random.key(0))
    views = with_views(static, batch, constants)

    @jax.jit
    @jax.grad
    def gradient(params, at):
        maps = _teach(static.teacher, views, constants).maps
        state, key = before.replace(step=at), jax.random.key(0)
        outputs, _ = _forward(static, params, state, views, key, maps)
        return (outputs["stages"]["block4"] ** 2).mean()

    def reached(at):
        found = by_name(gradient(before.params["model"], np.int32(at))["backbone"])
        return {n.split("/")[0] for n, x in found.items() if np.abs(x).max() > 0}

    assert reached(FORCED - 1) == {"head"}
    assert reached(2 * FORCED) >= {"head", "stem", "stage2_unit1", "stage7_unit1"}


def test_targets_are_kept_beside_the_prepared_images(config, tmp_path):
    config.data.directory = str(tmp_path)
    sources = inputs.open_sources(config)
    constants = inputs.open_constants(config, sources)
    (kept,) = tmp_path.glob("teacher-*.npz")
    found = teacher.read_targets(kept)
    jax.tree.map(np.testing.assert_array_equal, found, constants.targets)
    assert set(found.deviations) == set(config.teacher.stages)
    assert constants.photos.pixels.shape == (6, 96, 96, 3)
    np.testing.assert_array_equal(constants.photos.sizes, [(72, 96)] * 6)
    kept.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{kept}: not the targets of a teacher"):
        inputs.open_constants(config, sources)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher.stages": ("block4", "stage9")}, "has no stage9; it has"),
        ({"teacher.stages": ("stage2", "block4")}, "teacher.forced_steps: it needs"),
        ({"model.global_dimension": 5}, "must be teacher.dimension, 4"),
        ({"views.kind": "crop"}, "map_distillation compares two views"),
        ({"views.size": 66}, "views.size 66 leaves part of a cell over: .* of 8"),
    ],
)
def test_a_wrong_field_is_named(config, tmp_path, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        train.train(config, str(tmp_path))
