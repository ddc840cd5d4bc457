import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delf_jax.losses.classification import arcface_logits, softmax_cross_entropy
from delf_jax.losses.reconstruction import reconstruction_loss
from delf_jax.models.architecture import fold_batch_norm
from delf_jax.models.delg import DELG
from delf_jax.models.resnet import ResNet
from tests.helpers.original_names import variables_from_keras

SMALL = DELG(
    ResNet(18, 4, "v1.5"),
    attention_width=8,
    reduced_dimension=6,
    global_dimension=10,
    num_classes=3,
)


@pytest.fixture(scope="module")
def small():
    """(images, variables) of the small model."""
    images = jax.random.normal(jax.random.key(1), (2, 64, 48, 3))
    init = jax.jit(SMALL.init, static_argnames="train")
    return images, init(jax.random.key(0), images, train=True)


def norms(tree):
    return {name: float(optax.tree.norm(x)) for name, x in tree.items()}


def gradient_norms(small, output):
    """Norm of the gradient of an output, per part of the model."""
    images, variables = small

    def total(params):
        outputs, _ = SMALL.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(outputs[output] ** 2)

    gradient = jax.jit(jax.grad(total))(variables["params"])
    local = gradient.pop("local")
    return norms(gradient) | norms(local)


@pytest.mark.parametrize(
    ("output", "taught"),
    [
        ("cosines", {"backbone", "whitening", "classifier"}),
        ("attention_logits", {"attention", "autoencoder", "attention_classifier"}),
        ("expanded", {"autoencoder"}),
    ],
)
def test_gradients_stop_where_delg_stops_them(small, output, taught):
    found = gradient_norms(small, output)
    assert {name for name, norm in found.items() if norm > 0} == taught


def test_learned_power_is_a_parameter_and_starts_where_configured():
    model = SMALL.clone(learn_power=True, gem_power=4.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert shapes["params"]["gem_power"].shape == ()


def test_local_branch_alone_skips_block4(small):
    images, variables = small
    outputs = jax.eval_shape(
        lambda v, x: SMALL.apply(v, x, global_branch=False), variables, images
    )
    assert "global_descriptor" not in outputs and "descriptors" in outputs


def test_results_do_not_depend_on_the_company(small):
    images, variables = small
    module, folded = fold_batch_norm(SMALL.clone(num_classes=0), inference(variables))
    apply = jax.jit(module.apply)
    sizes = np.array([[64, 48], [33, 40], [50, 64]], np.int32)
    canvas = np.zeros((3, 64, 64, 3), np.float32)
    for number, (height, width) in enumerate(sizes):
        canvas[number, :height, :width] = np.resize(images, (height, width, 3))
    together = apply(folded, canvas, sizes)
    alone = apply(folded, canvas[1:2], sizes[1:2])
    plain = apply(folded, canvas[1:2, :33, :40])
    for name, x in together.items():
        np.testing.assert_array_equal(x[1], alone[name][0], err_msg=name)
        expected = np.asarray(plain[name][0])
        cells = tuple(slice(side) for side in expected.shape[:2])
        found = np.asarray(x[1][cells] if expected.ndim > 1 else x[1])
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert np.asarray(together["valid"]).sum((1, 2)).tolist() == [12, 9, 16]


def inference(variables):
    """Variables without what only training needs."""
    params = dict(variables["params"])
    del params["classifier"]
    local = {k: v for k, v in params["local"].items() if k != "attention_classifier"}
    reduce = {"reduce": local["autoencoder"]["reduce"]}
    params["local"] = local | {"autoencoder": reduce}
    return {**variables, "params": params}


# The released code's numbers


@pytest.fixture(scope="module")
def keras(golden):
    """Variables of the original DELG, generated as its numbers were."""
    spec = importlib.util.spec_from_file_location("golden", golden / "weights.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    seed = json.loads((golden / "seed.json").read_text())["seed"]
    path = str(golden / "variables_keras_delg.json")
    return variables_from_keras(generator.all_weights(path, seed))


def load(golden, name):
    with np.load(golden / name) as file:
        return dict(file)


def released(strides, num_classes=5):
    backbone = ResNet(50, 64, "keras", block3_strides=strides)
    return DELG(backbone, num_classes=num_classes)


def check(numbers, tolerances, key, value):
    """Within the tolerance of the golden set; maps are compared where it has values."""
    value, atol = np.asarray(value), tolerances[key]["atol"]
    if f"{key}/flat_index" in numbers:
        assert list(value.shape) == numbers[f"{key}/shape"].tolist(), key
        value = value.ravel()[numbers[f"{key}/flat_index"]]
        key = f"{key}/values"
    expected = numbers[key].reshape(value.shape)
    np.testing.assert_allclose(value, expected, atol=atol, rtol=0, err_msg=key)


def named_as_in_keras(variables, name):
    """The variable that the original calls `name`."""
    found = variables_from_keras({name: np.zeros(())})
    while isinstance(found, dict):
        ((key, found),) = found.items()
        variables = variables[key]
    return variables


def golden_outputs(outputs, stages):
    return {
        "prelogits": outputs["global_descriptor"],
        "attention_prelogits": outputs["attended"],
        "attention_prob": outputs["attention"][..., None],
        "expanded": outputs["expanded"],
        "reduced": outputs["descriptors"],
        "block3": outputs["block3"],
    } | stages


@pytest.mark.golden
@pytest.mark.parametrize("strides", [False, True])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_delg_agrees_with_the_original(golden, keras, strides, mode):
    numbers = load(golden, "delg_keras.npz")
    tolerances = json.loads((golden / "tolerances.json").read_text())["delg_keras.npz"]
    names = "a" if mode == "inference" else "ab"
    images = np.stack([numbers[f"image_{x}"] for x in names]).astype(np.float32)
    images = (images - np.float32(128)) / np.float32(128)
    model, train = released(strides), mode == "training"

    @jax.jit
    def run(variables, images):
        return model.apply(
            variables,
            images,
            train=train,
            mutable=["batch_stats"],
            capture_intermediates=lambda module, _: isinstance(module, ResNet),
        )

    outputs, after = run(keras, images)
    stages = {}
    if not strides:  # equal for both and stored once
        stages = dict(after["intermediates"]["backbone"]["__call__"][0])
    case = f"{mode}/strides_{strides}"
    for name, value in golden_outputs(outputs, stages).items():
        check(numbers, tolerances, f"{case}/{name}", value)
    if train:
        prefix = f"{case}/after/"
        moved = [key for key in numbers if key.startswith(prefix)]
        assert moved
        for key in moved:
            value = named_as_in_keras(after, key.removeprefix(prefix))
            check(numbers, tolerances, key, value)


def compare(numbers, prefix, params):
    """First entries of each variable; a bias before BatchNorm has noise around 0."""
    for key in (key for key in numbers if key.startswith(prefix)):
        value = named_as_in_keras({"params": params}, key.removeprefix(prefix))
        expected = numbers[key].ravel()
        atol = 1e-5 * np.abs(expected).max() + 1e-7
        np.testing.assert_allclose(
            np.ravel(value)[: expected.size], expected, atol=atol, err_msg=key
        )


@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.parametrize("strides", [False, True])
def test_training_agrees_with_the_original_in_float64(golden, keras, strides):
    numbers = load(golden, "losses.npz")
    images = (numbers["training/images"].astype(np.float64) - 128) / 128
    images = images.reshape(2, 2, *images.shape[1:])
    case = f"training/block3_strides_{strides}/float64_run"
    # What the original's own trainer logged, in float32; it has strides in block3.
    crosscheck = json.loads((golden / "training_crosscheck.json").read_text())
    names = ("desc_loss", "attn_loss", "reconstruction_loss")
    logged = iter([value for _, value in crosscheck["losses"]])
    model = released(strides)
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0), optax.sgd(0.01, momentum=0.9)
    )

    def objective(params, stats, images, labels):
        outputs, after = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        logits = arcface_logits(outputs["cosines"], labels, 0.1, 45.25)
        losses = {
            "desc_loss": jnp.mean(softmax_cross_entropy(logits, labels)),
            "attn_loss": jnp.mean(
                softmax_cross_entropy(outputs["attention_logits"], labels)
            ),
            "reconstruction_loss": jnp.mean(
                reconstruction_loss(outputs["block3"], outputs["expanded"])
            ),
        }
        total = losses["desc_loss"] + losses["attn_loss"]
        total += 10 * losses["reconstruction_loss"]
        return total, (losses | {"total_loss": total}, after["batch_stats"])

    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), keras)
        params, stats = variables["params"], variables["batch_stats"]
        state = optimizer.init(params)
        step = jax.jit(jax.grad(objective, has_aux=True))
        for number, labels in enumerate(numbers["training/labels"], start=1):
            labels = jnp.asarray(labels.astype(np.int32))
            gradient, (losses, stats) = step(params, stats, images[number - 1], labels)
            losses["global_gradient_norm"] = optax.tree.norm(gradient)
            for name, value in losses.items():
                expected = numbers[f"{case}/step{number}/{name}"]
                np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)
            for name in names if strides else ():
                np.testing.assert_allclose(losses[name], next(logged), rtol=1e-4)
            updates, state = optimizer.update(gradient, state)
            params = optax.apply_updates(params, updates)
            change = jax.tree.map(
                lambda x, y: (x - y) * 1e4, params, variables["params"]
            )
            compare(numbers, f"{case}/step{number}/gradient/", gradient)
            compare(numbers, f"{case}/step{number}/change_x1e4/", change)
