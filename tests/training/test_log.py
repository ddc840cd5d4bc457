"""What a training prints and writes, and when it stops."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from clu import metrics
from flax import linen as nn
from ml_collections import ConfigDict

from delf_jax.config import read_config
from delf_jax.files import InputError
from delf_jax.training import log
from delf_jax.training.log import MetricWriter, TrainingLog
from tests.helpers.tiny_training import TINY, make_config, plain_static

Loss = metrics.Collection.create(loss=metrics.Average.from_output("loss"))


def loss_of(value: float) -> metrics.Collection:
    return Loss.single_from_model_output(loss=np.float32(value))


@pytest.fixture
def training_log(tmp_path):
    training_log = TrainingLog(
        ConfigDict({"steps": 10, "batch_size": 4}), tmp_path, lambda step: 0.5, 0
    )
    yield training_log
    training_log.close()


def test_a_flush_writes_and_prints_the_mean_of_the_steps_since_the_last(
    training_log, tmp_path, capsys
):
    ids = np.array(["a", "b"])
    for step, value in ((1, 1.0), (2, 3.0)):
        training_log.add(step, ids, loss_of(value))
    training_log.flush()
    training_log.add(3, ids, loss_of(7.0))
    training_log.flush()
    lines = [
        json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 2.0), (3, 7.0)]
    assert lines[0]["learning_rate"] == 0.5
    assert lines[0]["images_per_second"] > 0
    printed = capsys.readouterr().out
    assert "step 2/10 loss 2 " in printed
    assert "images/s" in printed
    assert " left" in printed


def test_a_flush_without_steps_writes_nothing(training_log, tmp_path):
    training_log.flush()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_loss_that_is_no_number_is_named_with_its_images(training_log, bad):
    training_log.add(1, np.array(["a/1.jpg"]), loss_of(1.0))
    training_log.add(2, np.array(["b/2.jpg", "c/3.jpg"]), loss_of(bad))
    training_log.add(3, np.array(["d/4.jpg"]), loss_of(np.nan))
    with pytest.raises(InputError, match=r"step 2: .* b/2.jpg, c/3.jpg"):
        training_log.flush()


def read_lines(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def events_of(folder) -> bytes:
    return b"".join(p.read_bytes() for p in (folder / "events").iterdir())


def test_scalars_become_lines_and_events(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write_scalars(3, {"loss": np.float32(0.5), "rate": 2})
    writer.write_images(3, {"view": np.zeros((4, 5, 3), np.uint8)})
    writer.write_hparams({"seed": 7})
    writer.close()
    assert read_lines(tmp_path) == [{"step": 3, "loss": 0.5, "rate": 2.0}]
    events = events_of(tmp_path)
    assert b"loss" in events
    assert b"view" in events
    assert b'"seed": 7' in events


def test_a_flushed_line_is_readable_before_the_end(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    assert read_lines(tmp_path) == [{"step": 1, "loss": 1.0}]
    writer.close()


def test_what_is_no_number_is_null_in_json(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write_scalars(1, {"loss": float("nan"), "norm": float("inf")})
    writer.close()
    assert read_lines(tmp_path) == [{"step": 1, "loss": None, "norm": None}]


def test_a_resumed_run_drops_steps_after_its_checkpoint_and_broken_lines(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    writer = MetricWriter(tmp_path, last_step=2)
    writer.write_scalars(3, {"loss": 30})
    writer.close()
    assert [line["loss"] for line in read_lines(tmp_path)] == [1, 2, 30]


def test_a_resumed_run_drops_lines_that_are_no_text_any_more(tmp_path):
    lines = b'{"step": 1, "loss": 2.0}\n{"step": 1, "l\xffss": 2.0}\n[1]\n'
    lines += b"[" * 100_000 + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    MetricWriter(tmp_path, last_step=1).close()
    assert read_lines(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_a_resumed_run_begins_a_line_after_one_whose_end_was_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}')
    writer = MetricWriter(tmp_path, last_step=1)
    writer.write_scalars(2, {"loss": 1.0})
    writer.close()
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2]


def test_importing_needs_no_tensorflow():
    program = (
        "import sys, delf_jax.training.log, delf_jax.data.loader\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


class Backbone(nn.Module):
    """Stages as a ResNet has them, and a map between."""

    axis_name: str | None = None

    def __call__(self, images):
        return {"block0": nn.relu(images), "stage1": images, "block1": images}


class Net(nn.Module):
    """Attention is what a pixel has of red."""

    backbone: Backbone

    def __call__(self, images, sizes=None):
        self.backbone(images)
        return {"attention": images[..., 0]}


def test_what_dies_is_measured_in_the_originals_names(rng):
    images = rng.integers(0, 256, (9, 2, 4, 5, 3), dtype=np.uint8)
    static = plain_static(make_config("", ""))._replace(
        module=Net(Backbone()), pixel_mean=(128.0,) * 3, pixel_std=(64.0,) * 3
    )
    averages = {"params": {"gem_power": np.float32(2.5)}, "batch_stats": {}}
    found = log.watch(static, averages, {"image": images})
    seen = (images[:8, 0].astype(np.float64) - 128) / 64  # as many as are shown.
    red = seen[..., 0]
    expected = {
        "image_range/max": seen.max(),
        "image_range/min": seen.min(),
        "sparsity/block0": (seen <= 0).mean(),
        "sparsity/block1": (seen == 0).mean(),
        "attention/max": red.max(),
        "attention/min": red.min(),
        "attention/mean": red.mean(),
        "gem_power": 2.5,
    }
    for share in (25, 50, 75):
        nearest = np.percentile(red, share, method="nearest")
        expected[f"attention/percent_{share}"] = nearest
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_flush_watches_only_what_is_finite_and_prints_no_more(
    training_log, tmp_path, capsys
):
    training_log.add(1, np.array(["a"]), loss_of(1.0))
    training_log.flush(lambda: {"attention/max": 3.0})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["attention/max"] == 3.0
    assert "attention" not in capsys.readouterr().out
    training_log.add(2, np.array(["a"]), loss_of(np.nan))
    with pytest.raises(InputError, match="is not a finite number"):
        training_log.flush(lambda: pytest.fail("watched"))


def test_a_sheet_shows_examples_side_by_side_and_views_below():
    views = np.arange(3 * 2, dtype=np.uint8).reshape(3, 2, 1, 1, 1)
    views = np.broadcast_to(views, (3, 2, 4, 4, 3))
    sheet = log.sheet(views)
    assert sheet.shape == (8, 12, 3)
    np.testing.assert_array_equal(sheet[::4, ::4, 0], [[0, 2, 4], [1, 3, 5]])


def test_an_overlay_is_bright_where_attention_is():
    image = np.full((32, 32, 3), 100, np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[3, 0] = 7.0
    shown = log.overlay(image, attention).sum(-1)
    assert shown[30, 1] > 2 * shown[1, 30]
    flat = log.overlay(image, np.zeros((4, 4), np.float32))
    assert (flat == flat[0, 0]).all()


def test_what_a_batch_shows_ends_with_the_eighth_example(monkeypatch):
    images = np.zeros((9, 2, 16, 16, 3), np.uint8)
    static = plain_static(make_config("", ""))
    maps = np.ones((8, 2, 2), np.float32)
    monkeypatch.setattr(log, "_attention", lambda *rest: maps)
    shown = log.look(static, {}, {"image": images})
    assert {name: x.shape for name, x in shown.items()} == {
        "batch": (32, 128, 3),
        "attention": (32, 128, 3),
    }
    dense = ["--config.loss.classifier=dense"]
    config = read_config(TINY.parent / "gldv2_arcface_r101.py", dense)
    static = plain_static(config)
    assert list(log.look(static, {}, {"image": images})) == ["batch"]


class FakeRun:
    """Stands for a run of Weights & Biases."""

    def __init__(self):
        self.logged, self.finished = [], False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_a_run_of_weights_and_biases_gets_the_metrics_and_ends(tmp_path):
    run = FakeRun()
    writer = MetricWriter(tmp_path, run=run)
    writer.write_scalars(3, {"loss": np.float32(0.5)})
    writer.close()
    assert run.logged == [(3, {"loss": 0.5})] and run.finished


def test_a_run_is_resumed_by_the_number_in_its_workdir(tmp_path, monkeypatch):
    begun = []
    fake = types.SimpleNamespace(
        init=lambda **fields: begun.append(fields) or FakeRun(),
        Settings=lambda **fields: fields,
        errors=types.SimpleNamespace(Error=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = ConfigDict({"wandb_project": "mine", "seed": 3})
    for _ in range(2):
        log.open_wandb(config, tmp_path)
    first, second = begun
    assert first["id"] == second["id"] and first["project"] == "mine"
    assert first["config"]["seed"] == 3 and first["name"] == tmp_path.name

    def fail(**_):
        raise RuntimeError("api_key not configured\nmore")

    fake.init = fail
    with pytest.raises(InputError, match="api_key not configured; run `wandb login`"):
        log.open_wandb(config, tmp_path)


def test_without_the_package_a_project_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(log.importlib.util, "find_spec", lambda name: None)
    log.check_wandb(ConfigDict({"wandb_project": ""}))
    message = r"wandb_project is 'mine', and wandb is not installed: pip install"
    with pytest.raises(InputError, match=message):
        log.check_wandb(ConfigDict({"wandb_project": "mine"}))


@pytest.mark.slow
def test_offline_a_run_lies_in_the_workdir_until_it_is_sent(tmp_path):
    """In a process of its own: the package starts others."""
    pytest.importorskip("wandb")
    code = f"""
import pathlib
from ml_collections import ConfigDict
from delf_jax.training.log import MetricWriter, open_wandb
folder = pathlib.Path({str(tmp_path)!r})
run = open_wandb(ConfigDict({{"wandb_project": "mine", "seed": 3}}), folder)
writer = MetricWriter(folder, run=run)
writer.write_scalars(1, {{"loss": 0.5}})
writer.close()
"""
    environment = {**os.environ, "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=300)
    assert done.returncode == 0
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith((tmp_path / "wandb_run").read_text())
    assert list(folder.glob("run-*.wandb"))
