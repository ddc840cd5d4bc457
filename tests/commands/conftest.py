"""What tests of commands share: photos, and a command line with the tiny model."""

import numpy as np
import pytest
from PIL import Image

from delf_jax import cli


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four photos of coarse noise; 0.png and 1.png show the same, shifted."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(4):
        small = rng.integers(0, 256, (16, 20, 3), np.uint8)
        wide = Image.fromarray(small).resize((200, 160), Image.Resampling.BICUBIC)
        if number == 0:
            wide.crop((40, 32, 168, 128)).save(folder / "0.png")
            wide.crop((24, 16, 152, 112)).save(folder / "1.png")
        elif number > 1:
            wide.crop((0, 0, 128, 96)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(tiny_model, capsys):
    """Runs a command line with the tiny model: (status, standard output)."""

    def run(*arguments, model=True):
        arguments = [str(argument) for argument in arguments]
        status = cli.main(arguments + ([f"--model={tiny_model}"] if model else []))
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def index(run, photos, tmp_path):
    option = f"--index={tmp_path / 'index'}"
    assert run("index", photos, option)[0] == 0
    return option
