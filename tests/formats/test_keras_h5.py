import sys

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats import keras_h5

WEIGHTS = {
    "conv1": {"conv1/kernel:0": (7, 7, 3, 4), "conv1/bias:0": (4,)},
    "bn_conv1": {"gamma:0": (4,), "bn_conv1/moving_mean:0": (4,)},
    "pool": {},
    "inner": {"fc/a/kernel:0": (4, 2), "inner_b_1:0": ()},
}
NAMES = [
    *("conv1/kernel", "conv1/bias", "bn_conv1/gamma", "bn_conv1/moving_mean"),
    *("inner/fc/a/kernel", "inner/inner_b_1"),
]


@pytest.fixture(scope="module")
def h5py():
    return pytest.importorskip("h5py", reason="h5py is absent: the extra [h5]")


def write(h5py, path, group="", text=lambda name: name.encode(), **options):
    """A file as Keras writes it; the values of each array are its place."""
    with h5py.File(path, "w") as file:
        top = file.create_group(group) if group else file
        top.attrs["layer_names"] = [text(layer) for layer in WEIGHTS]
        count = 0
        for layer, weights in WEIGHTS.items():
            inside = top.create_group(layer)
            inside.attrs["weight_names"] = [text(name) for name in weights]
            for name, shape in weights.items():
                data = np.full(shape, count, np.float32)
                inside.create_dataset(name, data=data, **(options if shape else {}))
                count += 1
    return path


@pytest.mark.parametrize("group", ["", "model_weights"])
@pytest.mark.parametrize("text", [str.encode, str])
def test_weights_come_in_the_order_of_the_file(h5py, tmp_path, group, text):
    read = keras_h5.read_h5(write(h5py, tmp_path / "a.h5", group, text))
    assert list(read) == NAMES
    shapes = [shape for layer in WEIGHTS.values() for shape in layer.values()]
    for place, (name, shape) in enumerate(zip(NAMES, shapes, strict=True)):
        expected = np.full(shape, place, np.float32)
        np.testing.assert_array_equal(read[name], expected, strict=True)


def test_a_long_list_of_names_in_parts_is_read(h5py, tmp_path):
    path = write(h5py, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        for i in range(0, 4, 2):
            file.attrs[f"layer_names{i // 2}"] = names[i : i + 2]
    assert list(keras_h5.read_h5(path)) == NAMES


def test_a_file_without_a_list_gives_paths(h5py, tmp_path):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.ones((3, 3), np.float16)
        file["layers/conv2d/vars/1"] = np.int64(7)
    read = keras_h5.read_h5(path)
    assert list(read) == ["layers/conv2d/vars/0", "layers/conv2d/vars/1"]
    assert read["layers/conv2d/vars/0"].dtype == np.float16
    assert read["layers/conv2d/vars/1"] == 7


def test_links_and_arrays_in_other_files_are_refused(h5py, tmp_path):
    write(h5py, tmp_path / "other.h5")
    np.zeros(4, np.float32).tofile(tmp_path / "raw")
    soft, external = h5py.SoftLink("/conv1"), h5py.ExternalLink("other.h5", "/conv1")
    for link in (soft, external):
        path = write(h5py, tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            del file["bn_conv1"]
            file["bn_conv1"] = link
        with pytest.raises(InputError, match="a.h5: bn_conv1 is a link"):
            keras_h5.read_h5(path)
    path = write(h5py, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["conv1/conv1/bias:0"]
        outside = [(str(tmp_path / "raw"), 0, 16)]
        file.create_dataset("conv1/conv1/bias:0", (4,), "f4", external=outside)
    with pytest.raises(InputError, match="conv1/bias lies in another file"):
        keras_h5.read_h5(path)
    path = write(h5py, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["conv1/conv1/bias:0"]
        layout = h5py.VirtualLayout((4,), "f4")
        source = h5py.VirtualSource(tmp_path / "other.h5", "conv1/conv1/bias:0", (4,))
        layout[:] = source
        file.create_virtual_dataset("conv1/conv1/bias:0", layout)
    with pytest.raises(InputError, match="conv1/bias lies in another file"):
        keras_h5.read_h5(path)


def test_objects_text_and_groups_are_no_weights(h5py, tmp_path):
    ragged = h5py.vlen_dtype(np.float32)
    for dtype in (h5py.string_dtype(), ragged, np.dtype("S4"), h5py.ref_dtype):
        path = write(h5py, tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            del file["conv1/conv1/bias:0"]
            file.create_dataset("conv1/conv1/bias:0", (4,), dtype)
        with pytest.raises(InputError, match="conv1/bias is not an array of numbers"):
            keras_h5.read_h5(path)
    path = write(h5py, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["conv1/conv1/bias:0"]
        file.create_group("conv1/conv1/bias:0")
    with pytest.raises(InputError, match="conv1/bias is not an array of numbers"):
        keras_h5.read_h5(path)


def test_arrays_larger_than_the_file_are_refused(h5py, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (10_000, 10_000), "f4", chunks=(100, 100))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(InputError, match="larger than the file"):
        keras_h5.read_h5(path)


def test_missing_and_doubled_weights_are_errors(h5py, tmp_path):
    path = write(h5py, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["conv1/conv1/bias:0"]
    with pytest.raises(InputError, match="conv1/bias"):
        keras_h5.read_h5(path)
    path = write(h5py, tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = [b"conv1", b"conv1"]
    with pytest.raises(InputError, match="two weights are called conv1/kernel"):
        keras_h5.read_h5(path)


def test_other_files_say_what_they_are_not(h5py, tmp_path):
    path = tmp_path / "a.h5"
    for content in (b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a.h5: not a valid HDF5 file"):
            keras_h5.read_h5(path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(InputError, match="without weights"):
        keras_h5.read_h5(path)
    with pytest.raises(InputError, match="none.h5"):
        keras_h5.read_h5(tmp_path / "none.h5")


def test_a_cut_file_is_an_error_of_ours(h5py, tmp_path):
    whole = write(h5py, tmp_path / "whole.h5").read_bytes()
    path = tmp_path / "a.h5"
    for cut in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError):
            keras_h5.read_h5(path)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"a.h5: .*pip install 'delf_jax\[h5\]'"):
        keras_h5.read_h5(tmp_path / "a.h5")
