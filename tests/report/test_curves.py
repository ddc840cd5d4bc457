"""Curves of several trainings in one figure."""

import json
import os

import cv2
import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.report import curves


@pytest.fixture
def run(tmp_path):
    lines = [
        json.dumps({"step": 1, "loss": 2.0, "learning_rate": 0.1}),
        json.dumps({"step": 2, "loss": None, "learning_rate": 0.1}),
        json.dumps({"step": 2, "validation/mAP": 0.5}),
        json.dumps({"step": 3, "loss": 1.0, "learning_rate": 0.1}),
        '{"step": 4, "lo',
    ]
    damaged = b'{"step": 5, "loss": 3.0, "\xff": 1}\n[1]\n{"step": [1]}\n'
    damaged += b"[" * 100_000 + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(damaged + "\n".join(lines).encode())
    return tmp_path


def test_curves_are_read_without_broken_lines_and_missing_numbers(run):
    assert curves.read_curves(run) == {
        "loss": ([1, 3], [2.0, 1.0]),
        "learning_rate": ([1, 2, 3], [0.1] * 3),
        "validation/mAP": ([2], [0.5]),
    }


def test_what_watches_a_network_is_drawn_by_name_alone(tmp_path):
    runs = {"run": {"attention/max": ([1], [2.0]), "sparsity/block1": ([1], [0.5])}}
    with pytest.raises(InputError, match="nothing to draw yet"):
        curves.draw_curves(runs, tmp_path / "curves.png")
    assert curves._worth_drawing({"run": {"attention": ([1], [2.0])}}) == ["attention"]


def test_a_folder_that_is_no_training_is_named(tmp_path):
    with pytest.raises(InputError, match="no training; it has no metrics.jsonl"):
        curves.read_curves(tmp_path)


def made(count, length):
    rng = np.random.default_rng(0)
    steps = list(range(1, length + 1))
    return {
        f"margin=0.{i}": {
            name: (steps, list(rng.random(length) + 10 / (np.array(steps) + i)))
            for name in ("loss", "arcface_accuracy", "learning_rate", "validation/mAP")
        }
        for i in range(count)
    }


@pytest.mark.parametrize(("count", "length"), [(1, 1), (3, 30), (12, 300)])
def test_a_figure_has_a_panel_for_each_metric(tmp_path, count, length):
    path = tmp_path / "curves.png"
    curves.draw_curves(made(count, length), path)
    image = cv2.imread(str(path))
    assert image.shape[1] == pytest.approx(3 * 3.6 * 130, abs=2)
    assert (image == 255).all(2).mean() > 0.5  # and not all of it.


def test_runs_of_any_name_are_drawn(tmp_path):
    (curve,) = made(1, 2).values()
    names = ("a$b_c$", "x\n\x1b[1m", os.fsdecode(b"caf\xe9"))
    curves.draw_curves(dict.fromkeys(names, curve), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_metrics_are_drawn_in_the_order_asked_for_and_unknown_ones_named(tmp_path):
    runs, path = made(2, 5), tmp_path / "curves.png"
    curves.draw_curves(runs, path, metrics=["learning_rate"])
    assert cv2.imread(str(path)).shape[1] == pytest.approx(3.6 * 130, abs=2)
    with pytest.raises(InputError, match="no run has the metric 'lost'; there are arc"):
        curves.draw_curves(runs, path, metrics=["lost"])
    with pytest.raises(InputError, match="must end in one of"):
        curves.draw_curves(runs, tmp_path / "curves.xyz")


def test_the_loss_comes_first_and_the_learning_rate_is_left_out():
    names = curves._worth_drawing(made(1, 2))
    assert names == ["loss", "validation/mAP", "arcface_accuracy"]


def test_runs_have_the_shortest_names_that_tell_them_apart(tmp_path):
    paths = [tmp_path / "a" / "x", tmp_path / "b" / "x"]
    assert list(curves.name_runs(paths)) == ["a/x", "b/x"]
    assert list(curves.name_runs([tmp_path / "a", tmp_path / "b"])) == ["a", "b"]


def test_smoothing_keeps_a_constant_and_its_ends():
    np.testing.assert_allclose(curves.smoothed(np.ones(50), 5), 1)
    line = curves.smoothed(np.arange(50.0), 5)
    np.testing.assert_allclose(line[5:-5], np.arange(5, 45))
