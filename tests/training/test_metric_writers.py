"""metrics.jsonl and TensorBoard events, without TensorFlow."""

import json
import subprocess
import sys

import numpy as np

from delf_jax.training.log import MetricWriter


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


def test_importing_needs_no_tensorflow():
    program = (
        "import sys, delf_jax.training.log, delf_jax.data.loader\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
