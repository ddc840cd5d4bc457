import pathlib

import pytest

from delf_jax.config import read_config
from delf_jax.files import InputError
from delf_jax.training.config import (
    MAY_CHANGE,
    check_same_run,
    read_training_config,
)

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict({"seed": 0, "rate": 0.1, "sizes": (1, 2)})
    config.loss = ConfigDict({"margin": 0.1})
    return config
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path / "config.py"


def test_overrides_replace_single_fields_by_their_type(path):
    overrides = ["--config.loss.margin=1", "--config.sizes=3,4", "--config.seed=7"]
    config = read_config(path, overrides)
    assert config.to_dict() == {
        "seed": 7,
        "rate": 0.1,
        "sizes": (3, 4),
        "loss": {"margin": 1.0},
    }
    assert isinstance(config.loss.margin, float)


def test_the_last_of_two_overrides_counts(path):
    overrides = ["--config.seed=1", "--config.seed=2"]
    assert read_config(path, overrides).seed == 2


def test_a_config_is_locked(path):
    with pytest.raises(AttributeError):
        read_config(path).sede = 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.sede=1", 'no field sede .*Did you mean "seed"'),
        ("--config.loss.margn=1", 'no field margn .*Did you mean "margin"'),
        ("--config.seed=x", "use a whole number"),
        ("--config.seed=1.5", "use a whole number"),
        ("--config.seed", "FIELD=VALUE"),
        ("--seed=1", "FIELD=VALUE"),
        ("extra", "FIELD=VALUE"),
    ],
)
def test_a_wrong_override_is_named(path, override, words):
    with pytest.raises(InputError, match=words) as caught:
        read_config(path, ["--config.rate=1", override])
    assert str(caught.value).startswith(f"{override}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "def get_config(",
        "raise RuntimeError('oh')",
        "seed = 3",
        "get_config = dict",
        "import nowhere_to_be_found",
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(InputError, match=r"wrong\.py: "):
        read_config(path)
    with pytest.raises(InputError, match="no such config"):
        read_config(tmp_path / "absent.py")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem
)
def test_every_config_can_be_read_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config(path).is_locked


def test_training_takes_configs_with_all_fields_of_the_common_one(path, tmp_path):
    assert read_training_config(ROOT / "configs" / "common.py").is_locked
    words = "train expects one that starts from configs/common.py"
    with pytest.raises(InputError, match=rf"config\.py: has no .*, steps, .*; {words}"):
        read_training_config(path)
    for name in ("delf_gld", "released"):
        with pytest.raises(InputError, match=f"a config of extraction; {words}"):
            read_training_config(ROOT / "configs" / f"{name}.py")
    with pytest.raises(InputError, match=rf"x\.pbtxt: a text config .*; {words}"):
        read_training_config(tmp_path / "x.pbtxt")


BEFORE = {"steps": 10, "seed": 0, "optimizer": {"momentum": 0.9, "learning_rate": 0.1}}


def test_a_run_may_become_longer_and_slower():
    now = {"steps": 20, "seed": 0, "optimizer": {"momentum": 0.9, "learning_rate": 1}}
    assert check_same_run(BEFORE, now, "runs/a/10") == [
        "optimizer.learning_rate 1 instead of 0.1",
        "steps 20 instead of 10",
    ]
    assert check_same_run(BEFORE, BEFORE, "runs/a/10") == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({**BEFORE, "seed": 1}, "seed 0, this config has 1"),
        ({**BEFORE, "width": 8}, "width absent, this config has 8"),
        (
            {**BEFORE, "optimizer": {"momentum": 0.5, "learning_rate": 0.1}},
            "optimizer.momentum 0.9, this config has 0.5",
        ),
    ],
)
def test_a_field_that_may_not_change_on_the_way_is_named(now, words):
    with pytest.raises(InputError, match=f"^runs/a/10: was trained with {words}; ch"):
        check_same_run(BEFORE, now, "runs/a/10")


def test_what_may_change_on_the_way_exists_and_the_common_config_says_it():
    path = ROOT / "configs" / "common.py"
    config = read_training_config(path)
    text = path.read_text()
    for name in MAY_CHANGE:
        value = config
        for part in name.split("."):
            value = value[part]
        assert name.split(".")[0] in text.split('"""')[1]


def test_our_configs_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config("configs/tiny.py").steps == 6
    with pytest.raises(InputError, match="^configs/none.py: no such config file"):
        read_config("configs/none.py")


def test_a_config_of_ones_own_may_start_from_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "configs"):
        folder.mkdir(exist_ok=True)
        text = (ROOT / "configs" / "tiny.py").read_text("utf-8")
        (folder / "mine.py").write_text(text.replace("steps = 6", "steps = 7"))
    assert read_config("mine.py").steps == 7
    assert read_config("configs/mine.py").steps == 7
