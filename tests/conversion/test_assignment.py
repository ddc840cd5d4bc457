import json

import pytest

from delf_jax.conversion import assignment
from delf_jax.conversion.families import slim_orders

BLOCK3, BLOCK4 = 1024, 2048
ATTENTION = {
    "att/conv1/weights": (1, 1, 1024, 512),
    "att/conv1/BatchNorm/gamma": (512,),
    "att/conv1/BatchNorm/beta": (512,),
    "att/conv1/BatchNorm/moving_mean": (512,),
    "att/conv1/BatchNorm/moving_variance": (512,),
    "att/conv2/weights": (1, 1, 512, 1),
    "att/conv2/biases": (1,),
}
AUTOENCODER = {
    "ae/encode/weights": (1, 1, 1024, 128),
    "ae/encode/biases": (128,),
    "ae/decode/weights": (1, 1, 128, 1024),
    "ae/decode/biases": (1024,),
}
WHITENING = {"embed/kernel": (2048, 2048), "embed/bias": (2048,)}


def heads(shapes):
    layers, lost = assignment.layers_of(shapes)
    named, classifiers = assignment.match_heads(layers, BLOCK3, BLOCK4)
    return named, [layer.scope for layer in classifiers], lost


def test_heads_are_matched_by_their_shapes():
    named, classifiers, lost = heads(ATTENTION | AUTOENCODER | WHITENING)
    assert not classifiers and not lost
    assert named["params/local/attention/conv1/kernel"] == "att/conv1/weights"
    assert named["batch_stats/local/attention/conv1/var"] == (
        "att/conv1/BatchNorm/moving_variance"
    )
    assert named["params/local/attention/conv2/bias"] == "att/conv2/biases"
    assert named["params/local/autoencoder/reduce/kernel"] == "ae/encode/weights"
    assert named["params/local/autoencoder/expand/bias"] == "ae/decode/biases"
    assert named["params/whitening/bias"] == "embed/bias"
    assert len(named) == len(ATTENTION | AUTOENCODER | WHITENING)


def test_order_in_the_file_does_not_matter():
    shapes = ATTENTION | AUTOENCODER | WHITENING
    backwards = dict(reversed(shapes.items()))
    assert heads(backwards)[0] == heads(shapes)[0]


def test_without_a_decoder_the_one_other_layer_on_block3_reduces():
    encoder = {n: s for n, s in AUTOENCODER.items() if "encode" in n}
    named, _, _ = heads(ATTENTION | encoder)
    assert named["params/local/autoencoder/reduce/kernel"] == "ae/encode/weights"
    assert "params/local/autoencoder/expand/kernel" not in named


def test_classifiers_are_matched_by_their_scope():
    shapes = ATTENTION | {
        "block/logits/weights": (1, 1, 1024, 586),
        "arcface/weights": (2048, 81313),
    }
    named, classifiers, _ = heads(shapes)
    assert classifiers == ["block/logits", "arcface"]
    assert not any("autoencoder" in ours or "whitening" in ours for ours in named)


def test_words_of_the_scope_decide_between_layers_of_one_shape():
    shapes = {"prelogits/kernel": (2048, 512), "projector/kernel": (2048, 512)}
    assert heads(shapes)[0] == {"params/whitening/kernel": "prelogits/kernel"}


def test_what_has_a_second_candidate_is_not_chosen():
    shapes = {"a/kernel": (2048, 512), "b/kernel": (2048, 512)}
    assert heads(shapes)[0] == {}


def test_a_normalisation_beside_its_convolution_belongs_to_it():
    shapes = {
        "att/bn1/gamma": (512,),
        "att/conv1/kernel": (1, 1, 1024, 512),
        "att/conv2/kernel": (1, 1, 512, 1),
    }
    named, _, lost = heads(shapes)
    assert named["params/local/attention/conv1/scale"] == "att/bn1/gamma"
    assert not lost


def test_a_vector_that_fits_two_layers_is_lost():
    shapes = {"x/a/kernel": (8, 4), "x/b/kernel": (8, 4), "x/norm/gamma": (4,)}
    assert heads(shapes)[2] == ["x/norm/gamma"]


def opaque(shapes):
    return {f"Const_{i}": shape for i, shape in enumerate(shapes)}


@pytest.mark.golden
@pytest.mark.parametrize("depth", [50, 101])
def test_a_backbone_without_names_is_matched_by_the_order_of_its_graph(golden, depth):
    rows = json.loads((golden / f"variables_slim_r{depth}.json").read_text())
    rows = [row for row in rows if row["name"].startswith("resnet")]
    shapes = opaque(tuple(row["shape"]) for row in rows)
    layers = assignment.layers_in_order(shapes)
    found = [assignment.match_backbone(layers, order) for order in slim_orders()]
    (named,) = [names for names in found[::2] if names]  # with block4
    assert len(named) == len(rows)
    numbered = {f"Const_{i}": row["name"] for i, row in enumerate(rows)}
    kernel = named["params/backbone/block2_unit1/shortcut/kernel"]
    assert numbered[kernel].endswith("block2/unit_1/bottleneck_v1/shortcut/weights")
    var = named["batch_stats/backbone/block4_unit3/conv3/var"]
    assert numbered[var].endswith(
        "block4/unit_3/bottleneck_v1/conv3/BatchNorm/moving_variance"
    )


def test_another_network_is_no_backbone():
    layers = assignment.layers_in_order(opaque([(7, 7, 3, 64), (64,), (3, 3, 64, 64)]))
    assert [
        x for x in map(assignment.match_backbone, [layers] * 4, slim_orders()) if x
    ] == []


def test_constants_are_named_by_what_computes_with_them():
    nodes = [
        ("Const_1", "Const", []),
        ("Const_1/read", "Identity", ["Const_1"]),
        ("gamma", "Const", []),
        ("beta", "Const", []),
        ("m", "Const", []),
        ("v", "Const", []),
        ("loop/Enter", "Enter", ["Const_1/read"]),
        ("b", "Const", []),
        ("size", "Const", []),
        ("a/conv1/Conv2D", "Conv2D", ["image", "loop/Enter"]),
        ("a/conv1/BatchNorm/FusedBatchNormV3", "FusedBatchNormV3",
         ["a/conv1/Conv2D:0", "gamma", "beta", "m", "v", "^loop"]),
        ("a/fc/BiasAdd", "BiasAdd", ["a/conv1/BatchNorm/FusedBatchNormV3", "b"]),
        ("resize", "ResizeBilinear", ["image", "size"]),
    ]  # fmt: skip
    assert assignment.names_in_graph(nodes) == {
        "Const_1": "a/conv1/weights",
        "gamma": "a/conv1/BatchNorm/gamma",
        "beta": "a/conv1/BatchNorm/beta",
        "m": "a/conv1/BatchNorm/moving_mean",
        "v": "a/conv1/BatchNorm/moving_variance",
        "b": "a/fc/biases",
    }
