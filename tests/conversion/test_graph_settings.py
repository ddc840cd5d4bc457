import pytest

from delf_jax.conversion.families import architecture_of, resize_of
from delf_jax.formats.tensorflow import graph_def
from tests.helpers import tensorflow_files


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
