import json
import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from delf_jax.conversion import weight_files
from delf_jax.files import InputError
from delf_jax.formats.tensorflow import tensorbundle
from tests.formats.pickles import test_pytorch
from tests.helpers.tensorflow_files import frozen_graph, message

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("path", "prefix", "expected"),
    [
        ("codebook", "codebook", "codebook"),
        ("codebook.index", "codebook", "codebook"),
        ("codebook.data-00000-of-00001", "codebook", "codebook"),
        ("delf_tf2-ckpt", "ckpt-7", "model/backbone/conv1/kernel"),
        ("delf_tf2-ckpt/ckpt-7", "ckpt-7", "model/cosine_weights"),
        ("tf1_model.ckpt-33", "tf1_model.ckpt-33", "resnet_v1_50/conv1/weights"),
    ],
)
def test_tensorflow_checkpoints_go_by_prefix_file_or_folder(
    golden, path, prefix, expected
):
    source = weight_files.read_weights(golden / "tfbundle" / path)
    assert (source.kind, source.path.name) == ("tf_checkpoint", prefix)
    assert expected in source.tensors
    bundle = tensorbundle.read_bundle(source.path)
    for name, tensor in source.tensors.items():
        key = name if name in bundle else f"{name}/.ATTRIBUTES/VARIABLE_VALUE"
        np.testing.assert_array_equal(tensor, bundle[key], strict=True)
    text = {name for name, entry in bundle.entries.items() if entry.dtype.hasobject}
    assert len(source.tensors) == len(bundle) - len(text)


@pytest.mark.golden
def test_a_saved_model_gives_variables_by_name_and_its_graph(golden):
    folder = golden / "tfbundle" / "saved_model"
    for path in (folder, folder / "saved_model.pb"):
        source = weight_files.read_weights(path)
        assert source.kind == "saved_model"
        assert {"cosine_weights", "scale_factor", "large"} < set(source.tensors)
        assert not any(name.endswith(":0") for name in source.tensors)
        assert all(node.name and node.op for node in source.details["nodes"])
        assert "serving_default" in source.details["signatures"]


def test_a_frozen_graph_gives_its_constants_and_nodes(tmp_path):
    path = tmp_path / "model.pb"
    path.write_bytes(frozen_graph(NUMBERS))
    source = weight_files.read_weights(path)
    assert source.kind == "frozen_graph"
    assert list(source.tensors) == ["net/conv1/weights"]
    weights = source.tensors["net/conv1/weights"]
    np.testing.assert_array_equal(weights, NUMBERS, strict=True)
    assert [node[:3] for node in source.details["nodes"]] == [
        ("net/conv1/weights", "Const", ()),
        ("net/conv1/weights/read", "Identity", ("net/conv1/weights",)),
    ]


def test_a_saved_model_that_keeps_its_weights_in_the_graph_is_a_frozen_graph(tmp_path):
    content = message((1, 1), (2, message((2, frozen_graph(NUMBERS)))))
    (tmp_path / "saved_model.pb").write_bytes(content)
    source = weight_files.read_weights(tmp_path)
    assert source.kind == "frozen_graph"
    assert list(source.tensors) == ["net/conv1/weights"]


def test_state_dicts_go_by_content_not_by_name(tmp_path, monkeypatch):
    value = {"conv1.weight": test_pytorch.Tensor(NUMBERS)}
    test_pytorch.pretend_torch(monkeypatch)
    for write in (test_pytorch.write_zip, test_pytorch.write_legacy):
        source = weight_files.read_weights(write(tmp_path / "weights.bin", value))
        assert source.kind == "torch"
        np.testing.assert_array_equal(source.tensors["conv1.weight"], NUMBERS)


def test_keras_weights_are_recognised(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is absent: the extra [h5]")
    with h5py.File(tmp_path / "weights", "w") as file:
        file["conv1/kernel:0"] = NUMBERS
    source = weight_files.read_weights(tmp_path / "weights")
    assert source.kind == "keras_h5"
    np.testing.assert_array_equal(source.tensors["conv1/kernel"], NUMBERS, strict=True)


def test_safetensors_keep_their_order_and_half_precision(tmp_path):
    half = NUMBERS.astype(ml_dtypes.bfloat16)
    path = tmp_path / "weights"
    safetensors.numpy.save_file({"b": NUMBERS, "a": NUMBERS + 1}, path, {"by": "hand"})
    source = weight_files.read_weights(path)
    assert source.kind == "safetensors" and source.details == {"by": "hand"}
    np.testing.assert_array_equal(source.tensors["a"], NUMBERS + 1, strict=True)
    entry = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}
    other = {"dtype": "U8", "shape": [1], "data_offsets": [12, 13]}
    header = json.dumps({"z": entry, "a": other}).encode()
    content = len(header).to_bytes(8, "little") + header + half.tobytes() + b"7"
    path.write_bytes(content)
    source = weight_files.read_weights(path)
    assert list(source.tensors) == ["z", "a"]
    np.testing.assert_array_equal(source.tensors["z"], half, strict=True)
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match="weights: "):
            weight_files.read_weights(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(100)),
        ("empty.pth", b""),
        ("notes.txt", b"resnet"),
        ("weights.pb", b"\x0a\x20not a graph of any kind"),
        ("weights.pth", pickle.dumps({"a": 1})),
        ("weights.h5", b"\x89HDF"),
        ("weights.safetensors", bytes(20)),
        ("shape.datum", b"\x0a\x03\x0a\x01d\x12\x05\x0a\x03Abc"),
    ],
)
def test_the_error_of_what_holds_no_weights_lists_what_does(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: a file of no kind.*SavedModel"):
        weight_files.read_weights(tmp_path / name)
    with pytest.raises(InputError, match="a folder of no kind"):
        weight_files.read_weights(tmp_path)


def test_what_is_absent_is_said_to_be(tmp_path):
    with pytest.raises(InputError, match="none: no such file, folder or checkpoint"):
        weight_files.read_weights(tmp_path / "none")


def test_a_folder_of_several_checkpoints_asks_for_one(tmp_path):
    for name in ("a.index", "b.index"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="a, b"):
        weight_files.read_weights(tmp_path)
