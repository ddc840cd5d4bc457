"""Random weights named as others name theirs, and the networks found in them."""

import importlib.util
import json
import pathlib

import numpy as np

from delf_jax.conversion.network import MappingFile, find_network
from delf_jax.conversion.weight_files import WeightFile
from tests.helpers import naive_resnet, tensorflow_files
from tests.helpers.naive_resnet import PYCLS, SLIM

UNITS = (2, 2, 2, 2)  # depth 26
SHALLOW = (2, 2, 2)  # without block4
WIDTH = 4
BLOCK3, BLOCK4 = 16 * WIDTH, 32 * WIDTH


def dense(rng, *shape):
    return (rng.normal(size=shape) / np.sqrt(shape[-2])).astype(np.float32)


def vectors(rng, scope, leaves, size):
    return {f"{scope}/{n}": rng.uniform(0.5, 1, size).astype("f") for n in leaves}


def tf2_heads(rng):
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    return {
        "attention/conv1/kernel": dense(rng, 1, 1, BLOCK3, 8),
        **vectors(rng, "attention/conv1", ["bias"], 8),
        **vectors(rng, "attention/bn_conv1", norm, 8),
        "attention/conv2/kernel": dense(rng, 1, 1, 8, 1),
        **vectors(rng, "attention/conv2", ["bias"], 1),
        "autoencoder/conv1/kernel": dense(rng, 1, 1, BLOCK3, 6),
        **vectors(rng, "autoencoder/conv1", ["bias"], 6),
        "autoencoder/conv2/kernel": dense(rng, 1, 1, 6, BLOCK3),
        **vectors(rng, "autoencoder/conv2", ["bias"], BLOCK3),
        "backbone/embedding_layer/kernel": dense(rng, BLOCK4, 10),
        **vectors(rng, "backbone/embedding_layer", ["bias"], 10),
        "attn_classification/kernel": dense(rng, BLOCK3, 5),
        **vectors(rng, "attn_classification", ["bias"], 5),
        "cosine_weights": dense(rng, 10, 5),
        "scale_factor": np.float32(45.25),
    }


def slim_heads(rng):
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    return {
        "attention_block/attention/compute/conv1/weights": dense(rng, 1, 1, BLOCK3, 8),
        **vectors(rng, "attention_block/attention/compute/conv1/BatchNorm", norm, 8),
        "attention_block/attention/compute/conv2/weights": dense(rng, 1, 1, 8, 1),
        **vectors(rng, "attention_block/attention/compute/conv2", ["biases"], 1),
        "attention_block/logits/weights": dense(rng, 1, 1, BLOCK3, 5),
        **vectors(rng, "attention_block/logits", ["biases"], 5),
    }


def slim_weights(rng, units=UNITS, names=SLIM):
    named = naive_resnet.random_weights(names, units, WIDTH, rng)
    return {name.replace("/kernel", "/weights"): x for name, x in named.items()}


def find(tensors, kind="tf_checkpoint", path="somewhere", mapping=None, **settings):
    details = {"nodes": settings.pop("nodes", ())}
    source = WeightFile(kind, pathlib.Path(path), tensors, details)
    template = pathlib.Path(settings.pop("template", "template.json"))
    return find_network(source, mapping or MappingFile(), settings, template)


def unknown_heads(rng):
    """Heads of a DELG whose scopes nobody has published."""
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    return {
        "DELG/local/att_1/weights": dense(rng, 1, 1, BLOCK3, 8),
        **vectors(rng, "DELG/local/att_1/BatchNorm", norm, 8),
        "DELG/local/att_2/weights": dense(rng, 1, 1, 8, 1),
        **vectors(rng, "DELG/local/att_2", ["biases"], 1),
        "DELG/ae/first/weights": dense(rng, 1, 1, BLOCK3, 6),
        **vectors(rng, "DELG/ae/first", ["biases"], 6),
        "DELG/ae/second/weights": dense(rng, 1, 1, 6, BLOCK3),
        **vectors(rng, "DELG/ae/second", ["biases"], BLOCK3),
        "DELG/pooled/weights": dense(rng, 1, 1, BLOCK4, 10),
        **vectors(rng, "DELG/pooled", ["biases"], 10),
    }


def pycls_delg(rng):
    named = naive_resnet.random_weights(PYCLS, UNITS, WIDTH, rng)
    norm = ("weight", "bias", "running_mean", "running_var")
    named = {f"globalmodel.{name}": x for name, x in named.items()}
    named |= {
        "globalmodel.head.pool.p": np.float32([2.5]),
        "globalmodel.head.fc.weight": dense(rng, 10, BLOCK4),
        "globalmodel.head.fc.bias": np.ones(10, np.float32),
        "localmodel.conv1.weight": dense(rng, BLOCK3, 8).T[..., None, None],
        "localmodel.conv1.bias": rng.normal(size=8).astype(np.float32),
        **{f"localmodel.bn.{n}": rng.uniform(0.5, 1, 8).astype("f") for n in norm},
        "localmodel.conv2.weight": dense(rng, 1, 8)[..., None, None],
        "localmodel.conv2.bias": np.float32([0.3]),
        "desc_cls.weight": dense(rng, 7, 10),
        "desc_cls.t": np.zeros(1, np.float32),
        "att_cls.fc.weight": dense(rng, 7, 8),
        "att_cls.fc.bias": np.zeros(7, np.float32),
    }
    return {name: np.ascontiguousarray(x) for name, x in named.items()}


def golden_weights(golden, name):
    spec = importlib.util.spec_from_file_location("golden", golden / "weights.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    seed = json.loads((golden / "seed.json").read_text())["seed"]
    return generator.all_weights(str(golden / name), seed)


def delf_of_tensorflow_1(rng, folder):
    arrays = slim_weights(rng, SHALLOW) | slim_heads(rng)
    folder.mkdir(parents=True)
    tensorflow_files.write_bundle(folder / "model.ckpt-33", arrays)
    return folder


def saved_model_of(named, folder):
    """A SavedModel whose weights are constants of its graph, with what uses them."""
    nodes = [tensorflow_files.constant(name, x) for name, x in named.items()]
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    for name in named:
        scope, _, leaf = name.rpartition("/")
        inputs = ["x", name]
        if leaf == "gamma":
            inputs = ["x", *(f"{scope}/{leaf}" for leaf in norm)]
        operation = {
            "weights": "Conv2D",
            "biases": "BiasAdd",
            "gamma": "FusedBatchNorm",
        }
        if leaf in operation:
            kind = operation[leaf]
            nodes.append(tensorflow_files.node(f"{scope}/{kind}", kind, inputs))
    graph = tensorflow_files.message(*((1, node) for node in nodes))
    tags = tensorflow_files.message((4, "serve"))
    folder.mkdir(parents=True)
    meta = tensorflow_files.message((1, tags), (2, graph))
    model = tensorflow_files.message((1, 1), (2, meta))
    (folder / "saved_model.pb").write_bytes(model)
