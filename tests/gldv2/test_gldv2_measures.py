import numpy as np
import pytest

from delf_jax.formats.datasets.gldv2 import Recognition
from delf_jax.gldv2.scores import measure

IDS = [f"{number:016x}" for number in range(300)]


@pytest.fixture
def truth():
    return {id: ["x"] for id in IDS}


@pytest.fixture
def found(rng):
    return {id: ["x"] if rng.random() < 0.3 else ["y"] for id in IDS}


def test_intervals_hold_what_draws_of_images_say(truth, found, rng):
    (numbers,) = measure("retrieval", [found], truth, rng)
    value, (low, high), _ = numbers["mAP@100"]
    expected = 1.96 * np.sqrt(value * (1 - value) / 300)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)


def test_without_draws_there_are_numbers_alone(truth, found, rng):
    (plain,) = measure("retrieval", [found], truth, None)
    (drawn,) = measure("retrieval", [found], truth, rng)
    assert {n: v.value for n, v in plain.items()} == {
        n: v.value for n, v in drawn.items()
    }
    assert all(v.interval is None and v.gain is None for v in plain.values())


@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_what_is_compared_with_itself_gains_nothing(task, rng):
    truth = {id: [["x"], [1]][task == "recognition"] for id in IDS[:20]}
    one = {"retrieval": ["x"], "recognition": Recognition(1, 0.5)}[task]
    found = dict.fromkeys(IDS[:10], one)
    first, second = measure(task, [found, found], truth, rng)
    for name, value in second.items():
        assert value.value == first[name].value and first[name].gain is None
        assert value.gain in (None, (0, 0))
