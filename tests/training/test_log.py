"""What a training says, and when it refuses to go on."""

import json

import numpy as np
import pytest
from clu import metrics
from ml_collections import ConfigDict

from delf_jax.files import InputError
from delf_jax.training.log import TrainingLog, _format_duration

Loss = metrics.Collection.create(loss=metrics.Average.from_output("loss"))


def loss_of(value: float) -> metrics.Collection:
    return Loss.single_from_model_output(loss=np.float32(value))


@pytest.fixture
def log(tmp_path):
    log = TrainingLog(
        ConfigDict({"steps": 10, "batch_size": 4}), tmp_path, lambda step: 0.5, 0
    )
    yield log
    log.close()


def test_a_flush_writes_and_prints_the_mean_of_the_steps_since_the_last(
    log, tmp_path, capsys
):
    ids = np.array(["a", "b"])
    for step, value in ((1, 1.0), (2, 3.0)):
        log.add(step, ids, loss_of(value))
    log.flush()
    log.add(3, ids, loss_of(7.0))
    log.flush()
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


def test_a_flush_without_steps_writes_nothing(log, tmp_path):
    log.flush()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_loss_that_is_no_number_is_named_with_its_images(log, bad):
    log.add(1, np.array(["a/1.jpg"]), loss_of(1.0))
    log.add(2, np.array(["b/2.jpg", "c/3.jpg"]), loss_of(bad))
    log.add(3, np.array(["d/4.jpg"]), loss_of(np.nan))
    with pytest.raises(InputError, match=r"step 2: .* b/2.jpg, c/3.jpg"):
        log.flush()


@pytest.mark.parametrize(
    ("seconds", "words"), [(45.2, "45 s"), (720.0, "12 min"), (12240.0, "3.4 h")]
)
def test_durations_are_spoken_in_the_unit_of_their_size(seconds, words):
    assert _format_duration(seconds) == words
