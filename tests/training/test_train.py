"""The loop that can be stopped, and what it leaves."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from delf_jax.config import read_config
from delf_jax.extraction import extract, model_folder, settings
from delf_jax.files import InputError
from delf_jax.training import checkpoints, log, train, validation
from delf_jax.training.build import make_static
from delf_jax.training.config import read_training_config
from delf_jax.training.step import create_state
from delf_jax.training.workdir import locked
from tests.helpers.tiny_training import (
    STEPS,
    TINY,
    by_name,
    draw_images,
    final_state,
    lines_of,
    make_config,
    train_in_process,
)

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
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def config(images, prepared):
    return make_config(images, prepared)


@pytest.fixture(scope="module")
def finished(images, prepared, tmp_path_factory):
    """The workdir and the outcome of a training that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, train.train(make_config(images, prepared), str(workdir))


def test_a_training_leaves_metrics_checkpoints_and_a_model(finished, config):
    workdir, outcome = finished
    assert (outcome.step, outcome.finished) == (STEPS, True)
    assert [line["step"] for line in lines_of(workdir)] == [1, 2, 3, 4]
    assert json.loads((workdir / "config.json").read_text())["steps"] == STEPS
    model = model_folder.load_model(workdir / "model")
    assert model.config["provenance"]["steps"] == STEPS
    assert model.config["extraction"]["max_image_size"] == 160
    descriptor = model.module.apply(model.variables, jnp.zeros((1, 64, 64, 3)))
    assert descriptor["global_descriptor"].shape == (1, 32)


def test_attention_and_zeros_of_blocks_are_written_with_the_pictures(finished):
    workdir, outcome = finished
    *before, last = lines_of(workdir)
    blocks = ("block0", "block0mp", "block1", "block2", "block3", "block4")
    kinds = ("max", "min", "mean", "percent_25", "percent_50", "percent_75")
    names = [f"sparsity/{block}" for block in blocks]
    names += [f"attention/{kind}" for kind in kinds]
    names += ["image_range/max", "image_range/min"]
    assert set(names) <= set(last) and not set(names) & set(before[-1])
    assert all(0 < last[f"sparsity/{block}"] < 1 for block in blocks)
    assert -1 <= last["image_range/min"] < last["image_range/max"] < 1
    assert last["attention/min"] < last["attention/percent_50"] < last["attention/max"]
    (events,) = (workdir / "events").iterdir()
    assert all(name.encode() in events.read_bytes() for name in names)
    assert not set(names) & set(outcome.metrics)


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
    add = log.TrainingLog.add

    def add_and_stop(self, step, *rest):
        add(self, step, *rest)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(log.TrainingLog, "add", add_and_stop)
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


def test_another_config_in_the_workdir_is_refused(finished, config):
    config.model.attention_width = 24
    with pytest.raises(
        InputError, match="4: was trained with model.attention_width 16"
    ):
        train.train(config, str(finished[0]))


def test_a_class_that_was_renamed_is_named_and_nothing_goes_on(
    finished, config, images
):
    """As many classes as before: their shapes say nothing."""
    (images / "b").rename(images / "0")
    try:
        message = "4: cannot go on, as in data.sources.images class 'b' is gone and cla"
        with pytest.raises(InputError, match=message):
            train.train(config, str(finished[0]))
    finally:
        (images / "0").rename(images / "b")


def test_a_training_of_which_the_newest_checkpoint_is_damaged_goes_on_from_before(
    finished, config, tmp_path, capsys
):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "4" / "state" / "_METADATA").unlink()
    assert train.train(config, str(tmp_path)).finished
    printed = capsys.readouterr().out
    assert "4: damaged" in printed and "checkpoints/2 is used instead" in printed
    assert lines_of(tmp_path) == lines_of(workdir)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"2", "4"}


def test_a_second_training_in_the_workdir_is_refused_before_it_reads_any_data(
    config, tmp_path
):
    config.data.sources.images.path = "nowhere"
    with locked(tmp_path):
        with pytest.raises(InputError, match="another training is running in it"):
            train.train(config, str(tmp_path))


def test_other_shapes_in_the_workdir_are_refused(finished, config):
    """As when photos of a third class were added."""
    stored = checkpoints.open_checkpoints(finished[0] / "checkpoints", keep=2)
    with stored as manager:
        static, _ = make_static(config, 3, None)
        start = functools.partial(create_state, static, view_size=64)
        shapes = jax.eval_shape(start, jax.random.key(0))
        message = "expected params/model/classifier/kernel 32x3, got 32x2"
        with pytest.raises(InputError, match=message):
            checkpoints.restore(manager, shapes)


def test_the_model_is_that_of_the_best_validation(
    images, config, tmp_path, monkeypatch
):
    config.validation.every, config.validation.dataset = 2, str(images)
    config.keep_checkpoints, config.images_every = 1, 3
    values = iter([{"mAP": 0.9}, {"mAP": 0.1}])
    monkeypatch.setattr(validation, "measure", lambda *rest: next(values))
    outcome = train.train(config, str(tmp_path))
    assert outcome.metrics["validation/mAP"] == 0.1
    model = model_folder.load_model(tmp_path / "model")
    assert model.config["provenance"]["steps"] == 2
    measured = [x for x in lines_of(tmp_path) if "validation/mAP" in x]
    assert measured == [
        {"step": 2, "validation/mAP": 0.9},
        {"step": 4, "validation/mAP": 0.1},
    ]
    events = b"".join(x.read_bytes() for x in (tmp_path / "events").iterdir())
    assert b"attention" in events and b"batch" in events


def measured_as(monkeypatch, *values):
    """Validations that give these."""
    left = iter(values)
    monkeypatch.setattr(validation, "measure", lambda *rest: {"mAP": next(left)})


@pytest.mark.slow
def test_a_training_ends_when_validations_find_nothing_better(
    images, config, tmp_path, monkeypatch, capsys
):
    config.validation.update({"every": 1, "patience": 1, "dataset": str(images)})
    measured_as(monkeypatch, 0.9, 0.9)
    outcome = train.train(config, str(tmp_path))
    assert (outcome.step, outcome.finished) == (2, True)
    assert "step 2: no mAP is better than that of step 1" in capsys.readouterr().out
    assert (tmp_path / "model" / "config.json").is_file()
    # It has ended: the same call measures nothing. With more patience it goes on.
    assert train.train(config, str(tmp_path)).step == 2
    config.validation.patience = 2
    measured_as(monkeypatch, 0.1)
    assert train.train(config, str(tmp_path)).step == 3


@pytest.mark.slow
def test_the_start_is_the_model_where_no_step_is_better(
    finished, images, config, tmp_path, monkeypatch
):
    start = finished[0] / "model"
    config.init_from, config.init_share = str(start), 0.5
    config.validation.update({"every": 2, "patience": 2, "dataset": str(images)})
    measured_as(monkeypatch, 0.9, 0.1, 0.2)
    assert train.train(config, str(tmp_path)).finished
    model = model_folder.load_model(tmp_path / "model")
    assert model.fingerprint == model_folder.load_model(start).fingerprint
    provenance = model.config["provenance"]
    assert provenance["steps"] == 0
    assert provenance["data"] == {"images": {"images": 6, "classes": 2}}
    assert [x["step"] for x in lines_of(tmp_path) if "validation/mAP" in x] == [0, 2, 4]
    # The best of the others, beside what it started from.
    shutil.rmtree(tmp_path / "checkpoints")
    measured_as(monkeypatch, 0.3, 0.5, 0.4)
    train.train(config, str(tmp_path))
    card = (tmp_path / "model" / "MODEL.md").read_text()
    assert "| mAP | 0.300 | 0.500 |" in card


def test_a_share_of_the_start_needs_one(config, tmp_path):
    config.init_share = 0.5
    with pytest.raises(InputError, match="init_share is 0.5, and init_from is empty"):
        train.train(config, str(tmp_path))


def test_a_half_written_first_checkpoint_is_no_beginning(config, tmp_path, monkeypatch):
    """Or a training that was killed while it wrote would start from random weights."""

    def read(config):
        raise InputError("weights are read")

    monkeypatch.setattr(train, "read_weights", read)
    config.init_from = "bundled"
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(InputError, match="weights are read"):
        train.train(config, str(tmp_path))


def test_validations_are_counted_since_the_first_of_the_best(config):
    config.validation.update({"every": 10, "patience": 2})
    best = None
    for step, value in ((10, 0.5), (20, 0.7), (30, 0.7), (40, 0.6)):
        assert not train._is_exhausted(config, best, step - 10)
        best = train._better(best, "mAP", step, {"mAP": value})
    assert best == train.Best(20, "mAP", 0.7)
    assert train._is_exhausted(config, best, 40)
    # What another validation measured says nothing of this one's.
    assert train._better(best, "AP", 50, {"AP": 0.1}).step == 50
    config.validation.patience = 0
    assert not train._is_exhausted(config, best, 1000)


@pytest.fixture
def global_config(images, prepared) -> ConfigDict:
    config = read_config(TINY.parent / "gldv2_arcface_r101.py")
    config.steps, config.batch_size, config.log_every = 2, 4, 1
    config.model.depth, config.model.width = 18, 8
    config.model.global_dimension = 16
    config.views.size, config.views.resolutions = 64, (64.0, 96.0)
    config.data.sources.train.path = str(images)
    config.data.sources.train.split, config.loss.classifier = "", "dense"
    config.data.directory, config.data.max_side = str(prepared / "global"), 128
    config.data.threads, config.devices = 1, 1
    return config


def test_a_model_without_local_branch_learns_and_extracts(global_config, tmp_path):
    outcome = train.train(global_config, str(tmp_path))
    assert outcome.finished
    assert {"arcface", "arcface_accuracy"} < set(outcome.metrics)
    assert "attention" not in outcome.metrics
    model = model_folder.load_model(tmp_path / "model")
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    chosen = settings.settings_for(model)
    (found,) = extract.extract_features(model, [photo], chosen)
    assert found.local is None and found.global_descriptor.shape == (16,)


def test_what_needs_a_local_branch_is_refused_without_one(global_config, tmp_path):
    global_config.loss.attention = 1.0
    global_config.extraction.max_features = 100
    message = "no local branch: loss.attention, extraction.max_features must be 0"
    with pytest.raises(InputError, match=message):
        train.train(global_config, str(tmp_path))


def test_a_start_with_pixels_of_another_kind_is_refused(finished, config, tmp_path):
    config.extraction.pixel_std = (1.0, 1.0, 1.0)
    config.init_from = str(finished[0] / "model")
    with pytest.raises(InputError, match="trained with pixel_std.*; set extraction"):
        train.train(config, str(tmp_path))


def test_a_loss_that_is_no_number_names_the_step_and_the_images(config, tmp_path):
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e30
    config.optimizer.warmup_steps = 0
    config.optimizer.clip_norm = 0.0
    message = r"step 2: .* images/[ab]/\d.png.*; no checkpoint is complete"
    with pytest.raises(InputError, match=message):
        train.train(config, str(tmp_path))
    with checkpoints.open_checkpoints(tmp_path / "checkpoints", keep=2) as manager:
        assert manager.latest_step() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3, "devices": 2}, "batch_size 3 does not divide among 2"),
        ({"devices": 99}, "devices is 99, of which this host has 2: use 0 for all"),
        ({"accumulate": 3}, "batch_size 4 does not divide among 1 devices x 3 parts"),
        ({"parallel": "pmop"}, "parallel is 'pmop': use 'pmap' or 'jit'"),
        ({"precision": "half"}, "precision is 'half': use 'float32' or 'bfloat16'"),
        ({"optimizer.name": "adam"}, "optimizer.name is 'adam'"),
        ({"optimizer.schedule": "step"}, "optimizer.schedule is 'step'"),
        ({"validation.every": 2}, "there is nothing to measure"),
        ({"data.directory": ""}, "data.directory is empty"),
        ({"data.sources.images.path": ""}, "data.sources.images.path is empty"),
        ({"data.sources": ConfigDict()}, "data.sources is empty: name photos"),
        ({"init_from": "nowhere"}, "init_from: nowhere: no such folder"),
        ({"model.reduced_dimension": 0}, "loss.reconstruction must be 0 where model"),
        (
            {"loss.map_distillation": 1.0},
            "is empty, and loss.map_distillation needs it",
        ),
        (
            {"loss.map_distillation": 1.0, "teacher.model": "nowhere"},
            "nowhere: no such model folder",
        ),
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


def test_a_workdir_has_a_name_and_in_utf8(config):
    with pytest.raises(InputError, match="--workdir is empty"):
        train.train(config, "")
    with pytest.raises(InputError, match="choose a folder whose name is UTF-8"):
        train.train(config, os.fsdecode(b"w\xfc"))


@pytest.mark.slow
def test_grey_broken_and_lonely_images_and_an_empty_class_stop_nothing(
    tmp_path, capsys
):
    images = draw_images(tmp_path / "images", each=2)
    (images / "empty").mkdir()
    (images / "lonely").mkdir()
    shutil.copy(images / "a" / "0.png", images / "lonely")
    grey = np.random.default_rng(0).integers(0, 256, (70, 90), np.uint8)
    cv2.imwrite(str(images / "b" / "grey.png"), grey)
    whole = (images / "a" / "0.png").read_bytes()
    (images / "b" / "half.png").write_bytes(whole[: len(whole) // 2])
    config = make_config(images, tmp_path / "data")
    outcome = train.train(config, str(tmp_path / "run"))
    assert outcome.finished and np.isfinite(outcome.metrics["loss"])
    printed = capsys.readouterr().out
    assert "left out: class empty of images" in printed
    assert re.search(r"left out: .*half\.png: .*\n", printed)
    assert printed.count("left out: ") == 2
    kernel = final_state(tmp_path / "run")["params/model/classifier/kernel"]
    assert kernel.shape[1] == 3


def fields_of(images, prepared, **others):
    """Plain SGD, and no learning rate that grows: rounding is not enlarged."""
    return {
        "data.sources.images.path": images,
        "data.directory": prepared,
        "batch_size": 8,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.3,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        **others,
    }


def finish(*programs):
    for program in programs:
        printed, _ = program.communicate(timeout=600)
        assert program.returncode == 0, printed


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_devices_hosts_and_how_the_step_is_shared_out_do_not_matter(
    images, prepared, tmp_path
):
    """1 device, 8 devices, and 2 hosts of 4; each under pmap and under jit."""
    fields = fields_of(images, prepared, steps=3, checkpoint_every=3, devices=0)
    found = {}
    for how in ("pmap", "jit"):
        fields["parallel"] = how
        for devices in (1, 8):
            workdir = tmp_path / f"{how}{devices}"
            finish(train_in_process(fields, workdir, devices=devices))
            found[how, devices] = final_state(workdir)
        workdir, port = tmp_path / f"{how}2x4", free_port()
        hosts = [
            train_in_process(
                fields, workdir, devices=4, multihost=f"127.0.0.1:{port},{i}/2"
            )
            for i in range(2)
        ]
        finish(*hosts)
        found[how, "2x4"] = final_state(workdir)
    expected = found["pmap", 1]
    config = read_training_config(
        TINY, [f"--config.{name}={value}" for name, value in fields.items()]
    )
    static, _ = make_static(config, 2, None)
    start = functools.partial(create_state, static, view_size=64)
    before = by_name(jax.jit(start)(jax.random.key(0)))
    for run, state in found.items():
        for name, value in state.items():
            if name.startswith(("params/", "batch_stats/")):
                moved = np.abs(expected[name] - before[name]).max() + 1e-6
                difference = np.abs(value - expected[name]).max() / moved
                assert difference < 0.02, (run, name, difference)


@pytest.mark.slow
def test_classes_in_pieces_on_two_hosts_are_under_jit_as_under_pmap(
    images, prepared, tmp_path
):
    """Two classes on four devices: half of the pieces are empty."""
    fields = fields_of(images, prepared, steps=2, checkpoint_every=2, devices=0)
    fields |= {"loss.classifier": "sharded"}
    for how in ("pmap", "jit"):
        fields["parallel"], port = how, free_port()
        hosts = [
            train_in_process(
                fields, tmp_path / how, devices=2, multihost=f"127.0.0.1:{port},{i}/2"
            )
            for i in range(2)
        ]
        finish(*hosts)
    expected, found = final_state(tmp_path / "pmap"), final_state(tmp_path / "jit")
    assert expected["params/model/classifier/kernel"].shape == (32, 2)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_a_training_resumes_on_another_number_of_devices(images, prepared, tmp_path):
    """From four devices under pmap to one under jit."""
    fields = fields_of(images, prepared, checkpoint_every=4, devices=0)
    # Whether a match is right is yes or no: rounding may turn it.
    fields |= {"loss.matchability": 0.0}
    finish(train_in_process({**fields, "steps": 4}, tmp_path / "one"))
    moved = {**fields, "steps": 2}
    finish(train_in_process(moved, tmp_path / "moved", devices=4))
    moved |= {"steps": 4, "parallel": "jit"}
    finish(train_in_process(moved, tmp_path / "moved"))
    expected, found = final_state(tmp_path / "one"), final_state(tmp_path / "moved")
    for name, value in expected.items():
        if name.startswith(("params/", "batch_stats/")):
            scale = np.abs(value).max() + 1e-4
            difference = np.abs(found[name] - value).max() / scale
            assert difference < 1e-3, (name, difference)


@pytest.mark.slow
def test_a_training_killed_ten_times_ends_as_one_that_was_not(
    images, prepared, tmp_path
):
    """With SIGKILL, at random moments of starting, training and saving."""
    fields = fields_of(images, prepared, steps=40, checkpoint_every=2, devices=1)
    fields |= {"optimizer.name": "adamw", "log_every": 1}
    finish(train_in_process(fields, tmp_path / "whole"))
    rng, reached = np.random.default_rng(0), []
    for _ in range(10):
        program = train_in_process(fields, tmp_path / "killed")
        lines = []
        # It is killed some steps after it has printed so many lines.
        for line in program.stdout:
            lines.append(line)
            if line.startswith("step ") and rng.random() < 0.25:
                break
        time.sleep(rng.uniform(0, 0.3))
        program.kill()
        program.communicate()
        steps = [x.split("/")[0] for x in lines if x.startswith("step ")]
        reached.append(steps[-1] if steps else "start")
    print("killed after", reached)
    finish(train_in_process(fields, tmp_path / "killed"))
    expected = final_state(tmp_path / "whole")
    found = final_state(tmp_path / "killed")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_to_one_host_stops_both_with_one_checkpoint(
    images, prepared, tmp_path
):
    fields = fields_of(images, prepared, steps=10_000, checkpoint_every=10_000)
    fields |= {"devices": 0, "log_every": 1}
    address = f"127.0.0.1:{free_port()}"
    hosts = [
        train_in_process(
            fields, tmp_path / "run", devices=2, multihost=f"{address},{i}/2"
        )
        for i in range(2)
    ]
    for line in hosts[0].stdout:
        if line.startswith("step 3/"):
            break
    hosts[1].terminate()
    printed = [host.communicate(timeout=600)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], printed
    steps = [re.findall(r"stopped at step (\d+)", text) for text in printed]
    assert steps[0] == steps[1] != []
    assert final_state(tmp_path / "run")["step"] == int(steps[0][0])
