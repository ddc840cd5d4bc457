import json

import naive_resnet
import numpy as np
import pytest
import safetensors.numpy
import tensorflow_files
from naive_resnet import APPLICATIONS, KERAS, TF2, TORCHVISION
from test_conversion import (
    BLOCK3,
    SHALLOW,
    UNITS,
    WIDTH,
    pycls_delg,
    slim_heads,
    slim_weights,
    tf2_heads,
    unknown_heads,
)

from delf_jax import extraction, weights
from delf_jax.cli import main
from delf_jax.convert import convert, read_mapping
from delf_jax.files import InputError, sha256_of
from delf_jax.formats import datum
from delf_jax.settings import settings_for


@pytest.fixture
def delg(rng, tmp_path):
    """The prefix of a checkpoint as TensorFlow 2's training writes it."""
    named = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng) | tf2_heads(rng)
    ending = "/.ATTRIBUTES/VARIABLE_VALUE"
    arrays = {f"model/{n}{ending}": np.asarray(x) for n, x in named.items()}
    arrays[f"optimizer/_variables/1{ending}"] = np.ones(3, np.float32)
    arrays[f"save_counter{ending}"] = np.int64(3) * np.ones((), np.int64)
    folder = tmp_path / "delf_tf2-ckpt"
    folder.mkdir()
    tensorflow_files.write_bundle(folder / "ckpt-7", arrays)
    return folder / "ckpt-7"


@pytest.fixture
def image(rng):
    return rng.integers(0, 255, (90, 120, 3), np.uint8)


def test_a_checkpoint_becomes_a_model_that_extracts(delg, tmp_path, image, capsys):
    out = tmp_path / "my models" / "delg"
    assert main(["convert", str(delg), f"--out={out}"]) == 0
    told = capsys.readouterr().out
    assert "left out, the optimiser's: 1 (optimizer/_variables/1)" in told
    assert "left out, only training needs it: 5" in told
    assert f"match a.jpg b.jpg --model='{out}'" in told
    model = weights.load_model(out)
    settings = settings_for(model, image_scales=(1.0,), global_scales=(0,))
    (found,) = extraction.extract_features(model, [image], settings)
    assert found.local.descriptors.shape[1] == 6
    assert found.global_descriptor.shape == (10,)


def test_weights_are_kept_to_the_bit(rng, delg, tmp_path):
    network = convert(delg, tmp_path / "m")
    _, stored = weights.read_model(tmp_path / "m")
    kernel = stored["params"]["backbone"]["conv1"]["kernel"]
    assert kernel.dtype == np.float32
    name = "params/backbone/conv1/kernel"
    np.testing.assert_array_equal(kernel, network.variables[name])


def test_provenance_names_files_and_no_path(delg, tmp_path):
    convert(delg, tmp_path / "m")
    text = (tmp_path / "m" / "config.json").read_text()
    assert str(tmp_path) not in text
    provenance = json.loads(text)["provenance"]
    names = [file["name"] for file in provenance["files"]]
    assert names == ["ckpt-7.data-00000-of-00001", "ckpt-7.index"]
    index = delg.with_name("ckpt-7.index")
    assert provenance["files"][1]["sha256"] == sha256_of(index)
    assert provenance["kind"] == "tf_checkpoint"
    assert provenance["family"] == "DELF or DELG of TensorFlow 2"


def test_a_folder_of_checkpoints_gives_its_only_one(delg, tmp_path):
    network = convert(delg.parent, tmp_path / "m", settings={"block3_strides": False})
    assert network.architecture["block3_strides"] is False
    config, _ = weights.read_model(tmp_path / "m")
    assert config["provenance"]["converted_from"] == "delf_tf2-ckpt"


def delf_of_tensorflow_1(rng, folder):
    arrays = slim_weights(rng, SHALLOW) | slim_heads(rng)
    folder.mkdir(parents=True)
    tensorflow_files.write_bundle(folder / "model.ckpt-33", arrays)
    return folder


def test_a_projection_beside_the_weights_is_used(rng, tmp_path, image):
    source = delf_of_tensorflow_1(rng, tmp_path / "delf_gld_20190411")
    mean = rng.normal(size=BLOCK3).astype(np.float32)
    projection = np.linalg.qr(rng.normal(size=(BLOCK3, BLOCK3)))[0].astype(np.float32)
    (source / "pca").mkdir()
    datum.write_datum(source / "pca" / "mean.datum", mean)
    datum.write_datum(source / "pca" / "pca_proj_mat.datum", projection)
    convert(source, tmp_path / "m", settings={"attention_threshold": 0.0})
    config, _ = weights.read_model(tmp_path / "m")
    assert config["extraction"]["pca"]["mean"] == "pca/mean.datum"
    assert len(config["provenance"]["files"]) == 4
    model = weights.load_model(tmp_path / "m")
    settings = settings_for(model, image_scales=(1.0,))
    np.testing.assert_array_equal(settings.pca.projection, projection)
    (plain,) = extraction.extract_features(model, [image], settings._replace(pca=None))
    (found,) = extraction.extract_features(model, [image], settings)
    expected = (plain.local.descriptors - mean) @ projection.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.local.descriptors, expected, atol=1e-5)


def test_a_projection_of_other_descriptors_is_left_out(rng, tmp_path, capsys):
    source = delf_of_tensorflow_1(rng, tmp_path / "delf_v1")
    (source / "pca").mkdir()
    datum.write_datum(source / "pca" / "mean.datum", np.ones(3, np.float32))
    projection = np.eye(3, dtype=np.float32)
    datum.write_datum(source / "pca" / "pca_proj_mat.datum", projection)
    network = convert(source, tmp_path / "m")
    assert "pca" not in network.extraction
    assert "no projection of 64 dimensions" in capsys.readouterr().out


def test_a_mapping_file_that_is_filled_in_settles_what_was_ambiguous(rng, tmp_path):
    named = slim_weights(rng) | unknown_heads(rng)
    named["DELG/another/weights"] = np.ones_like(named["DELG/pooled/weights"])
    tensorflow_files.write_bundle(tmp_path / "model.ckpt", named)
    command = ["convert", str(tmp_path / "model.ckpt"), f"--out={tmp_path / 'm'}"]
    assert main(command) == 2 and not (tmp_path / "m").exists()
    template = tmp_path / "m.mapping.json"
    content = json.loads(template.read_text())
    content["params/whitening/kernel"] = "DELG/pooled/weights"
    content["params/whitening/bias"] = "DELG/pooled/biases"
    template.write_text(json.dumps(content))
    assert main([*command, f"--mapping={template}"]) == 0
    model = weights.load_model(tmp_path / "m")
    assert model.config["architecture"]["global_dimension"] == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object"),
        ({"family": "vgg"}, "family 'vgg': use one of"),
        ({"drop": "all"}, "drop must be a list"),
        ({"params/whitening/kernel": 3}, "params/whitening/kernel the name"),
    ],
)
def test_a_mapping_file_of_another_form_is_refused(tmp_path, content, message):
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_mapping(tmp_path / "m.json")


def test_what_is_left_empty_in_a_mapping_file_is_not_mapped(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"a": "", "b": "x", "drop": ["y*"]}))
    assert read_mapping(tmp_path / "m.json") == (None, {"b": "x"}, ("y*",))


def test_a_model_folder_is_not_converted_again(tiny_model, tmp_path):
    with pytest.raises(InputError, match="--model"):
        convert(tiny_model, tmp_path / "m")


@pytest.mark.golden
def test_a_network_that_is_too_small_to_be_one_is_refused(golden, tmp_path):
    with pytest.raises(InputError, match="is none of ours"):
        convert(golden / "tfbundle" / "delf_weights", tmp_path / "m")


def test_state_dicts_of_pytorch_extract_global_features(rng, tmp_path, image, capsys):
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    named["fc.weight"] = np.zeros((7, 128), np.float32)
    safetensors.numpy.save_file(named, tmp_path / "resnet.safetensors")
    convert(tmp_path / "resnet.safetensors", tmp_path / "m")
    assert "index photos/" in capsys.readouterr().out
    model = weights.load_model(tmp_path / "m")
    (found,) = extraction.extract_features(model, [image], settings_for(model))
    assert found.global_descriptor.shape == (128,)
    assert found.local is None or len(found.local.descriptors) == 0


def test_the_delg_in_pytorch_extracts_both(rng, tmp_path, image):
    safetensors.numpy.save_file(pycls_delg(rng), tmp_path / "delg.safetensors")
    convert(tmp_path / "delg.safetensors", tmp_path / "m")
    model = weights.load_model(tmp_path / "m")
    (found,) = extraction.extract_features(model, [image], settings_for(model))
    assert found.local.descriptors.shape[1] == 8
    assert found.global_descriptor.shape == (10,)


def test_other_variants_of_timm_are_refused(rng, tmp_path, capsys):
    """Such as resnet50d, whose stem is three convolutions."""
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    named["conv1.0.weight"] = named.pop("conv1.weight")
    named["conv1.3.weight"] = np.zeros((4, 4, 3, 3), np.float32)
    safetensors.numpy.save_file(named, tmp_path / "resnet50d.safetensors")
    with pytest.raises(InputError, match="2 of its tensors have no place"):
        convert(tmp_path / "resnet50d.safetensors", tmp_path / "m")
    assert "conv1.3.weight [4, 4, 3, 3]" in capsys.readouterr().out


@pytest.mark.parametrize("family", [KERAS, APPLICATIONS], ids=["keras", "applications"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_keras_files_are_read(rng, tmp_path, family, nested):
    h5py = pytest.importorskip("h5py")
    named = naive_resnet.random_weights(family, UNITS, WIDTH, rng)
    layers = {}
    for name in named:
        layers.setdefault(name.split("/")[0], []).append(name)
    with h5py.File(tmp_path / "resnet.h5", "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, names in layers.items():
            group = file.create_group(layer)
            inside = [n if nested else n.replace("/", "_") for n in names]
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in inside]
            for name, theirs in zip(inside, names, strict=True):
                group[f"{name}:0"] = named[theirs]
    if not nested and family is APPLICATIONS:
        return  # They never were written so.
    network = convert(tmp_path / "resnet.h5", tmp_path / "m")
    assert network.architecture["layout"] == "v1"
    kernel = network.variables["params/backbone/conv1/kernel"]
    stored = named[f"{family.first[0]}/kernel"]
    np.testing.assert_array_equal(kernel, stored[:, :, ::-1])
