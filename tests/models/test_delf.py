import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models.architecture import fold_batch_norm
from delf_jax.models.delf import DELF, attend
from delf_jax.models.resnet import ResNet
from tests.helpers.original_names import variables_from_slim


def test_attended_is_the_weighted_mean_of_normalised_targets(rng):
    targets = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    attention = rng.uniform(size=(2, 3, 4)).astype(np.float32)
    rows = targets / np.linalg.norm(targets, axis=-1, keepdims=True)
    expected = (rows * attention[..., None]).mean((1, 2))
    ours = attend(jnp.asarray(targets), jnp.asarray(attention))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_without_reduction_the_descriptors_are_block3():
    model = DELF(ResNet(18, 4), attention_width=8)
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    assert set(outputs) == {"block3", "valid", "descriptors", "attention"}
    assert outputs["descriptors"].shape == outputs["block3"].shape == (1, 4, 4, 16)
    assert "block4_unit1" not in variables["params"]["backbone"]


def test_classes_add_what_training_needs():
    model = DELF(ResNet(18, 4), attention_width=8, reduced_dimension=6, num_classes=3)
    outputs = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 64, 64, 3))
    )[0]
    shapes = {name: x.shape for name, x in outputs.items()}
    assert shapes["logits"] == shapes["attention_logits"] == (2, 3)
    assert shapes["descriptors"] == (2, 4, 4, 6)
    assert shapes["expanded"] == (2, 4, 4, 16)
    assert shapes["attended"] == (2, 16)


# The TensorFlow 1 model's numbers, with slim's backbones

VARIANTS = {
    "s32": {"block3_strides": True},
    "s16": {},
    "s16_atrous": {"block4_dilation": 2},
}
CASES = [
    (50, "image", "inference/s32"),
    (50, "image", "inference/s16"),
    (50, "image", "inference/s16_atrous"),
    (50, "image_129x161", "inference_129x161/s32"),
    (50, "image_2x", "training/s32"),
    (101, "image", "inference/s32"),
    (101, "image", "inference/s16"),
    (101, "image", "inference/s16_atrous"),
    (101, "image_2x", "training/s32"),
]


@pytest.fixture(scope="module")
def slim(golden):
    """depth -> (numbers, tolerances, variables of the TensorFlow 1 DELF)."""
    spec = importlib.util.spec_from_file_location("golden", golden / "weights.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    seed = json.loads((golden / "seed.json").read_text())["seed"]
    tolerances = json.loads((golden / "tolerances.json").read_text())

    def load(depth):
        path = str(golden / f"variables_slim_r{depth}.json")
        variables = variables_from_slim(generator.all_weights(path, seed))
        with np.load(golden / f"slim_r{depth}.npz") as file:
            return dict(file), tolerances[f"slim_r{depth}.npz"], variables

    return load


def sampled(numbers, key, value):
    """The values of a map that the golden set has, and the same of ours."""
    if f"{key}/shape" not in numbers:
        return numbers[key], np.reshape(value, numbers[key].shape)
    assert list(value.shape) == numbers[f"{key}/shape"].tolist(), key
    index = numbers[f"{key}/flat_index"]
    return numbers[f"{key}/values"], np.ravel(value)[index]


def run_slim(depth, variant, variables, images, train, folded):
    """Everything by the name that the golden set has for it, and the statistics."""
    classes = variables["params"]["local"]["attention_classifier"]["bias"].size
    model = DELF(ResNet(depth, 64, "slim", **VARIANTS[variant]), num_classes=classes)
    # the original had no second head in this graph
    head = {"kernel": np.zeros((2048, classes)), "bias": np.zeros(classes)}
    head = jax.tree.map(np.float32, head)
    params = variables["params"] | {"classifier": head}
    variables = {**variables, "params": params}
    if folded:
        model, variables = fold_batch_norm(model, variables)

    def captured(module, _):
        scores = module.path[-2:] == ("attention", "conv2")
        return scores or module.name in ("backbone", "block3_unit1")

    @jax.jit
    def run(variables, images):
        return model.apply(
            variables,
            (images - 128) / 128,
            train=train,
            mutable=["batch_stats"],
            capture_intermediates=captured,
        )

    outputs, after = run(variables, images.astype(np.float32))
    inside = after["intermediates"]
    stages = inside["backbone"]["__call__"][0]
    names = {
        "conv1": stages["block0"],
        "block3_unit_1": inside["backbone"]["block3_unit1"]["__call__"][0],
        "attention_prelogits": outputs["attended"],
        "attention_prob": outputs["attention"][..., None],
        "attention_score": inside["local"]["attention"]["conv2"]["__call__"][0],
        "logits": outputs["attention_logits"],
    }
    return names | {f"block{i}": stages[f"block{i}"] for i in range(1, 5)}, after


def named_as_in_slim(variables, name):
    """The variable that the original calls `name`."""
    found = variables_from_slim({name: np.zeros(())})
    while isinstance(found, dict):
        ((key, found),) = found.items()
        variables = variables[key]
    return variables


@pytest.mark.golden
@pytest.mark.parametrize(("depth", "image", "case"), CASES)
def test_slim_delf_agrees_with_the_original(slim, depth, image, case):
    numbers, tolerances, variables = slim(depth)
    train = case.startswith("training")
    variant = case.split("/")[1]
    found, after = run_slim(depth, variant, variables, numbers[image], train, False)
    keys = [key for key in tolerances if key.startswith(f"{case}/")]
    assert len(keys) >= 6
    for key in keys:
        name = key.removeprefix(f"{case}/")
        if name.startswith("after/"):
            value = named_as_in_slim(after, name.removeprefix("after/"))
        else:
            value = found[name]
        expected, ours = sampled(numbers, key, value)
        np.testing.assert_allclose(
            ours, expected, rtol=0, atol=tolerances[key]["atol"], err_msg=key
        )


@pytest.mark.golden
def test_slim_delf_with_folded_batch_norm_agrees_with_the_original(slim):
    numbers, tolerances, variables = slim(50)
    image, case = numbers["image"], "inference/s32"
    found, _ = run_slim(50, "s32", variables, image, False, True)
    for name in ("block3", "block4", "attention_prob", "attention_score", "logits"):
        expected, ours = sampled(numbers, f"{case}/{name}", found[name])
        atol = tolerances[f"{case}/{name}"]["atol"]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=atol, err_msg=name)
