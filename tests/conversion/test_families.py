import pytest

from delf_jax.conversion import families
from delf_jax.conversion.families import FAMILIES, architecture_of, resize_of
from delf_jax.extraction.settings import make_settings
from delf_jax.files import InputError
from delf_jax.formats.tensorflow import graph_def
from tests.helpers import naive_resnet, tensorflow_files


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("backbone/l2a/conv2a/kernel", "tf_checkpoint", "delf"),
        ("model/backbone/l2a/conv2a/kernel", "tf_checkpoint", "delf"),
        ("res2a_branch2a/kernel", "saved_model", "delf"),
        ("res2a_branch2a/kernel", "keras_h5", "keras"),
        ("res2a_branch2a/res2a_branch2a_W", "keras_h5", "keras"),
        ("conv2_block1_1_conv/kernel", "keras_h5", "applications"),
        ("resnet_v1_50/conv1/weights", "tf_checkpoint", "slim"),
        ("module.layer1.0.conv1.weight", "torch", "torchvision"),
        ("globalmodel.s1.b1.f.a.weight", "torch", "pycls"),
        ("fc_t.weight", "torch", "dolg"),
        ("dense/kernel", "keras_h5", None),
    ],
)
def test_one_name_tells_the_family(name, kind, family):
    assert families.recognise(["another", name], kind) == family


def test_an_h5_file_with_attention_is_no_imagenet_model():
    names = ["res2a_branch2a/kernel", "attention/attn_conv1/kernel"]
    assert families.recognise(names, "keras_h5") == "delf"


@pytest.mark.parametrize(
    "name",
    [
        "model/backbone/conv1/kernel/.OPTIMIZER_SLOT/optimizer/momentum",
        "optimizer/_variables/3",
        "optimizer_state.state.0.momentum_buffer",
        "resnet_v1_50/conv1/weights/Momentum",
        "save_counter",
        "global_step",
        "layer1.0.bn1.num_batches_tracked",
        "scale_factor:0",
    ],
)
def test_optimisers_and_counters_are_no_weights(name):
    assert families.no_weight(name)


@pytest.mark.parametrize("name", ["backbone/conv1/kernel", "layer1.0.bn1.weight"])
def test_weights_are_weights(name):
    assert families.no_weight(name) is None


def shapes_of(units, **others):
    layers = naive_resnet.layers(naive_resnet.APPLICATIONS, units, 4)
    name = FAMILIES["applications"].name
    return {name(f"{conv}/kernel"): shape for conv, _, shape, _ in layers} | others


def test_architecture_is_read_from_names_and_shapes():
    heads = {
        "params/local/attention/conv1/kernel": (1, 1, 64, 8),
        "params/local/autoencoder/reduce/kernel": (1, 1, 64, 6),
    }
    shapes = shapes_of((3, 4, 23), **heads)
    assert families.infer_architecture(shapes, "slim", True) == {
        "name": "delf",
        "depth": 101,
        "width": 4,
        "layout": "slim",
        "block3_strides": True,
        "attention_width": 8,
        "reduced_dimension": 6,
    }
    shapes |= {"params/whitening/kernel": (128, 10)}
    found = families.infer_architecture(shapes, "slim", False)
    assert (found["name"], found["global_dimension"]) == ("delg", 10)


def test_a_resnet_of_another_depth_is_refused():
    with pytest.raises(InputError, match=r"\[3, 8, 36, 3\].*101: \(3, 4, 23, 3\)"):
        families.infer_architecture(shapes_of((3, 8, 36, 3)), "v1.5", False)


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("delg", "r50delg_gld_20200814", {"attention_threshold": 175.0}),
        ("delg", "r50delg_gldv2clean_20200914", {"attention_threshold": 454.6}),
        ("delg", "r101delg_gldv2clean_20200914", {"attention_threshold": 357.48}),
        ("delf", "delf_gld_20190411", {"attention_threshold": 100.0}),
        ("delg", "mine", {"global_scales": (3, 4, 5), "max_features": 1000}),
        ("global", "rn101_af_gldv2clean_20200814", {"global_scales": (0, 1, 2)}),
    ],
)
def test_settings_are_those_of_the_released_configs(name, folder, expected):
    architecture = {"name": name}
    folders = ["model", folder]
    found = families.default_extraction(architecture, FAMILIES["slim"], folders)
    assert found | expected == found
    assert found["resize"] == "legacy" and found["locations"] == "delf"
    make_settings(found)


def nodes(*serialised):
    return graph_def.graph_nodes(
        memoryview(tensorflow_files.message(*((1, n) for n in serialised)))
    )


def numbers(*values):
    """An AttrValue that lists integers."""
    packed = b"".join(map(tensorflow_files.varint, values))
    return tensorflow_files.message((1, tensorflow_files.message((3, packed))))


def pool(name, side):
    size = numbers(1, side, side, 1)
    return tensorflow_files.node(
        name, "MaxPool", ["x"], ksize=size, strides=numbers(1, 2, 2, 1)
    )


@pytest.mark.parametrize("strides", [True, False])
def test_a_pool_of_one_cell_subsamples_block3(strides):
    pools = [pool("a", 3), pool("b", 1)][: 1 + strides]
    assert architecture_of(nodes(*pools)) == {"block3_strides": strides}


@pytest.mark.parametrize("stride", [2, 1])
@pytest.mark.parametrize("unit", [6, 23])
def test_slim_subsamples_in_the_last_unit_of_block3(stride, unit):
    name = f"while/resnet_v1_50/block3/unit_{unit}/bottleneck_v1/conv2/Conv2D"
    strides = numbers(1, stride, stride, 1)
    found = architecture_of(
        nodes(tensorflow_files.node(name, "Conv2D", strides=strides))
    )
    assert found == {"block3_strides": stride == 2}


@pytest.mark.parametrize("dilations", [(1, 2, 2, 1), (1, 1, 1, 1)])
def test_a_spread_block4_is_seen(dilations):
    name = "resnet_v1_50/block4/unit_1/bottleneck_v1/conv2/Conv2D"
    node = tensorflow_files.node(name, "Conv2D", dilations=numbers(*dilations))
    assert architecture_of(nodes(node)) == (
        {"block4_dilation": 2} if 2 in dilations else {}
    )


def test_so_is_one_that_is_spread_by_rearranging():
    name = "resnet_v1_50/block4/unit_1/bottleneck_v1/conv2/SpaceToBatchND"
    assert architecture_of(nodes(tensorflow_files.node(name, "SpaceToBatchND"))) == {
        "block4_dilation": 2
    }


@pytest.mark.parametrize(("centred", "resize"), [(1, "half_pixel"), (0, "legacy")])
def test_sampling_is_said_by_the_operation(centred, resize):
    attribute = tensorflow_files.message((5, centred))
    node = tensorflow_files.node("r", "ResizeBilinear", half_pixel_centers=attribute)
    assert resize_of(nodes(node)) == {"resize": resize}


def test_graphs_of_training_say_nothing():
    assert architecture_of(()) == resize_of(()) == {}
