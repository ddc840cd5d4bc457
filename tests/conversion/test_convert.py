import json
import pickle

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from delf_jax.cli import main
from delf_jax.conversion.convert import convert, read_mapping
from delf_jax.conversion.families import IMAGENET
from delf_jax.extraction import extract, model_folder
from delf_jax.extraction.settings import settings_for
from delf_jax.files import InputError, sha256_of
from delf_jax.formats.delf import datum
from delf_jax.models import architecture
from tests.helpers import naive_lite, naive_resnet, tensorflow_files
from tests.helpers.foreign_weights import (
    BLOCK3,
    BLOCK4,
    UNITS,
    WIDTH,
    delf_of_tensorflow_1,
    find,
    golden_weights,
    pycls_delg,
    saved_model_of,
    slim_weights,
    tf2_heads,
    unknown_heads,
)
from tests.helpers.naive_resnet import APPLICATIONS, KERAS, TF2, TORCHVISION
from tests.helpers.original_names import variables_from_keras


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
    text = capsys.readouterr().out
    assert "left out, the optimiser's: 1 (optimizer/_variables/1)" in text
    assert "left out, only training needs it: 5" in text
    assert "block3_strides true is assumed: --set=block3_strides=false" in text
    assert f"match a.jpg b.jpg --model='{out}'" in text
    model = model_folder.load_model(out)
    settings = settings_for(model, image_scales=(1.0,), global_scales=(0,))
    (found,) = extract.extract_features(model, [image], settings)
    assert found.local.descriptors.shape[1] == 6
    assert found.global_descriptor.shape == (10,)


def test_settings_on_the_command_line_are_numbers_and_flags(delg, tmp_path, capsys):
    settings = ["--set=block3_strides=false", "--set=attention_threshold=175"]
    assert main(["convert", str(delg), f"--out={tmp_path / 'm'}", *settings]) == 0
    config, _ = model_folder.read_model(tmp_path / "m")
    assert config["architecture"]["block3_strides"] is False
    assert config["extraction"]["attention_threshold"] == 175
    text = capsys.readouterr().out
    assert "assumed" not in text and "no attention threshold" not in text
    with pytest.raises(SystemExit):
        main(["convert", str(delg), f"--out={tmp_path / 'm'}", "--set=block3_strides"])


def test_weights_are_kept_to_the_bit(rng, delg, tmp_path):
    network = convert(delg, tmp_path / "m")
    _, stored = model_folder.read_model(tmp_path / "m")
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


@pytest.mark.parametrize("out", ["a folder", "a file", "."])
def test_what_stands_at_out_is_kept(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(InputError, match=f"{out} exists: remove it, or choose another"):
        convert("no such weights", out)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a file", "a folder"]


def test_a_download_keeps_its_name_where_its_weights_are_in_a_folder(rng, tmp_path):
    source = tmp_path / "r50delg_gldv2clean_20200914"
    named = slim_weights(rng) | unknown_heads(rng)
    saved_model_of(named, source / "model")
    network = convert(source, tmp_path / "m")
    assert network.extraction["attention_threshold"] == 454.6
    provenance = provenance_of(tmp_path / "m")
    assert provenance["converted_from"] == source.name


def test_a_folder_of_checkpoints_gives_its_only_one(delg, tmp_path):
    network = convert(delg.parent, tmp_path / "m", settings={"block3_strides": False})
    assert network.architecture["block3_strides"] is False
    config, _ = model_folder.read_model(tmp_path / "m")
    assert config["provenance"]["converted_from"] == "delf_tf2-ckpt"


def test_a_projection_beside_the_weights_is_used(rng, tmp_path, image):
    source = delf_of_tensorflow_1(rng, tmp_path / "delf_gld_20190411")
    mean = rng.normal(size=BLOCK3).astype(np.float32)
    projection = np.linalg.qr(rng.normal(size=(BLOCK3, BLOCK3)))[0].astype(np.float32)
    (source / "pca").mkdir()
    datum.write_datum(source / "pca" / "mean.datum", mean)
    datum.write_datum(source / "pca" / "pca_proj_mat.datum", projection)
    convert(source, tmp_path / "m", settings={"attention_threshold": 0.0})
    config, _ = model_folder.read_model(tmp_path / "m")
    assert config["extraction"]["pca"]["mean"] == "pca/mean.datum"
    assert len(config["provenance"]["files"]) == 4
    model = model_folder.load_model(tmp_path / "m")
    settings = settings_for(model, image_scales=(1.0,))
    np.testing.assert_array_equal(settings.pca.projection, projection)
    (plain,) = extract.extract_features(model, [image], settings._replace(pca=None))
    (found,) = extract.extract_features(model, [image], settings)
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
    assert "does not match 64 dimensions" in capsys.readouterr().out


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
    assert main(command) == 2  # Forgotten, what was filled in is not lost.
    assert json.loads(template.read_text()) == content
    assert main([*command, f"--mapping={template}"]) == 0
    model = model_folder.load_model(tmp_path / "m")
    assert model.config["architecture"]["global_dimension"] == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object"),
        ({"family": "vgg"}, "family 'vgg': use one of"),
        ({"drop": "all"}, "drop must be a list"),
        ({"params/whitening/kernel": 3}, "params/whitening/kernel: expected the name"),
    ],
)
def test_a_mapping_file_of_another_form_is_refused(tmp_path, content, message):
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_mapping(tmp_path / "m.json")


def test_what_is_left_empty_in_a_mapping_file_is_not_mapped(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"a": "", "b": "x", "drop": ["y*"]}))
    path = tmp_path / "m.json"
    assert read_mapping(path) == (None, {"b": "x"}, ("y*",), path)


def test_a_mapping_file_keeps_what_it_says_when_it_is_not_enough(rng, tmp_path):
    named = slim_weights(rng) | unknown_heads(rng)
    named["DELG/another/weights"] = np.ones_like(named["DELG/pooled/weights"])
    lost = "resnet_v1_50/block2/unit_1/bottleneck_v1/conv2/weights"
    named["DELG/lost/weights"] = named.pop(lost)
    tensorflow_files.write_bundle(tmp_path / "model.ckpt", named)
    command = ["convert", str(tmp_path / "model.ckpt"), f"--out={tmp_path / 'm'}"]
    template = tmp_path / "m.mapping.json"
    half = {
        "family": "slim",
        "params/whitening/kernel": "DELG/pooled/weights",
        "params/whitening/bias": "DELG/pooled/biases",
        "drop": ["DELG/another/*"],
    }
    template.write_text(json.dumps(half))
    command.append(f"--mapping={template}")
    assert main(command) == 2
    content = json.loads(template.read_text())
    assert content.pop("drop") == ["DELG/another/*", "DELG/lost/weights"]
    assert content.items() >= {k: half[k] for k in half if k != "drop"}.items()
    ours = "params/backbone/block2_unit1/conv2/kernel"
    assert content[ours] == ""
    content |= {ours: "DELG/lost/weights", "drop": ["DELG/another/*"]}
    template.write_text(json.dumps(content))
    assert main(command) == 0
    model = model_folder.load_model(tmp_path / "m")
    assert model.config["architecture"]["global_dimension"] == 10


def test_a_constant_larger_than_any_weight_is_refused(tmp_path):
    """One value with the shape of many takes no room in a file."""
    name, path = "resnet_v1_50/conv1/weights", tmp_path / "huge.pb"
    sizes = tensorflow_files.shape([7, 7, 3, 1 << 40])
    tensor = tensorflow_files.message((1, 1), (2, sizes), (5, 1.0))
    value = tensorflow_files.message((8, tensor))
    nodes = [
        tensorflow_files.node(name, "Const", value=value),
        tensorflow_files.node("resnet_v1_50/conv1/Conv2D", "Conv2D", ["x", name]),
    ]
    path.write_bytes(tensorflow_files.message(*((1, node) for node in nodes)))
    with pytest.raises(InputError, match=r"huge\.pb.*only 1 values for \[7, 7, 3"):
        convert(path, tmp_path / "m")


def test_a_model_folder_is_not_converted_again(tiny_model, tmp_path):
    with pytest.raises(InputError, match="--model"):
        convert(tiny_model, tmp_path / "m")


@pytest.mark.golden
def test_a_network_that_is_too_small_to_be_one_is_refused(golden, tmp_path):
    with pytest.raises(InputError, match="matches no depth"):
        convert(golden / "tfbundle" / "delf_weights", tmp_path / "m")


def test_state_dicts_of_pytorch_extract_global_features(rng, tmp_path, image, capsys):
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    named["fc.weight"] = np.zeros((7, 128), np.float32)
    safetensors.numpy.save_file(named, tmp_path / "resnet.safetensors")
    network = convert(tmp_path / "resnet.safetensors", tmp_path / "m")
    assert "index photos/" in capsys.readouterr().out
    stored = flatten_dict(model_folder.read_model(tmp_path / "m")[1], sep="/")
    jax.tree.map(np.testing.assert_array_equal, stored, network.variables)
    model = model_folder.load_model(tmp_path / "m")
    (found,) = extract.extract_features(model, [image], settings_for(model))
    assert found.global_descriptor.shape == (128,)
    assert found.local is None or len(found.local.descriptors) == 0


def test_efficientnet_lite_extracts_global_features(rng, tmp_path, image):
    weights = naive_lite.random_weights(rng)
    safetensors.numpy.save_file(weights, tmp_path / "lite2.safetensors")
    network = convert(tmp_path / "lite2.safetensors", tmp_path / "m")
    assert {"_fc.weight", "_fc.bias"} == network.assigned.dropped.keys()
    model = model_folder.load_model(tmp_path / "m")
    assert "EfficientNet-Lite2" in repr(model) and "descriptor of 1280" in repr(model)
    settings = settings_for(model)._replace(image_scales=(1.0,), global_scales=(0,))
    (found,) = extract.extract_features(model, [image], settings)
    pixels = (image - np.array(IMAGENET["pixel_mean"])) / IMAGENET["pixel_std"]
    cells = naive_lite.forward(weights, pixels)["block4"]
    pooled = (np.maximum(cells, 1e-6) ** 3).mean((0, 1)) ** (1 / 3)
    expected = pooled / np.linalg.norm(pooled)
    np.testing.assert_allclose(found.global_descriptor, expected, atol=1e-5)


def test_other_efficientnets_are_refused(rng, tmp_path):
    weights = naive_lite.random_weights(rng)
    squeeze = {"_blocks.0._se_reduce.weight": np.zeros((8, 32, 1, 1), np.float32)}
    safetensors.numpy.save_file(weights | squeeze, tmp_path / "b2.safetensors")
    with pytest.raises(InputError, match="1 of its tensors have no place"):
        convert(tmp_path / "b2.safetensors", tmp_path / "m")


def test_the_delg_in_pytorch_extracts_both(rng, tmp_path, image):
    safetensors.numpy.save_file(pycls_delg(rng), tmp_path / "delg.safetensors")
    convert(tmp_path / "delg.safetensors", tmp_path / "m")
    model = model_folder.load_model(tmp_path / "m")
    (found,) = extract.extract_features(model, [image], settings_for(model))
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


def write_h5(path, named):
    """As Keras writes it: a group for each layer, which lists its weights."""
    h5py = pytest.importorskip("h5py")
    layers = {}
    for name in named:
        layers.setdefault(name.split("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group[f"{name}:0"] = named[name]


KERAS_1 = {
    "kernel": "W",
    "bias": "b",
    "moving_mean": "running_mean",
    "moving_variance": "running_std",  # which is a variance
}


@pytest.mark.parametrize("family", [KERAS, APPLICATIONS], ids=["keras", "applications"])
def test_keras_files_are_read(rng, tmp_path, family):
    named = naive_resnet.random_weights(family, UNITS, WIDTH, rng)
    write_h5(tmp_path / "resnet.h5", named)
    network = convert(tmp_path / "resnet.h5", tmp_path / "m")
    assert network.architecture["layout"] == "v1"
    kernel = network.variables["params/backbone/conv1/kernel"]
    stored = named[f"{family.first[0]}/kernel"]
    np.testing.assert_array_equal(kernel, stored[:, :, ::-1])


def test_files_of_keras_1_are_those_of_later_ones(rng, tmp_path):
    named = naive_resnet.random_weights(KERAS, UNITS, WIDTH, rng)
    first = {}
    for name, x in named.items():
        layer, leaf = name.split("/")
        first[f"{layer}/{layer}_{KERAS_1.get(leaf, leaf)}"] = x
    write_h5(tmp_path / "old.h5", first)
    network = convert(tmp_path / "old.h5", tmp_path / "m")
    expected = find(named, "keras_h5").variables
    assert network.variables.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(network.variables[name], value)


def test_for_training_as_the_original_did_keras_weights_fit_its_layout(rng):
    """No epsilon to make up for, and no bias lost."""
    named = naive_resnet.random_weights(KERAS, UNITS, WIDTH, rng)
    variables = find(named, "keras_h5", layout="keras").variables
    var = variables["batch_stats/backbone/conv1/var"]
    np.testing.assert_array_equal(var, named["bn_conv1/moving_variance"])
    bias = variables["params/backbone/conv1/bias"]
    np.testing.assert_array_equal(bias, named["conv1/bias"])


def tree_of(tf, named):
    """Variables by attribute, as the original's model holds them."""
    children = {}
    for name, x in named.items():
        first, _, rest = name.partition("/")
        children.setdefault(first, {})[rest] = x
    return tf.train.Checkpoint(
        **{
            first: tf.Variable(rest[""]) if "" in rest else tree_of(tf, rest)
            for first, rest in children.items()
        }
    )


@pytest.mark.slow
@pytest.mark.golden
def test_a_full_delg_that_tensorflow_saved_is_the_one_given_directly(golden, tmp_path):
    tf = pytest.importorskip("tensorflow")
    named = golden_weights(golden, "variables_keras_delg.json")
    checkpoint = tf.train.Checkpoint(model=tree_of(tf, named))
    folder = tmp_path / "delf_tf2-ckpt"
    tf.train.CheckpointManager(checkpoint, str(folder), 2).save(checkpoint_number=7)
    convert(folder, tmp_path / "m", settings={"block3_strides": False})
    model = model_folder.load_model(tmp_path / "m")
    module, variables = architecture.fold_batch_norm(
        architecture.build({"name": "delg", "layout": "keras"}),
        variables_from_keras(named),
    )
    image = np.load(golden / "extraction.npz")["image"]
    settings = settings_for(model, image_scales=(1.0,), global_scales=(0,))
    direct = model._replace(module=module, variables=variables)
    (ours,) = extract.extract_features(model, [image], settings)
    (expected,) = extract.extract_features(direct, [image], settings)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.slow
def test_an_exported_model_is_read_by_the_names_of_its_variables(rng, tmp_path):
    tf = pytest.importorskip("tensorflow")
    named = naive_resnet.random_weights(KERAS, UNITS, WIDTH, rng)
    heads = tf2_heads(rng)
    layers = {
        "attention/conv1": "attention/attn_conv1",
        "attention/conv2": "attention/attn_conv2",
        "autoencoder/conv1": "autoencoder/autoenc_conv1",
        "autoencoder/conv2": "autoencoder/autoenc_conv2",
        "backbone/embedding_layer": "embedding_layer",
        "attn_classification": "att_fc",
    }
    for name, x in heads.items():
        scope, _, leaf = name.rpartition("/")
        named[f"{layers.get(scope, scope)}/{leaf}".strip("/")] = x
    module = tf.Module()
    # Whatever the attributes are called: a list has numbers alone.
    module.parts = [tf.Variable(x, name=name) for name, x in named.items()]

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def serve(input_image):
        x = tf.image.resize(tf.cast(input_image, tf.float32)[None], (20, 20))
        x = tf.nn.max_pool2d(x, 3, 2, "VALID") + tf.add_n(
            [tf.reduce_sum(part) for part in module.parts]
        )
        return {"features": tf.nn.max_pool2d(x, 1, 2, "VALID")}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "saved"), {"serving_default": serve})
    network = convert(tmp_path / "saved", tmp_path / "m")
    assert network.architecture["name"] == "delg"
    assert network.architecture["block3_strides"] is True
    assert network.extraction["resize"] == "half_pixel"
    for ours, theirs in network.assigned.named.items():
        if ours in network.variables:
            np.testing.assert_array_equal(network.variables[ours], named[theirs])
    names = [file["name"] for file in provenance_of(tmp_path / "m")["files"]]
    assert names[0] == "saved_model.pb" and len(names) == 3


def provenance_of(folder):
    return json.loads((folder / "config.json").read_text())["provenance"]


@pytest.mark.slow
@pytest.mark.parametrize("named_constants", [True, False])
def test_a_frozen_graph_is_read_by_its_operations(rng, tmp_path, named_constants):
    tf = pytest.importorskip("tensorflow").compat.v1
    named = slim_weights(rng) | unknown_heads(rng)
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    with tf.Graph().as_default() as graph:
        image = tf.placeholder(tf.float32, [1, None, None, 3], "input_image")
        image = tf.image.resize_bilinear(image, (33, 33))
        for name, x in named.items():
            scope, _, leaf = name.rpartition("/")
            if leaf != "weights":
                continue

            def constant(name):
                found = tf.constant(named[name], name=name if named_constants else None)
                return tf.identity(found, name=f"{name}/read")

            data = tf.zeros([1, 9, 9, x.shape[2]])
            strides = [1, 2, 2, 1] if "block3/unit_6" in scope else [1, 1, 1, 1]
            y = tf.nn.conv2d(
                data, constant(name), strides, "SAME", name=f"{scope}/Conv2D"
            )
            norm = [f"{scope}/BatchNorm/{leaf}" for leaf in leaves]
            if norm[0] in named:
                name = f"{scope}/BatchNorm/FusedBatchNorm"
                arguments = map(constant, norm)
                tf.nn.fused_batch_norm(y, *arguments, is_training=False, name=name)
            else:
                tf.nn.bias_add(y, constant(f"{scope}/biases"), name=f"{scope}/BiasAdd")
        tf.constant(np.ones((4, 4), np.float32), name="no_weight")
    (tmp_path / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    network = convert(tmp_path / "frozen.pb", tmp_path / "m")
    assert network.architecture["name"] == "delg"
    assert network.extraction["resize"] == "legacy"
    reason = network.assigned.dropped["no_weight"]
    assert reason == "a constant that no layer computes with"
    expected = find(named).variables
    assert network.variables.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(network.variables[name], value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras' own, by numpy 2
def test_keras_own_resnet_gives_the_same_maps(rng, tmp_path):
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    theirs = keras.applications.ResNet50(weights=None, include_top=False)
    for layer in theirs.layers:
        if layer.name.endswith("_bn"):
            shape = layer.gamma.shape
            values = rng.uniform(0.5, 1.5, (4, *shape))
            values[0] *= 0.3 if layer.name.endswith("3_bn") else 1
            layer.set_weights(list(values))
    theirs.save(tmp_path / "resnet50.h5")
    convert(tmp_path / "resnet50.h5", tmp_path / "m")
    model = model_folder.load_model(tmp_path / "m")
    image = rng.integers(0, 255, (150, 171, 3)).astype(np.float32)
    prepared = keras.applications.resnet.preprocess_input(image[None].copy())
    block3 = keras.Model(
        theirs.inputs[0],
        [theirs.get_layer("conv4_block6_out").output, theirs.outputs[0]],
    )
    expected = [np.asarray(x) for x in block3(prepared)]
    mean, std = (model.config["extraction"][f"pixel_{n}"] for n in ("mean", "std"))
    normalised = ((image - mean) / std)[None].astype(np.float32)
    ours = jax.jit(model.module.apply)(model.variables, normalised)
    scale = np.abs(expected[0]).max()
    np.testing.assert_allclose(ours["block3"], expected[0], atol=2e-5 * scale)
    descriptor = naive_resnet.gem(expected[1][0])
    np.testing.assert_allclose(ours["global_descriptor"][0], descriptor, rtol=1e-3)


def test_whitening_of_sfm120k_becomes_the_models_own(rng, tmp_path, image):
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    weights, file = tmp_path / "resnet.safetensors", tmp_path / "whitening.pkl"
    safetensors.numpy.save_file(named, weights)
    projection, mean = rng.normal(size=(BLOCK4, BLOCK4)), rng.normal(size=BLOCK4) / 9
    constants = {"kernel": projection.T, "bias": -projection @ mean}
    layer = {f"{k}_initializer": {"config": {"value": v}} for k, v in constants.items()}
    file.write_bytes(pickle.dumps(layer))
    arguments = ["convert", str(weights), f"--whitening={file}"]
    assert main([*arguments, f"--out={tmp_path / 'm'}"]) == 0
    model = model_folder.load_model(tmp_path / "m")
    settings = settings_for(model, image_scales=(1.0,), global_scales=(0,))
    (found,) = extract.extract_features(model, [image], settings)
    plain = settings._replace(global_pca=None)
    (before,) = extract.extract_features(model, [image], plain)
    expected = before.global_descriptor @ constants["kernel"] + constants["bias"]
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(found.global_descriptor, expected, atol=1e-5)
    files = provenance_of(tmp_path / "m")["files"]
    assert [each["name"] for each in files] == ["resnet.safetensors", "whitening.pkl"]


def test_whitening_of_another_network_is_refused(rng, tmp_path, delg):
    file = tmp_path / "whitening.pkl"
    layer = {"kernel": np.eye(3), "bias": np.zeros(3)}
    layer = {f"{k}_initializer": {"config": {"value": v}} for k, v in layer.items()}
    file.write_bytes(pickle.dumps(layer))
    with pytest.raises(InputError, match="of backbones, and this is no such network"):
        convert(delg, tmp_path / "m", whitening=file)
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    safetensors.numpy.save_file(named, tmp_path / "resnet.safetensors")
    message = f"whitens descriptors of 3 dimensions, and those .* {BLOCK4}"
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "resnet.safetensors", tmp_path / "m", whitening=file)
    assert not (tmp_path / "m").exists()
