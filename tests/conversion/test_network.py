import json
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from delf_jax.conversion.network import MappingFile
from delf_jax.extraction.model_folder import build_module
from delf_jax.files import InputError
from delf_jax.formats.tensorflow.graph_def import Node
from tests.helpers import naive_resnet
from tests.helpers.foreign_weights import (
    BLOCK3,
    BLOCK4,
    SHALLOW,
    UNITS,
    WIDTH,
    dense,
    find,
    golden_weights,
    pycls_delg,
    slim_heads,
    slim_weights,
    tf2_heads,
    unknown_heads,
)
from tests.helpers.naive_resnet import (
    APPLICATIONS,
    KERAS,
    PYCLS,
    TF2,
    TORCHVISION,
)
from tests.helpers.original_names import variables_from_keras, variables_from_slim


def assert_same(network, variables):
    """All of the expected variables but those that only training needs."""
    expected = flatten_dict(variables, sep="/")
    unused = "classifier|autoencoder/expand"
    if network.architecture["name"] == "delf":
        unused += "|block4"
    wanted = {name for name in expected if not re.search(unused, name)}
    assert set(network.variables) == wanted
    for name, value in network.variables.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def outputs(network, images):
    module = build_module(network.architecture)
    variables = unflatten_dict(network.variables, sep="/")
    return jax.jit(module.apply)(variables, np.asarray(images, np.float32))


@pytest.mark.parametrize("prefix", ["", "model/"])
def test_a_delg_of_tensorflow_2_comes_with_its_local_and_global_branch(rng, prefix):
    named = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng) | tf2_heads(rng)
    slots = {
        "optimizer/_variables/1": np.ones(3, np.float32),
        "save_counter": np.int64(3),
        "model/backbone/conv1/kernel/.OPTIMIZER_SLOT/optimizer/momentum": np.ones(2),
    }
    network = find({prefix + n: x for n, x in named.items()} | slots)
    assert network.architecture == {
        "name": "delg",
        "depth": 26,
        "width": WIDTH,
        "layout": "keras",
        "block3_strides": True,
        "attention_width": 8,
        "reduced_dimension": 6,
        "global_dimension": 10,
    }
    assert network.extraction["locations"] == "delf"
    assert_same(network, variables_from_keras(named))
    reasons = network.assigned.dropped
    assert reasons[f"{prefix}cosine_weights"] == "only training needs it"
    assert reasons[f"{prefix}autoencoder/conv2/kernel"] == "only training needs it"
    assert reasons["optimizer/_variables/1"] == "the optimiser's"
    outputs(network, np.zeros((1, 64, 64, 3)))


def test_a_delf_of_tensorflow_2_needs_no_block4(rng):
    named = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng) | tf2_heads(rng)
    named = {n: x for n, x in named.items() if "embedding" not in n}
    network = find({n: x for n, x in named.items() if "autoencoder" not in n})
    assert network.architecture["name"] == "delf"
    assert network.architecture["reduced_dimension"] == 0
    assert not any("block4" in name for name in network.variables)
    assert "backbone/l5a/conv2a/kernel" in network.assigned.dropped
    assert find(named).architecture["reduced_dimension"] == 6


def test_a_backbone_of_tensorflow_2_alone_is_pooled_by_its_mean(rng):
    named = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng)
    architecture = find(named).architecture
    assert architecture["name"] == "global" and architecture["pooling"] == "spoc"
    assert "block3_strides" not in architecture and not find(named).assumed


KERAS_PAIRS = {
    "conv1/kernel": "params/backbone/conv1/kernel",
    "bn_conv1/moving_variance": "batch_stats/backbone/conv1/var",
    "l2a/conv_shortcut/bias": "params/backbone/block1_unit1/shortcut/bias",
    "l2b/bn2a/gamma": "params/backbone/block1_unit2/conv1/scale",
    "l4b/conv2b/kernel": "params/backbone/block3_unit2/conv2/kernel",
    "l5b/bn2c/moving_mean": "batch_stats/backbone/block4_unit2/conv3/mean",
    "embedding_layer/kernel": "params/whitening/kernel",
}
KERAS_PAIRS = {f"backbone/{theirs}": ours for theirs, ours in KERAS_PAIRS.items()} | {
    "attention/conv1/bias": "params/local/attention/conv1/bias",
    "attention/bn_conv1/beta": "params/local/attention/conv1/offset",
    "attention/conv2/kernel": "params/local/attention/conv2/kernel",
    "autoencoder/conv1/kernel": "params/local/autoencoder/reduce/kernel",
}
SLIM_PAIRS = {
    "conv1/weights": "params/backbone/conv1/kernel",
    "conv1/BatchNorm/moving_variance": "batch_stats/backbone/conv1/var",
    "block1/unit_1/bottleneck_v1/shortcut/weights": (
        "params/backbone/block1_unit1/shortcut/kernel"
    ),
    "block1/unit_2/bottleneck_v1/conv1/BatchNorm/gamma": (
        "params/backbone/block1_unit2/conv1/scale"
    ),
    "block2/unit_2/bottleneck_v1/conv2/weights": (
        "params/backbone/block2_unit2/conv2/kernel"
    ),
    "block3/unit_2/bottleneck_v1/conv3/BatchNorm/moving_mean": (
        "batch_stats/backbone/block3_unit2/conv3/mean"
    ),
}
SLIM_PAIRS = {f"resnet_v1_50/{theirs}": ours for theirs, ours in SLIM_PAIRS.items()} | {
    f"attention_block/attention/compute/{theirs}": f"params/local/attention/{ours}"
    for theirs, ours in {
        "conv1/weights": "conv1/kernel",
        "conv1/BatchNorm/beta": "conv1/offset",
        "conv2/weights": "conv2/kernel",
        "conv2/biases": "conv2/bias",
    }.items()
}


def test_names_of_the_original_are_these_of_ours(rng):
    """As the original's checkpoints spell them, written down one by one."""
    keras = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng) | tf2_heads(rng)
    slim = slim_weights(rng, SHALLOW) | slim_heads(rng)
    for named, pairs in ((keras, KERAS_PAIRS), (slim, SLIM_PAIRS)):
        found = find(named).assigned.named
        assert {theirs: ours for ours, theirs in found.items()}.items() >= pairs.items()


def test_settings_that_are_asked_for_win(rng):
    named = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng) | tf2_heads(rng)
    network = find(named, block3_strides=False, attention_threshold=7.0)
    assert network.architecture["block3_strides"] is False
    assert network.extraction["attention_threshold"] == 7.0
    with pytest.raises(InputError, match="blok3"):
        find(named, blok3_strides=False)


def test_features_that_the_network_has_not_cannot_be_asked_for(rng):
    named = slim_weights(rng, SHALLOW)
    with pytest.raises(InputError, match=r"global_scales: \[0\] .* no global"):
        find(named | slim_heads(rng), global_scales=[0])
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    with pytest.raises(InputError, match="max_features: 500 .* no local"):
        find(named, max_features=500)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("image_scales", 3, "image_scales is 3: use a tuple"),
        ("pca", 5, "pca: 5 is not a projection"),
        ("gem_power", "x", "gem_power: 'x' is not allowed"),
        ("attention_width", None, "attention_width: None is not allowed"),
    ],
)
def test_settings_of_another_type_are_refused(rng, field, value, words):
    named = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng) | tf2_heads(rng)
    with pytest.raises(InputError, match=words):
        find(named, **{field: value})


def test_the_power_of_gem_is_set_of_the_network_not_of_extraction(rng):
    named = naive_resnet.random_weights(TF2, UNITS, WIDTH, rng) | tf2_heads(rng)
    network = find(named, gem_power=2.5)
    assert network.architecture["gem_power"] == 2.5
    assert "gem_power" not in network.extraction


def test_a_delf_of_tensorflow_1_keeps_its_way_of_sampling(rng):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    network = find(named | {"global_step": np.int64(5)}, path="delf_gld_20190411/model")
    assert network.architecture["name"] == "delf"
    assert network.architecture["layout"] == "slim"
    extraction = network.extraction
    assert (extraction["resize"], extraction["locations"]) == ("legacy", "delf")
    assert extraction["attention_threshold"] == 100.0
    assert_same(network, variables_from_slim(named))
    outputs(network, np.zeros((1, 64, 64, 3)))


def test_slims_own_imagenet_models_subtract_caffes_means(rng):
    named = slim_weights(rng) | {"resnet_v1_50/mean_rgb": np.ones(3, np.float32)}
    named |= {"resnet_v1_50/logits/weights": dense(rng, 1, 1, BLOCK4, 7)}
    network = find(named)
    assert network.architecture["name"] == "global"
    assert network.extraction["pixel_mean"] == (123.68, 116.779, 103.939)


def test_what_nothing_tells_is_said_to_be_assumed(rng):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    assert find(named).assumed == ("block3_strides",)
    assert find(named, block3_strides=True).assumed == ()


def test_a_released_delg_is_matched_by_its_shapes(rng):
    heads = unknown_heads(rng)
    named = {f"DELG/{n}": x for n, x in slim_weights(rng).items()} | heads
    network = find(named, path="r50delg_gldv2clean_20200914")
    assert network.assigned.evidence == "names, scopes and shapes"
    assert network.architecture["name"] == "delg"
    assert network.extraction["attention_threshold"] == 454.6
    variables = network.variables
    np.testing.assert_array_equal(
        variables["params/whitening/kernel"], heads["DELG/pooled/weights"][0, 0]
    )
    np.testing.assert_array_equal(
        variables["batch_stats/local/attention/conv1/var"],
        heads["DELG/local/att_1/BatchNorm/moving_variance"],
    )
    np.testing.assert_array_equal(
        variables["params/local/autoencoder/reduce/bias"],
        heads["DELG/ae/first/biases"],
    )
    outputs(network, np.zeros((1, 64, 64, 3)))


def test_what_is_ambiguous_is_refused_with_both_sides(rng, tmp_path, capsys):
    named = slim_weights(rng) | unknown_heads(rng)
    named["DELG/another/weights"] = dense(rng, 1, 1, BLOCK4, 10)
    template = tmp_path / "m.mapping.json"
    with pytest.raises(InputError, match=r"3 of its tensors.*m\.mapping\.json"):
        find(named, template=template)
    table = capsys.readouterr().out
    assert "DELG/pooled/weights [1, 1, 128, 10]" in table
    assert "DELG/pooled/biases [10]" in table
    assert "params/whitening/kernel (if there is one)" in table
    content = json.loads(template.read_text())
    assert content["family"] == "slim" and "params/whitening/bias" in content
    assert "DELG/another/weights" in content["drop"]


def test_a_mapping_settles_it(rng, tmp_path):
    named = slim_weights(rng) | unknown_heads(rng)
    named["DELG/another/weights"] = dense(rng, 1, 1, BLOCK4, 10)
    mapping = MappingFile(
        "slim",
        {
            "params/whitening/kernel": "DELG/pooled/weights",
            "params/whitening/bias": "DELG/pooled/biases",
        },
        ("DELG/another/*",),
    )
    network = find(named, mapping=mapping)
    assert network.architecture["global_dimension"] == 10
    assert network.assigned.dropped["DELG/another/weights"] == "the mapping drops it"


def test_a_backbone_alone_is_not_asked_for_heads(rng, tmp_path, capsys):
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    named["extra.weight"] = np.ones((3, 3), np.float32)
    template = tmp_path / "t.json"
    with pytest.raises(InputError, match="1 of its tensors"):
        find(named, "torch", template=template)
    assert "if there is one" not in capsys.readouterr().out
    content = {"family": "torchvision", "drop": ["extra.weight"]}
    assert json.loads(template.read_text()) == content


def test_what_is_to_be_dropped_and_is_not_there_is_printed(rng, capsys):
    named = naive_resnet.random_weights(TORCHVISION, UNITS, WIDTH, rng)
    named["extra[0]"] = np.ones((3, 3), np.float32)
    mapping = MappingFile(drop=("extra[0]", "fc.*", "layer9*"), path="my.json")
    find(named | {"fc.bias": np.ones(3, np.float32)}, "torch", mapping=mapping)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["my.json: layer9* of its drop matches no tensor"]


def test_a_missing_tensor_is_refused_and_named(rng, tmp_path, capsys):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    del named["resnet_v1_50/block2/unit_1/bottleneck_v1/conv2/weights"]
    template = tmp_path / "t.json"
    with pytest.raises(InputError, match="0 of its tensors.*1 of the network's"):
        find(named, template=template)
    ours = "params/backbone/block2_unit1/conv2/kernel"
    assert f"{ours} [3, 3, 8, 8]" in capsys.readouterr().out
    assert json.loads(template.read_text()) == {"family": "slim", ours: "", "drop": []}


def test_a_wrong_shape_is_refused_and_named(rng, tmp_path, capsys):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    theirs = "resnet_v1_50/block2/unit_1/bottleneck_v1/conv2/weights"
    named[theirs] = named[theirs][:1]
    with pytest.raises(InputError, match="1 of the network's"):
        find(named, template=tmp_path / "t.json")
    assert f"{theirs} is [1, 3, 8, 8]" in capsys.readouterr().out


def test_a_shape_that_no_memory_holds_is_refused_before_it_is_read(rng, tmp_path):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    scope = "resnet_v1_50/block2/unit_1/bottleneck_v1"
    huge = {
        f"{scope}/conv2/weights": (1 << 40,),
        "resnet_v1_50/conv1/weights": (7, 7, 3, 1 << 40),
        f"{scope}/conv2/BatchNorm/gamma": (1, 1, 1, 1 << 40),
    }
    for theirs, shape in huge.items():
        changed = named | {theirs: np.broadcast_to(np.float32(1), shape)}
        with pytest.raises(InputError, match="of the network's"):
            find(changed, template=tmp_path / "t.json")


def test_a_mapping_to_an_unknown_tensor_is_refused(rng):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    named_so = {"params/whitening/kernel": "nowhere"}
    mapping = MappingFile("slim", named_so, path="my.json")
    with pytest.raises(InputError, match=r"my\.json: .*kernel.*no tensor nowhere"):
        find(named, mapping=mapping)


def test_a_mapping_of_a_variable_that_no_network_has_is_refused(rng):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    theirs = "attention_block/attention/compute/conv2/biases"
    mapping = MappingFile("slim", {"params/withening/bias": theirs}, path="my.json")
    with pytest.raises(InputError, match=r"my\.json: .*withening/bias: this network"):
        find(named, mapping=mapping)


def test_two_tensors_for_one_place_are_refused(rng):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    twice = {f"teacher/{name}": x for name, x in named.items()}
    with pytest.raises(InputError, match=r"resnet_v1_50/conv1/weights and teacher/"):
        find(named | twice)


def test_a_variance_below_zero_is_none(rng):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    named["resnet_v1_50/conv1/BatchNorm/moving_variance"][1] = -1
    with pytest.raises(InputError, match="conv1/.*moving_variance has negative values"):
        find(named)


def test_a_weight_that_is_no_number_is_refused(rng):
    named = slim_weights(rng, SHALLOW) | slim_heads(rng)
    named["attention_block/attention/compute/conv2/biases"][0] = np.nan
    with pytest.raises(InputError, match="conv2/biases is not finite"):
        find(named)


def test_unknown_weights_are_refused_with_what_is_known():
    with pytest.raises(InputError, match="none of its 1 tensors.*torchvision"):
        find({"vit.blocks.0.weight": np.ones((2, 2), np.float32)}, "torch")


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (TORCHVISION, "torch"),
        (PYCLS, "torch"),
        (APPLICATIONS, "keras_h5"),
        (KERAS, "keras_h5"),
    ],
    ids=["torchvision", "pycls", "applications", "keras"],
)
def test_foreign_resnets_give_the_numbers_of_a_naive_one(rng, family, kind):
    named = naive_resnet.random_weights(family, UNITS, WIDTH, rng)
    network = find(named, kind)
    assert network.architecture["name"] == "global"
    # What their own preprocessing gives for an RGB image in 0 to 255.
    image = rng.uniform(0, 255, (65, 76, 3))  # an odd and an even side
    mean, std = (network.extraction[f"pixel_{name}"] for name in ("mean", "std"))
    theirs = (image - mean) / std
    if family is not TORCHVISION:
        theirs = theirs[..., ::-1]  # blue first
    *_, block3, block4 = naive_resnet.forward(family, named, theirs, UNITS)
    ours = outputs(network, ((image - mean) / std)[None])
    scale = np.abs(block3).max()
    np.testing.assert_allclose(ours["block3"][0], block3, atol=1e-5 * scale)
    expected = naive_resnet.gem(block4)
    np.testing.assert_allclose(ours["global_descriptor"][0], expected, rtol=1e-4)


def test_the_delg_in_pytorch_comes_with_descriptors_attention_and_whitening(rng):
    named = pycls_delg(rng)
    network = find(named, "torch")
    assert network.architecture["name"] == "delg"
    assert network.architecture["gem_power"] == 2.5
    assert network.architecture["reduced_dimension"] == 8
    image = rng.normal(size=(64, 80, 3))
    backbone = {n.removeprefix("globalmodel."): x for n, x in named.items()}
    *_, block3, block4 = naive_resnet.forward(PYCLS, backbone, image[..., ::-1], UNITS)
    local = {n.removeprefix("localmodel."): x for n, x in named.items()}
    x = block3 @ local["conv1.weight"][:, :, 0, 0].T + local["conv1.bias"]
    x = (x - local["bn.running_mean"]) / np.sqrt(local["bn.running_var"] + 1e-5)
    x = x * local["bn.weight"] + local["bn.bias"]
    score = np.maximum(x, 0) @ local["conv2.weight"][0, :, 0, 0] + local["conv2.bias"]
    pooled = naive_resnet.gem(block4, 2.5) @ backbone["head.fc.weight"].T + 1
    ours = outputs(network, image[None])
    np.testing.assert_allclose(ours["descriptors"][0], x, atol=2e-4)
    np.testing.assert_allclose(
        ours["attention"][0], np.logaddexp(0, score), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(ours["global_descriptor"][0], pooled, rtol=1e-3)


def test_of_dolg_the_backbone_is_taken(rng):
    named = naive_resnet.random_weights(PYCLS, UNITS, WIDTH, rng)
    named = {f"globalmodel.{name}": x for name, x in named.items()} | {
        "pool_g.p": np.float32([3.5]),
        "fc_t.weight": dense(rng, 64, BLOCK4),
        "fc.weight": dense(rng, 10, BLOCK4),
        "localmodel.conv1.weight": dense(rng, BLOCK3, BLOCK3)[..., None, None],
    }
    network = find(named, "torch")
    assert network.architecture["name"] == "global"
    assert network.architecture["gem_power"] == 3.5
    assert "fusion" in network.assigned.dropped["fc.weight"]


def test_a_power_of_gem_that_is_not_one_number_is_refused(rng):
    named = pycls_delg(rng) | {"globalmodel.head.pool.p": np.ones(0, np.float32)}
    with pytest.raises(InputError, match="power of GeM"):
        find(named, "torch")


@pytest.mark.golden
def test_the_originals_weights_are_those_that_its_numbers_were_computed_with(golden):
    named = golden_weights(golden, "variables_keras_delg.json")
    assert_same(find(named), variables_from_keras(named))


@pytest.mark.golden
@pytest.mark.parametrize("depth", [50, 101])
def test_slim_weights_are_those_that_its_numbers_were_computed_with(golden, depth):
    named = golden_weights(golden, f"variables_slim_r{depth}.json")
    network = find(named)
    assert network.architecture["depth"] == depth
    assert_same(network, variables_from_slim(named))


@pytest.mark.golden
@pytest.mark.parametrize("depth", [50, 101])
def test_a_graph_without_any_names_is_read_in_its_order(golden, depth):
    named = golden_weights(golden, f"variables_slim_r{depth}.json")
    expected = variables_from_slim(named)
    constants, nodes, norm = {}, [], []

    def add(name, op, inputs=()):
        nodes.append(Node(name, op, tuple(inputs), ()))

    for number, (name, x) in enumerate(named.items()):
        constant = f"Const_{number}"
        constants[constant] = x
        add(constant, "Const")
        if name.endswith("weights"):
            add(f"Conv2D_{number}", "Conv2D", ["x", constant])
        elif name.endswith("biases"):
            add(f"BiasAdd_{number}", "BiasAdd", ["x", constant])
        else:
            norm.append(constant)
        if len(norm) == 4:
            add(f"Norm_{number}", "FusedBatchNormV3", ["x", *norm])
            norm = []
    # Nothing says that the last layer on block3 is a classifier.
    logits = [f"Const_{i}" for i, name in enumerate(named) if "k/logits" in name]
    mapping = MappingFile(None, {}, tuple(logits))
    network = find(constants, "frozen_graph", mapping=mapping, nodes=nodes)
    assert network.assigned.evidence == "order and shapes"
    assert network.architecture["depth"] == depth
    assert_same(network, expected)
