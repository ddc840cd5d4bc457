"""Every config of a training can be read, and makes a model that takes a step."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from delf_jax.config import run_config
from delf_jax.data.augment import MOST_BOXES
from delf_jax.data.device_views import PhotoStore
from delf_jax.data.teacher import Targets, load_teacher, maps_of
from delf_jax.training import inputs
from delf_jax.training.build import make_static
from delf_jax.training.config import read_training_config
from delf_jax.training.parallel import AXIS
from delf_jax.training.step import (
    NO_CONSTANTS,
    Constants,
    create_state,
    train_step,
)
from tests.helpers.narrow import make_narrow, save_lite

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
TRAININGS = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem != "common" and "optimizer" in run_config(path)
)
CLASSES = 5


def shape(dtype, *size):
    return jax.ShapeDtypeStruct(size, dtype)


def batch_of(config):
    """Shapes of a small batch, as the data would come."""
    if config.data.on_device:
        return {
            "photo": shape(np.int32, 2),
            "seed": shape(np.uint32, 2),
            "label": shape(np.int32, 2),
        }
    side = config.views.size
    views = {"pair": 2, "crop": 1, "boxes": 1, "tuple": 2 + config.tuples.negatives}
    count = views[config.views.kind]
    batch = {
        "image": shape(np.uint8, 2, count, side, side, 3),
        "label": shape(np.int32, 2),
    }
    if config.views.kind == "tuple":
        batch["size"] = shape(np.int32, 2, count, 2)
    if config.views.kind == "boxes":
        batch["boxes"] = shape(np.float32, 2, MOST_BOXES, 4)
        batch["valid"] = shape(np.bool_, 2, MOST_BOXES)
    if config.views.kind == "pair":
        cells = side // inputs.view_settings(config).cell_stride
        batch["coordinates"] = shape(np.float32, 2, count, cells, cells, 2)
    return batch


def constants_of(config, taught_by):
    """Shapes of what every step reads, photos and a teacher."""
    if taught_by is None:
        return NO_CONSTANTS
    _, variables = load_teacher(config.teacher.model, config.teacher.stages)
    views = shape(np.uint8, 1, 64, 64, 3)
    maps = jax.eval_shape(lambda v, x: maps_of(taught_by, v, x), variables, views)
    channels = {name: maps[name].shape[-1] for name in taught_by.stages}
    numbers = {name: shape(np.float32, count) for name, count in channels.items()}
    projection = shape(np.float32, channels["block4"], config.teacher.dimension)
    return Constants(
        PhotoStore(shape(np.uint8, 9, 320, 320, 3), shape(np.int32, 9, 2)),
        variables,
        Targets(numbers, numbers, numbers["block4"], projection),
    )


@pytest.mark.parametrize("name", TRAININGS)
def test_a_config_makes_a_model_that_takes_a_step(name, monkeypatch, tmp_path):
    """In shapes alone: nothing is computed, whatever the size."""
    config = read_training_config(FOLDER / f"{name}.py")
    config.views.size = 64
    if "image_size" in config.model:
        config.model.image_size = 64
    if inputs.teaches(config):
        make_narrow(monkeypatch)  # its full size is told by its own tests.
        config.teacher.model = save_lite(tmp_path / "teacher")
        config.teacher.dimension = config.model.global_dimension = 16
    inputs.view_settings(config)
    counts = [1, 2, 3, 40, 500]
    static, _ = make_static(config, CLASSES, AXIS, counts)
    # All that several devices add is tested elsewhere.
    config.loss.classifier = "dense"
    static, _ = make_static(config, CLASSES, None, counts)
    start = functools.partial(create_state, static, view_size=64)
    state = jax.eval_shape(start, jax.random.key(0))
    step = functools.partial(train_step, static=static)
    after, metrics = jax.eval_shape(
        step,
        state,
        batch_of(config),
        jax.random.key(0),
        constants_of(config, static.teacher),
    )
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(
        lambda x: x.shape, state
    )
    active = static.loss.active()
    assert active and set(active) <= set(type(metrics).__annotations__)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_header_says_the_command_the_cost_and_the_result(name):
    header = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    command = "sweep" if name == "ablation" else "train"
    assert f"python main.py {command} --config=configs/{name}.py" in header
    of_two_cores = (
        "tiny",
        "delg_tiny",
        "synthetic",
        "ablation",
        "detect_tiny",
    )
    if name in of_two_cores:
        return
    for words in ("v5e-16", "8xH100", "ne GPU", "an estimate", "Expected"):
        assert words in header.replace("\n", " "), words


def test_the_configs_that_papers_and_own_photos_need_are_there():
    needed = {
        "delf_r50_gldv1_descriptors",
        "delf_r50_gldv1_attention",
        "delg_tiny",
        "delg_r50_gldv1",
        "delg_r50_gldv2clean",
        "delg_r101_gldv1",
        "delg_r101_gldv2clean",
        "gldv2_arcface_r101",
        "detect_frcnn",
        "detect_own_boxes",
        "detect_ssd",
        "detect_tiny",
        "sfm120k_r101",
        "how_r50",
        "template_own_folder",
    }
    assert needed <= set(TRAININGS)
