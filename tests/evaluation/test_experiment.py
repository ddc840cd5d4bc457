import pathlib
import re

import pytest

from delf_jax import cli
from delf_jax.data.download_catalogue import DOWNLOADS
from delf_jax.evaluation.experiment import read_experiment_config
from delf_jax.extraction import settings
from delf_jax.extraction.config import read_extraction_config, replaced_settings
from delf_jax.files import InputError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
RELEASED = {
    "r50delg_gld": "r50delg_gld_20200814",
    "r101delg_gld": "r101delg_gld_20200814",
    "r50delg_gldv2clean": "r50delg_gldv2clean_20200914",
    "r101delg_gldv2clean": "r101delg_gldv2clean_20200914",
    "rn101_af_gldv2clean": "rn101_af_gldv2clean_20200814",
    "delf_asmk": "delf_gld_20190411/model",
    "d2r_asmk": "delf_gld_20190411/model",
}
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "model": "models/mine",
        "experiment": {"weights": "mine_2020", "datasets": ("a",), "ways": ("global",)},
    })
"""


def write(tmp_path, text):
    path = tmp_path / "own.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_models_have_experiments(name):
    config = read_experiment_config(CONFIGS / f"{name}.py")
    assert config.experiment.weights == RELEASED[name]
    assert config.experiment.datasets == ("roxford5k", "rparis6k")
    ways = {way for _, way, *_ in config.experiment.paper}
    assert ways == set(config.experiment.ways)
    chosen = replaced_settings(config)
    assert settings.make_settings(chosen).image_scales == chosen["image_scales"]


@pytest.mark.parametrize("name", ["delf_asmk", "d2r_asmk"])
def test_the_experiments_with_visual_words_say_how_they_are_made(name):
    given = read_experiment_config(CONFIGS / f"{name}.py").experiment
    assert given.verification == "d2r"
    assert (given.codebook.words, given.codebook.iterations) == (65_536, 50)
    assert dict(given.codebook.learned_on)["roxford5k"] == "rparis6k"


@pytest.mark.parametrize("name", RELEASED)
def test_headers_say_the_commands_and_the_figures(name):
    text = (CONFIGS / f"{name}.py").read_text()
    header = text.split('"""')[1]
    # The model first, then what else is needed.
    model, *_ = re.findall(r"python main.py download (\w+) --yes --out=models", header)
    assert DOWNLOADS[model].use.source == f"released/{RELEASED[name].split('/')[0]}"
    assert f"python main.py reproduce --config=configs/{name}.py --data=" in header
    assert "Not run here" in header.replace("\n", " ")


def test_extraction_takes_the_same_file_and_leaves_the_experiment_alone(tmp_path):
    config, _ = read_extraction_config(write(tmp_path, CONFIG))
    assert config.model == "models/mine" and "experiment" not in config


def test_fields_of_both_sections_are_replaced(tmp_path):
    fields = ["experiment.codebook.words=16", "extraction.max_features=5"]
    overrides = [f"--config.{field}" for field in fields]
    config = read_experiment_config(write(tmp_path, CONFIG), overrides)
    assert config.experiment.codebook.words == 16
    assert config.extraction.max_features == 5
    ways = ["--config.experiment.ways=('global', 'superglobal')"]
    config = read_experiment_config(write(tmp_path, CONFIG), ways)
    assert config.experiment.ways == ("global", "superglobal")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"weights"', '"wights"', r"no field experiment\.wights"),
        ('("a",)', "()", r"experiment\.datasets: not allowed"),
        ('("a",)', "(1,)", r"experiment\.datasets: not allowed"),
        (
            '("global",)',
            '("globl",)',
            r"\.ways: expected steps .*; got 'globl'",
        ),
        ('("global",)', "()", r"experiment\.ways: not allowed"),
        ('("global",)', '("asmk",)', r"asmk needs visual words: set experiment\.codeb"),
        ('("global",)', '("vlad",)', r"vlad needs visual words: set experiment\.codeb"),
        ('"mine_2020"', "3", r"own\.py: experiment\.weights: "),
        ('"weights"', '"paper": (("a", "b", 1),), "weights"', r"\.paper: not allowed"),
        (
            '"weights"',
            '"codebook": {"words": -1}, "weights"',
            r"codebook\.words: not allowed",
        ),
        (
            '"weights"',
            '"codebook": {"learned_on": ("a",)}, "weights"',
            r"codebook\.learned_on: not allowed",
        ),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path, old, new, message):
    assert old in CONFIG
    with pytest.raises(InputError, match=message):
        read_experiment_config(write(tmp_path, CONFIG.replace(old, new, 1)))


def test_a_config_without_an_experiment_is_refused(tmp_path):
    for name in ("delf_gld.py", "common.py"):
        with pytest.raises(InputError, match="no section experiment"):
            read_experiment_config(CONFIGS / name)
    with pytest.raises(InputError, match="a text config of the original"):
        read_experiment_config(tmp_path / "x.pbtxt")


def test_weights_that_are_not_there_are_named_with_the_command(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    asked = [f"--config={CONFIGS / 'r50delg_gld.py'}", "--data=data"]
    assert cli.main(["reproduce", *asked]) == 2
    assert capsys.readouterr().err == (
        "error: models/r50delg_gld: no such model; run `download r50delg_gld --yes "
        "--out=models` first, or name another folder with --model\n"
    )
