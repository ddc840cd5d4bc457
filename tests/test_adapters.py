"""The files of docs/adapters in the hands of those that call them, or of a stand-in."""

import importlib.util
import pathlib
import sys
import types

import numpy as np
import pytest

import delf_jax
from delf_jax.formats import hloc as hdf5

ADAPTERS = pathlib.Path(__file__).parent.parent / "docs" / "adapters"


class Tensor:
    """As much of torch's as the adapters and their callers touch."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def __getitem__(self, index):
        return Tensor(self.array[index])

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class BaseModel:
    """hloc's, without torch."""

    def __init__(self, conf):
        self._init(self.default_conf | conf)

    def __call__(self, data):
        assert {*self.required_inputs} <= data.keys()
        return self._forward(data)


class BaseMatcher:
    """vismatch's, without torch and without its homography."""

    def __init__(self, device="cpu", ransac_iters=2000):
        self.device, self.ransac_iters = device, ransac_iters

    def __call__(self, *images):
        found = self._forward(*map(Tensor, images))
        names = ("matched_kpts", "all_kpts", "all_desc")
        *arrays, confidences = found
        assert all(type(array) is np.ndarray for array in found) and len(arrays) == 6
        keys = [f"{name}{i}" for name in names for i in (0, 1)]
        return dict(zip(keys, arrays, strict=True)) | {
            "matched_confidences": confidences
        }


def read(name):
    """The module of an adapter."""
    spec = importlib.util.spec_from_file_location(name, ADAPTERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(monkeypatch, name, **content):
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def hloc(monkeypatch):
    stand_in(monkeypatch, "torch", from_numpy=Tensor)
    for name in ("hloc", "hloc.utils"):
        stand_in(monkeypatch, name)
    stand_in(monkeypatch, "hloc.utils.base_model", BaseModel=BaseModel)
    return read("hloc_delf_jax")


@pytest.fixture(params=["stand-in", "installed"])
def vismatch(request, monkeypatch):
    if request.param == "stand-in":
        stand_in(monkeypatch, "vismatch", BaseMatcher=BaseMatcher)
    else:
        pytest.importorskip("vismatch", reason="no vismatch")
    return read("vismatch_delf_jax")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def channels_first(pixels):
    """[3, H, W] in [0, 1], as both pass images on, if not exactly so once resized."""
    channels = np.moveaxis(pixels.astype(np.float32) / 255, -1, 0)
    return np.where(channels == 1, np.float32(1.01), channels)


def test_hloc_gets_what_we_write_as_its_hdf5(hloc, pixels, tiny_model, tmp_path):
    h5py = pytest.importorskip("h5py")
    features = delf_jax.extract(pixels, tiny_model, max_features=50)
    with hdf5.create(tmp_path / "both.h5") as file:
        hdf5.add_local(file, "local", features, zoom=1.0)
        hdf5.add_global(file, "global", features)

    conf = {"name": "delf_jax", "folder": tiny_model, "max_features": 50}
    found = hloc.DELFJax(conf)({"image": Tensor(channels_first(pixels)[None])})
    with h5py.File(tmp_path / "both.h5") as file:
        expected = {**file["local"], **file["global"]}
        del expected["image_size"]  # hloc writes it itself.
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array[0].cpu().numpy(), expected[name])


def test_a_global_model_gives_hloc_no_keypoints(hloc, pixels, global_model):
    extractor = hloc.DELFJax({"name": "delf_jax", "folder": global_model})
    found = extractor({"image": Tensor(channels_first(pixels)[None])})
    assert found.keys() == {"global_descriptor"}


def test_vismatch_gets_points_in_x_and_y_and_what_matches(vismatch, pixels, tiny_model):
    other = np.roll(pixels, 16, axis=1)  # 16 pixels to the right
    matcher = vismatch.DelfJax(model=tiny_model, max_features=50, ransac_iters=100)
    assert matcher.ransac_iters == 100
    found = matcher(channels_first(pixels), channels_first(other))
    expected = delf_jax.match(
        *(delf_jax.extract(x, tiny_model, max_features=50) for x in (pixels, other))
    )
    for side, features in enumerate(expected.features):
        points = np.asarray(features.local.locations)[:, ::-1]
        np.testing.assert_allclose(found[f"all_kpts{side}"], points, atol=1e-3)
        assert found[f"all_desc{side}"].shape == features.local.descriptors.shape
        matched = points[expected.matches[:, side]]
        np.testing.assert_allclose(found[f"matched_kpts{side}"], matched, atol=1e-3)
    assert len(found["matched_confidences"]) == len(expected.matches) > 0
    assert np.all(np.abs(found["matched_confidences"]) < 1.01)
