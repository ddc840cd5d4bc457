import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.tensorflow import graph_def, wire
from tests.helpers import tensorflow_files
from tests.helpers.tensorflow_files import message

STRIDES = message((1, message((3, b"\1\2\2\1"))))
KERNEL = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)


def graph(nodes, functions=()):
    library = [
        (1, message((1, message((1, name))), *((3, node) for node in inner)))
        for name, inner in functions
    ]
    return memoryview(message(*((1, node) for node in nodes), (2, message(*library))))


def conv(name, source, kernel):
    return tensorflow_files.node(
        name, "Conv2D", [source, kernel, "^ready"], strides=STRIDES
    )


def test_nodes_come_in_the_order_of_the_graph_then_of_its_functions():
    data = graph(
        [tensorflow_files.constant("w", KERNEL), conv("conv1", "image:0", "w")],
        [
            (
                "f",
                [
                    tensorflow_files.constant("w", KERNEL),
                    conv("conv1", "x", "w:output:0"),
                ],
            )
        ],
    )
    nodes = graph_def.graph_nodes(data)
    assert [node[:3] for node in nodes] == [
        ("w", "Const", ()),
        ("conv1", "Conv2D", ("image", "w")),
        ("f/w", "Const", ()),
        ("f/conv1", "Conv2D", ("f/x", "f/w")),
    ]


def test_attributes_are_found_by_name():
    [node] = graph_def.graph_nodes(graph([conv("c", "x", "w")]))
    assert graph_def.integers(node, "strides") == (1, 2, 2, 1)
    assert graph_def.integers(node, "dilations") == ()
    assert graph_def.attribute(node, "padding") == {}


def test_floating_constants_come_by_name_of_their_node():
    half = KERNEL.astype(np.float16)
    data = graph(
        [
            tensorflow_files.constant("w", KERNEL),
            tensorflow_files.constant("sizes", np.array([1, 2])),
            tensorflow_files.constant("b", KERNEL.astype(tensorflow_files.BFLOAT16)),
            tensorflow_files.node("no/value", "Const"),
        ],
        [("f", [tensorflow_files.constant("h", half)])],
    )
    constants = graph_def.read_constants(graph_def.graph_nodes(data), "a.pb")
    assert list(constants) == ["w", "b", "f/h"]
    assert constants.entries["f/h"][:2] == (half.dtype, half.shape)
    np.testing.assert_array_equal(constants["w"], KERNEL)
    np.testing.assert_array_equal(
        constants["b"], KERNEL.astype(tensorflow_files.BFLOAT16)
    )
    np.testing.assert_array_equal(constants["f/h"], half)


def test_a_broken_constant_is_named_when_it_is_read():
    value = message((1, 1), (2, tensorflow_files.shape([3])), (4, b"1234"))
    nodes = graph_def.graph_nodes(
        graph([tensorflow_files.node("w", "Const", value=message((8, value)))])
    )
    constants = graph_def.read_constants(nodes, "a.pb")
    with pytest.raises(InputError, match=r"^a.pb, w: .*4 bytes for float32 \[3\]"):
        constants["w"]


def test_two_nodes_of_one_name_are_malformed():
    with pytest.raises(wire.Malformed, match="one name"):
        graph_def.graph_nodes(graph([tensorflow_files.node("a", "NoOp")] * 2))
