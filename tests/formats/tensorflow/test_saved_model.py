import shutil
import warnings

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.tensorflow import graph_def, saved_model, tensorbundle
from tests.helpers import tensorflow_files
from tests.helpers.tensorflow_files import message

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def meta_graph(nodes, tags=("serve",), objects=b"", **signatures):
    graph = message(*((1, node) for node in nodes))
    pairs = [message((1, key), (2, value)) for key, value in signatures.items()]
    return message(
        (1, message(*((4, tag) for tag in tags))),
        (2, graph),
        *((5, pair) for pair in pairs),
        (7, objects),
    )


def write_model(folder, *graphs):
    folder.mkdir(exist_ok=True)
    data = message((1, 1), *((2, graph) for graph in graphs))
    (folder / "saved_model.pb").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def tf():
    with warnings.catch_warnings(action="ignore"):
        return pytest.importorskip("tensorflow", reason="needs the extra [tf]")


@pytest.mark.golden
def test_variables_of_the_original_come_by_their_name(golden):
    folder = golden / "tfbundle"
    values = np.load(folder / "values.npz")
    tensors = saved_model.read_saved_model(folder / "saved_model").tensors
    expected = {
        "conv1/kernel": "backbone/conv1/kernel",
        "bn_conv1/moving_variance": "backbone/bn_conv1/moving_variance",
        "res2a_branch2a/kernel": "backbone/l2a/conv2a/kernel",
        "bn2a_branch2a/gamma": "backbone/l2a/bn2a/gamma",
        "attention/attn_conv1/bias": "attention/conv1/bias",
        "attention/attn_conv2/kernel": "attention/conv2/kernel",
        "attention/bn_conv1/moving_variance": "attention/bn_conv1/moving_variance",
        "autoencoder/autoenc_conv1/kernel": "autoencoder/conv1/kernel",
        **{name: name for name in ("cosine_weights", "scale_factor", "large")},
    }
    assert len(tensors) == 25
    for name, key in expected.items():
        np.testing.assert_array_equal(tensors[name], values[f"model/{key}"])


@pytest.mark.golden
def test_nodes_constants_and_signature_of_the_original_are_read(golden):
    model = saved_model.read_saved_model(golden / "tfbundle" / "saved_model")
    [conv] = [node for node in model.nodes if node.op == "Conv2D"]
    function, name = conv.name.split("/")
    assert (name, graph_def.integers(conv, "strides")) == ("Conv2D", (1, 2, 2, 1))
    assert conv.inputs[1] == f"{function}/Conv2D/ReadVariableOp"
    assert [float(value) for value in model.constants.values()] == [128, 128]
    signature = model.signatures["serving_default"]
    assert signature.inputs["input_image"][1:] == ("uint8", (-1, -1, 3))
    assert signature.outputs["features"][1:] == ("float32", (-1, -1, 4))


@pytest.mark.golden
def test_a_damaged_model_is_refused_or_read_without_harm(golden, tmp_path):
    shutil.copytree(golden / "tfbundle" / "saved_model", tmp_path / "a")
    file = tmp_path / "a" / "saved_model.pb"
    data = file.read_bytes()
    file.chmod(0o644)
    for broken in tensorflow_files.damaged(data, 1997):
        file.write_bytes(broken)
        try:
            dict(saved_model.read_saved_model(file).constants)
        except InputError:
            pass


def test_the_three_ways_of_exporting_name_variables_alike(tmp_path):
    # As in the exports of the original: the path of objects differs, the names do not.
    for number, path in enumerate(
        (["_model", "backbone", "conv1", "kernel"], ["_model", "variables", "0"], ["w"])
    ):
        key = "/".join(path) + "/.ATTRIBUTES/VARIABLE_VALUE"
        edges = [
            [(1, message((1, place + 1), (2, name)))] for place, name in enumerate(path)
        ]
        name = message((6, "conv1/kernel"))
        attribute = message((1, "VARIABLE_VALUE"), (3, key))
        saved = [*edges, [(7, name)]]
        stored = [*edges, [(2, attribute)]]
        objects, bundle_graph = (
            message(*((1, message(*fields)) for fields in nodes))
            for nodes in (saved, stored)
        )
        folder = write_model(tmp_path / str(number), meta_graph([], objects=objects))
        (folder / "variables").mkdir()
        arrays = {key: KERNEL, tensorbundle.OBJECT_GRAPH_KEY: bundle_graph}
        prefix = folder / "variables" / "variables"
        tensorflow_files.write_bundle(prefix, arrays)
        tensors = saved_model.read_saved_model(folder).tensors
        assert list(tensors) == ["conv1/kernel"]
        np.testing.assert_array_equal(tensors["conv1/kernel"], KERNEL)


def test_names_are_keys_in_models_of_tensorflow_1(tmp_path):
    nodes = [tensorflow_files.node("scope/w", "VariableV2")]
    folder = write_model(tmp_path / "a", meta_graph(nodes))
    (folder / "variables").mkdir()
    tensorflow_files.write_bundle(
        folder / "variables" / "variables", {"scope/w": KERNEL}
    )
    model = saved_model.read_saved_model(folder)
    assert list(model.tensors) == ["scope/w"]
    np.testing.assert_array_equal(model.tensors["scope/w"], KERNEL)


def test_variables_that_are_absent_are_an_error(tmp_path):
    nodes = [tensorflow_files.node("scope/w", "VarHandleOp")]
    folder = write_model(tmp_path / "a", meta_graph(nodes))
    with pytest.raises(InputError, match="variables.index: absent"):
        saved_model.read_saved_model(folder)


@pytest.mark.parametrize("bare", [False, True])
def test_weights_frozen_into_a_graph_are_read_in_its_order(tmp_path, bare):
    nodes = [
        tensorflow_files.constant("b", KERNEL + 1),
        tensorflow_files.constant("a", KERNEL),
    ]
    if bare:
        path = tmp_path / "frozen.pb"
        path.write_bytes(message(*((1, node) for node in nodes)))
    else:
        path = write_model(tmp_path / "a", meta_graph(nodes))
    model = saved_model.read_saved_model(path)
    assert not model.tensors
    assert list(model.constants) == [node.name for node in model.nodes] == ["b", "a"]
    np.testing.assert_array_equal(model.constants["b"], KERNEL + 1)


def test_the_graph_for_serving_is_read(tmp_path):
    train = meta_graph([tensorflow_files.constant("train", KERNEL)], ["train"])
    serve = meta_graph([tensorflow_files.constant("serve", KERNEL)], ["gpu", "serve"])
    for graphs, name in [((train, serve), "serve"), ((train,), "train")]:
        model = saved_model.read_saved_model(write_model(tmp_path / "a", *graphs))
        assert [node.name for node in model.nodes] == [name]


def test_signatures_of_open_shapes_are_read(tmp_path):
    some = message((1, "x:0"), (2, 1), (3, tensorflow_files.shape([-1, 3])))
    any_rank = message((1, "y:0"), (2, 7), (3, message((3, 1))))
    signature = message(
        (1, message((1, "image"), (2, some))), (2, message((1, "text"), (2, any_rank)))
    )
    folder = write_model(tmp_path / "a", meta_graph([], default=signature))
    assert saved_model.read_saved_model(folder).signatures == {
        "default": (
            {"image": ("x:0", "float32", (-1, 3))},
            {"text": ("y:0", "text", None)},
        )
    }


@pytest.mark.parametrize("data", [b"", b"\x08\x01", b"PK\3\4 no graph", b"\0" * 50])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "a.pb").write_bytes(data)
    with pytest.raises(InputError, match="a.pb: damaged or of another format"):
        saved_model.read_saved_model(tmp_path / "a.pb")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(
        InputError, match="no SavedModel, as .*saved_model.pb is absent"
    ):
        saved_model.read_saved_model(tmp_path)


def test_models_that_tensorflow_saves_are_read_bit_for_bit(tf, tmp_path, rng):
    class Layer(tf.Module):
        def __init__(self, name):
            super().__init__(name)
            with self.name_scope:
                values = rng.standard_normal((3, 3, 2, 2), np.float32)
                self.kernel = tf.Variable(values, name="kernel")

        def __call__(self, x):
            return tf.nn.conv2d(x, self.kernel, 2, "SAME")

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.parts = [Layer("first"), Layer("second")]
            self.shared = self.parts[0]

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2])])
        def __call__(self, x):
            return {"y": self.parts[1](self.parts[0](x))}

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "a"))
    read = saved_model.read_saved_model(tmp_path / "a")
    expected = {v.name.split(":")[0]: v.numpy() for v in model.variables}
    assert set(read.tensors) == set(expected) == {"first/kernel", "second/kernel"}
    for name, array in expected.items():
        assert read.tensors[name].tobytes() == array.tobytes()
    assert read.signatures["serving_default"].outputs["y"].shape == (-1,) * 3 + (2,)
    assert sum(node.op == "Conv2D" for node in read.nodes) >= 2


def test_models_that_tensorflow_1_saves_or_freezes_are_read(tf, tmp_path, rng):
    v1 = tf.compat.v1
    value = rng.standard_normal((3, 3, 2, 4), np.float32)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        image = v1.placeholder(tf.float32, [None, None, None, 2], "image")
        for number in range(2):
            kernel = v1.get_variable(
                f"scope/w{number}", initializer=value + number, use_resource=False
            )
            y = tf.nn.conv2d(image, kernel, 1, "SAME", name=f"scope/conv{number}")
        session.run(v1.global_variables_initializer())
        with warnings.catch_warnings(action="ignore"):
            v1.saved_model.simple_save(
                session, str(tmp_path / "a"), {"x": image}, {"y": y}
            )
            outputs = ["scope/conv0", "scope/conv1"]
            frozen = v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), outputs
            )
    (tmp_path / "frozen.pb").write_bytes(frozen.SerializeToString())
    saved = saved_model.read_saved_model(tmp_path / "a")
    constants = saved_model.read_saved_model(tmp_path / "frozen.pb").constants
    assert saved.signatures["serving_default"].inputs["x"].name == "image:0"
    for number in range(2):
        for arrays in (saved.tensors, constants):
            array = arrays[f"scope/w{number}"]
            assert array.tobytes() == (value + number).tobytes()


def test_what_keras_exports_is_read(tf, tmp_path):
    model = tf.keras.Sequential(
        [tf.keras.Input((8, 8, 3)), tf.keras.layers.Conv2D(4, 3, name="res2a_branch2a")]
    )
    with warnings.catch_warnings(action="ignore"):
        model.export(str(tmp_path / "a"), verbose=False)
    read = saved_model.read_saved_model(tmp_path / "a").tensors
    arrays = {array.shape: array for array in read.values()}
    for variable in model.weights:
        assert arrays[tuple(variable.shape)].tobytes() == variable.numpy().tobytes()
