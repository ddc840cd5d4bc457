"""The training step on one and on two devices, and the loop that can be stopped."""

import functools
import json
import os
import pathlib
import signal

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from delf_jax import (
    checkpoints,
    configuration,
    extraction,
    settings,
    train,
    training_log,
    weights,
)
from delf_jax.files import InputError

TINY = pathlib.Path(__file__).parent.parent / "configs" / "tiny.py"
STEPS = 4
LOSSES = [
    f"loss.{name}"
    for name in (
        "arcface",
        "attention",
        "reconstruction",
        "correspondence",
        "matchability",
    )
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of three blurred noise images."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir()
        for number in range(3):
            noise = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            image = cv2.resize(noise, (96, 72), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / label / f"{number}.png"), image)
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def config(images, prepared) -> ConfigDict:
    config = configuration.read_config(TINY)
    config.steps, config.log_every, config.checkpoint_every = STEPS, 1, 2
    config.data.sources.images.path = str(images)
    config.data.directory = str(prepared)
    config.data.threads = 1
    config.devices = 1
    return config


@pytest.fixture(scope="module")
def finished(images, prepared, tmp_path_factory):
    """The workdir and the outcome of a training that nothing interrupted."""
    config = globals()["config"].__wrapped__(images, prepared)
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, train.train(config, str(workdir))


def by_name(tree):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def final_state(workdir):
    return by_name(checkpoints.read_state(workdir / "checkpoints"))


def lines_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    timing = ("examples_per_second",)
    return [
        {n: v for n, v in json.loads(line).items() if n not in timing} for line in lines
    ]


def make_static(config, axis_name):
    """Plain SGD: Adam's division would enlarge the rounding of the first steps."""
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e-2
    config.optimizer.warmup_steps = 0
    config.loss.distillation = 1.0
    config.loss.descriptors_train_backbone = True
    config.teacher.dimension = 8
    static, _ = train._make_static(config, classes=3)
    backbone = static.module.backbone.clone(axis_name=axis_name)
    return static._replace(module=static.module.clone(backbone=backbone))


def make_batch(views_of_64=4):
    rng = np.random.default_rng(1)
    cells = views_of_64
    return {
        "image": rng.integers(0, 256, (4, 2, 64, 64, 3), dtype=np.uint8),
        "label": np.array([0, 1, 2, -1], np.int32),
        "coordinates": rng.uniform(0, 64, (4, 2, cells, cells, 2)).astype(np.float32),
        "teacher": rng.normal(size=(4, 2, cells, cells, 8)).astype(np.float32),
        "teacher_valid": rng.random((4, 2, cells, cells)) < 0.8,
    }


def test_a_step_on_two_devices_equals_one_on_one(config):
    """Losses that compare examples see those of the other device, too."""
    static = make_static(config, None)
    key, batch = jax.random.key(0), make_batch()
    start = jax.jit(functools.partial(train.create_state, static, view_size=64))(key)
    before = by_name(start.params)
    one, metrics_of_one = jax.jit(functools.partial(train.train_step, static=static))(
        start, batch, key
    )
    shared = train.parallel_step(make_static(config, train.AXIS), jax.devices())
    everywhere = jax.device_put(start, train.on_all(jax.devices()))
    two, metrics_of_two = shared(everywhere, train._split(batch, 2), key)

    one_by_one = jax.device_get(metrics_of_one).compute()
    for name, value in jax.device_get(metrics_of_two).compute().items():
        np.testing.assert_allclose(value, one_by_one[name], rtol=2e-4, err_msg=name)
    first = by_name(one.params)
    for name, other in by_name(two.params).items():
        moved = first[name] - before[name]
        scale = np.abs(moved).max() + 1e-6
        difference = np.abs(other - first[name]).max() / scale
        assert difference < 5e-3, (name, difference)


def test_a_training_leaves_metrics_checkpoints_and_a_model(finished, config):
    workdir, outcome = finished
    assert (outcome.step, outcome.finished) == (STEPS, True)
    assert [line["step"] for line in lines_of(workdir)] == [1, 2, 3, 4]
    assert json.loads((workdir / "config.json").read_text())["steps"] == STEPS
    model = weights.load_model(workdir / "model")
    assert model.config["provenance"]["steps"] == STEPS
    assert model.config["extraction"]["max_image_size"] == 160
    descriptor = model.module.apply(model.variables, jnp.zeros((1, 64, 64, 3)))
    assert descriptor["global_descriptor"].shape == (1, 32)


def test_the_model_is_the_average_and_not_the_last_step(finished):
    workdir, _ = finished
    state = final_state(workdir)
    from safetensors.numpy import load_file

    exported = load_file(workdir / "model" / "model.safetensors")
    name = "params/local/attention/conv1/bias"
    np.testing.assert_allclose(exported[name], state[f"ema/{name}"], rtol=1e-6)
    name = "whitening/kernel"
    np.testing.assert_allclose(
        exported[f"params/{name}"], state[f"ema/params/{name}"], rtol=1e-3
    )
    assert not np.array_equal(
        state[f"ema/params/{name}"], state[f"params/model/{name}"]
    )


def test_a_stopped_training_resumes_to_the_same_numbers(
    finished, config, tmp_path, monkeypatch
):
    add = training_log.TrainingLog.add

    def add_and_stop(self, step, *rest):
        add(self, step, *rest)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training_log.TrainingLog, "add", add_and_stop)
    outcome = train.train(config, str(tmp_path))
    assert (outcome.step, outcome.finished) == (3, False)
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    assert train.train(config, str(tmp_path)).finished

    workdir, _ = finished
    assert lines_of(tmp_path) == lines_of(workdir)
    expected, resumed = final_state(workdir), final_state(tmp_path)
    assert expected.keys() == resumed.keys()
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)


def test_a_finished_training_trains_no_further(finished, config, capsys):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_text()
    assert train.train(config, str(workdir)).finished
    assert (workdir / "metrics.jsonl").read_text() == before


def test_another_architecture_in_the_workdir_is_refused(finished, config):
    config.model.attention_width = 24
    with pytest.raises(InputError, match="another architecture: params/model/local/"):
        train.train(config, str(finished[0]))


def test_a_second_stage_starts_from_averages_where_they_fit(finished, config, capsys):
    workdir, _ = finished
    config.model.attention_width = 24
    static = make_static(config, None)
    fresh = jax.jit(functools.partial(train.create_state, static, view_size=64))(
        jax.random.key(1)
    )
    state = train._started_from(str(workdir), fresh, static)
    averages = final_state(workdir)
    kernel = "backbone/conv1/kernel"
    taken = by_name(state.params["model"])
    np.testing.assert_array_equal(taken[kernel], averages[f"ema/params/{kernel}"])
    assert taken["local/attention/conv1/kernel"].shape[-1] == 24
    assert (
        "from scratch: params/local/attention/conv1/kernel" in capsys.readouterr().out
    )


@pytest.fixture
def global_config(images, prepared) -> ConfigDict:
    config = configuration.read_config(TINY.parent / "gldv2_baseline.py")
    config.steps, config.batch_size, config.log_every = 2, 4, 1
    config.model.depth, config.model.width = 18, 8
    config.model.global_dimension = 16
    config.views.size, config.views.resolutions = 64, (64.0, 96.0)
    config.data.sources.train.path = str(images)
    config.data.directory, config.data.max_side = str(prepared / "global"), 128
    config.data.threads, config.devices = 1, 1
    return config


def test_a_model_without_local_branch_learns_and_extracts(global_config, tmp_path):
    outcome = train.train(global_config, str(tmp_path))
    assert outcome.finished
    assert {"arcface", "arcface_accuracy"} < set(outcome.metrics)
    assert "attention" not in outcome.metrics
    model = weights.load_model(tmp_path / "model")
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    chosen = settings.settings_for(model)
    (found,) = extraction.extract_features(model, [photo], chosen)
    assert found.local is None and found.global_descriptor.shape == (16,)


def test_what_needs_a_local_branch_is_refused_without_one(global_config, tmp_path):
    global_config.loss.attention = 1.0
    global_config.extraction.max_features = 100
    message = "no local branch: loss.attention, extraction.max_features must be 0"
    with pytest.raises(InputError, match=message):
        train.train(global_config, str(tmp_path))


def test_training_normalises_pixels_as_extraction_does(config):
    images, outcomes = make_batch()["image"], []
    config.extraction.pixel_mean = (120.0, 110.0, 100.0)
    config.extraction.pixel_std = (60.0, 57.0, 56.0)
    static = make_static(config, None)
    key = jax.random.key(0)
    state = jax.jit(functools.partial(train.create_state, static, view_size=64))(key)
    mean, std = (np.float32([[x]]) for x in (static.pixel_mean, static.pixel_std))
    plain = static._replace(pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3)
    for how, seen in ((static, images), (plain, (images - mean) / std)):
        forward = jax.jit(functools.partial(train._forward, how))
        outputs, *_ = forward(state.params, state.batch_stats, {"image": seen}, key)
        outcomes.append(outputs["attention"])
    np.testing.assert_allclose(*outcomes, rtol=1e-4)


def test_a_start_with_pixels_of_another_kind_is_refused(finished, config, tmp_path):
    config.extraction.pixel_std = (1.0, 1.0, 1.0)
    config.init_from = str(finished[0] / "model")
    with pytest.raises(InputError, match="trained with pixel_std.*must be that"):
        train.train(config, str(tmp_path))


def test_a_loss_that_is_no_number_names_the_step_and_the_images(config, tmp_path):
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e30
    config.optimizer.warmup_steps = 0
    config.optimizer.clip_norm = 0.0
    with pytest.raises(InputError, match=r"step 2: .* images/[ab]/\d.png"):
        train.train(config, str(tmp_path))
    with checkpoints.open_checkpoints(tmp_path / "checkpoints", keep=2) as manager:
        assert manager.latest_step() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3, "devices": 2}, "batch_size 3 does not divide among 2"),
        ({"loss.arcfase": 1.0}, "config.loss.arcfase: no such field"),
        ({"views.sise": 64}, "config.views.sise: no such field"),
        (dict.fromkeys(LOSSES, 0.0), "every weight is 0"),
        ({"model.deph": 18}, "deph"),
    ],
)
def test_a_wrong_field_is_named(config, tmp_path, change, message):
    with config.unlocked():
        config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        train.train(config, str(tmp_path))


def test_early_averages_forget_the_start_and_late_ones_keep():
    old, new = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    early = train._averaged(old, new, jnp.array(0), 0.99)
    late = train._averaged(old, new, jnp.array(10**6), 0.99)
    np.testing.assert_allclose(early["a"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(late["a"], 0.01, rtol=1e-3)
