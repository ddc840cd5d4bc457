"""Every config of a training can be read, and makes a model that takes a step."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from delf_jax.config import run_config
from delf_jax.training import inputs
from delf_jax.training.build import make_static
from delf_jax.training.config import read_training_config
from delf_jax.training.parallel import AXIS
from delf_jax.training.step import create_state, train_step

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
    side = config.views.size
    views = {"pair": 2, "crop": 1, "tuple": 2 + config.tuples.negatives}
    count, cells = views[config.views.kind], side // 16
    maps = (2, count, cells, cells)
    batch = {
        "image": shape(np.uint8, 2, count, side, side, 3),
        "label": shape(np.int32, 2),
    }
    if config.views.kind == "tuple":
        batch["size"] = shape(np.int32, 2, count, 2)
    if config.views.kind == "pair":
        dimension = config.teacher.dimension
        batch |= {
            "coordinates": shape(np.float32, *maps, 2),
            "teacher": shape(np.float32, *maps, dimension),
            "teacher_valid": shape(bool, *maps),
            "teacher_global": shape(np.float32, 2, count, dimension),
        }
    return batch


@pytest.mark.parametrize("name", TRAININGS)
def test_a_config_makes_a_model_that_takes_a_step(name):
    """In shapes alone: nothing is computed, whatever the size."""
    config = read_training_config(FOLDER / f"{name}.py")
    config.views.size = 64
    inputs.view_settings(config)
    counts = [1, 2, 3, 40, 500]
    static, _ = make_static(config, CLASSES, AXIS, counts)
    # All that several devices add is tested elsewhere.
    config.loss.classifier = "dense"
    static, _ = make_static(config, CLASSES, None, counts)
    start = functools.partial(create_state, static, view_size=64)
    state = jax.eval_shape(start, jax.random.key(0))
    step = functools.partial(train_step, static=static)
    after, metrics = jax.eval_shape(step, state, batch_of(config), jax.random.key(0))
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
    if name in ("tiny", "delg_tiny", "synthetic", "ablation"):  # for two cores.
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
        "sfm120k_r101",
        "how_r50",
        "template_own_folder",
    }
    assert needed <= set(TRAININGS)
