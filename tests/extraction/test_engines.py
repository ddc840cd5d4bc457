"""The engines: what OpenVINO and JAX give alike, and what falls back to float32."""

import functools
import importlib.util
import sys

import jax
import numpy as np
import pytest

from delf_jax.extraction import canvases, engines, extract, model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.files import InputError
from tests.helpers.exported import noise

needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"),
    reason="openvino, the extra [openvino], is not in this environment",
)


@pytest.fixture(scope="module")
def model(tiny_model):
    return model_folder.load_model(tiny_model)


def _features(model, images, **changes):
    settings = settings_for(model, image_scales=(0.7071, 1.0), global_scales=(0, 1))
    settings = settings._replace(max_features=50, **changes)
    return list(extract.extract_features(model, images, settings, threads=2))


PHOTOS = [noise(101, 77), noise(96, 128, seed=1)]


@needs_openvino
@pytest.mark.parametrize("batch_size", [None, 2])
def test_openvino_finds_what_jax_finds(model, batch_size):
    ours = _features(model, PHOTOS)
    theirs = _features(model, PHOTOS, engine="openvino", batch_size=batch_size)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.local.locations, b.local.locations)
        np.testing.assert_array_equal(a.local.scales, b.local.scales)
        for name in ("attention", "descriptors"):
            np.testing.assert_allclose(
                getattr(a.local, name), getattr(b.local, name), rtol=1e-4, atol=1e-6
            )
        np.testing.assert_allclose(
            a.global_descriptor, b.global_descriptor, rtol=1e-4, atol=1e-6
        )


@needs_openvino
def test_openvino_in_bfloat16_is_close_and_not_the_same(model):
    (exact,) = _features(model, PHOTOS[:1], engine="openvino")
    (reduced,) = _features(model, PHOTOS[:1], engine="openvino", precision="bfloat16")
    cosine = exact.global_descriptor @ reduced.global_descriptor
    assert cosine > 0.999
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    same = (exact.global_descriptor == reduced.global_descriptor).all()
    assert same == ("BF16" not in capabilities)


def openvino_core():
    from delf_jax.extraction import openvino_graph

    return openvino_graph.ov.Core()


@needs_openvino
def test_without_local_or_global_features_openvino_leaves_them_out(model):
    (local,) = _features(model, PHOTOS[:1], engine="openvino", global_scales=())
    assert local.global_descriptor is None and len(local.local.scales)
    none = {"max_features": 0, "engine": "openvino"}
    settings = settings_for(model, **none)
    (found,) = extract.extract_features(model, PHOTOS[:1], settings)
    (expected,) = extract.extract_features(
        model, PHOTOS[:1], settings._replace(engine="jax")
    )
    assert found.local is None
    np.testing.assert_allclose(
        found.global_descriptor, expected.global_descriptor, atol=1e-6
    )


@needs_openvino
def test_models_of_one_name_and_fingerprint_are_told_apart(model):
    changed = model._replace(variables=jax.tree.map(lambda x: -x, model.variables))
    (first,) = _features(model, PHOTOS[:1], engine="openvino")
    (second,) = _features(changed, PHOTOS[:1], engine="openvino")
    assert not np.allclose(first.global_descriptor, second.global_descriptor)


@needs_openvino
def test_what_openvino_cannot_run_is_refused_in_one_sentence(model):
    module = model.module.clone(
        backbone=model.module.backbone.clone(normalization="batch")
    )
    image = np.zeros((1, 64, 64, 3), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), variables)
    unfolded = model._replace(module=module, variables=variables)
    with pytest.raises(
        InputError, match="lacks its operation conv_.*; leave out --eng"
    ):
        _features(unfolded, PHOTOS[:1], engine="openvino")


@needs_openvino
def test_openvino_does_not_send_that_it_was_imported(model):
    _features(model, PHOTOS[:1], engine="openvino")
    assert sys.modules["openvino_telemetry"] is None


def test_an_absent_engine_names_its_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(
        sys.modules, "delf_jax.extraction.openvino_graph", raising=False
    )
    monkeypatch.delattr(
        sys.modules["delf_jax.extraction"], "openvino_graph", raising=False
    )
    with pytest.raises(InputError, match=r"not installed: pip install 'delf_jax\[open"):
        _features(model, PHOTOS[:1], engine="openvino")


def test_cells_are_chosen_as_the_compiled_program_chooses_them():
    rng = np.random.default_rng(0)
    maps = {
        "attention": rng.integers(0, 4, (2, 6, 5)).astype(np.float32),
        "valid": rng.random((2, 6, 5)) < 0.7,
        "descriptors": rng.normal(size=(2, 6, 5, 3)).astype(np.float32),
    }
    maps["attention"][1, 2, 3], maps["valid"][1, 2, 3] = np.nan, True

    class _Maps:
        apply = staticmethod(lambda *rest, **skipped: maps)

    for keep in (None, 7, 99):
        options = {"module": _Maps, "keep": keep, "with_global": False}
        choose = functools.partial(canvases.extract_canvases, **options)
        expected = jax.jit(choose)({}, np.zeros((2, 1, 1, 3)), np.zeros((2, 2), int))
        found = engines.strongest(**maps, keep=keep)
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_bfloat16_that_is_slower_falls_back_to_float32_and_says_so(
    model, monkeypatch, capsys
):
    exact = _features(model, PHOTOS[:1])
    monkeypatch.setattr(engines, "_bfloat16_seconds", lambda: 4.5)
    fallen = _features(model, PHOTOS[:1], precision="bfloat16")
    jax.tree.map(np.testing.assert_array_equal, exact, fallen)
    assert "bfloat16 takes JAX 4.5 times as long as float32" in capsys.readouterr().err
    monkeypatch.setattr(engines, "_bfloat16_seconds", lambda: 0.4)
    (reduced,) = _features(model, PHOTOS[:1], precision="bfloat16")
    assert 0.999 < reduced.global_descriptor @ exact[0].global_descriptor < 1 - 1e-7


def test_a_processor_is_asked_once_whether_bfloat16_pays(monkeypatch):
    asked = []
    monkeypatch.setattr(engines, "_probe", lambda dtype: asked.append(dtype) or 1.0)
    engines._bfloat16_seconds.cache_clear()
    assert [engines._bfloat16_seconds() for _ in range(3)] == [1.0] * 3
    assert len(asked) == 2
    engines._bfloat16_seconds.cache_clear()
