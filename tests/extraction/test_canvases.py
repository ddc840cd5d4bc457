import numpy as np
import pytest

from delf_jax.extraction import canvases, model_folder
from delf_jax.extraction.settings import settings_for


def test_bucket_sides_are_few_and_not_much_too_large():
    sides = np.arange(1, 4097)
    buckets = np.array([canvases.bucket_side(int(side), 64) for side in sides])
    assert (buckets >= sides).all() and (buckets % 64 == 0).all()
    assert len(np.unique(buckets)) == 40
    large = sides > 512
    assert (buckets[large] <= sides[large] * 1.125).all()
    for side in (64, 256, 512, 640, 768, 1024, 1088, 1472, 1536, 2048):
        assert canvases.bucket_side(side, 64) == side


@pytest.fixture(scope="module")
def model(tiny_model):
    return model_folder.load_model(tiny_model)


def run(model, keep, with_global):
    rng = np.random.default_rng(0)
    drawn = rng.uniform(-1, 1, (2, 128, 128, 3)).astype(np.float32)
    sizes = np.array([[128, 128], [64, 90]], np.int32)
    load = canvases.program(model.module, drawn.shape, keep, with_global)
    return load(model.variables, drawn, sizes)


def test_the_strongest_cells_come_first_and_cells_that_are_none_last(model):
    every, few = run(model, None, False), run(model, 5, False)
    attention = np.asarray(every["attention"])
    assert attention.shape == (2, 64) and "global_descriptor" not in every
    assert (np.diff(attention, axis=1) <= 0).all()
    assert (attention[0] >= 0).all() and attention[1, -1] == -1
    for name, value in few.items():
        np.testing.assert_allclose(value, every[name][:, :5], rtol=1e-5)


def test_without_cells_there_is_the_global_descriptor_alone(model):
    assert {n: x.shape for n, x in run(model, 0, True).items()} == {
        "global_descriptor": (2, 32)
    }


def test_all_cells_are_kept_where_boxes_suppress_each_other(model):
    settings = settings_for(model, max_features=1025)
    assert canvases.kept_cells(settings) == 2048
    assert canvases.kept_cells(settings._replace(nms_iou=0.5)) is None
    assert canvases.kept_cells(settings._replace(max_features=0)) == 0
