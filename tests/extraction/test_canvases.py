import concurrent.futures

import jax
import numpy as np
import pytest
from flax import linen as nn

from delf_jax import runtime
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


class Brightness(nn.Module):
    """A network in one layer, that counts how often it is traced."""

    traced = []

    @nn.compact
    def __call__(self, images, sizes, global_branch=True, changes=None):
        self.traced.append(images.shape)
        x = nn.Conv(4, (8, 8), (8, 8), name="conv")(images)
        return {
            "attention": x.sum(axis=-1),
            "valid": x[..., 0] > -np.inf,
            "descriptors": x,
            "global_descriptor": x.mean(axis=(1, 2)),
        }


@pytest.fixture
def brightness(monkeypatch, tmp_path):
    """(network, variables), with a cache folder of its own that is empty."""
    images = np.ones((1, 32, 32, 3), np.float32)
    variables = Brightness().init(jax.random.key(0), images, None)
    monkeypatch.setattr(Brightness, "traced", [])
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield Brightness(), variables
    jax.config.update("jax_compilation_cache_dir", before)


def look(network, variables):
    """What a new process finds on a canvas of 32 x 48."""
    shape = 1, 32, 48, 3
    canvas = np.random.default_rng(3).uniform(size=shape).astype(np.float32)
    fresh = canvases.Program(
        network, shape, keep=5, with_global=True, changes=canvases.UNCHANGED
    )
    return fresh(variables, canvas, np.int32([[32, 48]]))


def test_a_network_is_traced_once_for_all_processes(brightness, tmp_path):
    first, again = look(*brightness), look(*brightness)
    assert Brightness.traced == [(1, 32, 48, 3)]
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert again["attention"].shape == (1, 5)


def test_a_damaged_program_is_made_again(brightness, tmp_path):
    first = look(*brightness)
    (kept,) = tmp_path.glob("program-*")
    kept.write_bytes(kept.read_bytes()[:-9])
    again = look(*brightness)
    assert len(Brightness.traced) == 2
    np.testing.assert_array_equal(first["descriptors"], again["descriptors"])
    assert look(*brightness) and len(Brightness.traced) == 2


def test_traces_are_not_kept_where_compiled_programs_lie_in_a_bucket(
    brightness, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
    assert runtime.keep("program", "anything", lambda: b"made") == b"made"
    assert list(tmp_path.iterdir()) == []


def test_threads_that_ask_at_once_compile_once(brightness):
    network, variables = brightness
    shape = 1, 32, 32, 3
    fresh = canvases.Program(
        network, shape, keep=0, with_global=True, changes=canvases.UNCHANGED
    )
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(fresh.compile, [variables] * 4))
    assert all(each is made[0] for each in made)
    assert Brightness.traced == [shape]
