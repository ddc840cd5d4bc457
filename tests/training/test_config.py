"""What a config of a training may say, and what it takes from another model."""

import copy
import inspect
import itertools
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from delf_jax.config import as_json, check_field, fields_of, read_ranges
from delf_jax.extraction import settings
from delf_jax.extraction.model_folder import BUNDLED
from delf_jax.files import InputError, write_json
from delf_jax.models import architecture
from delf_jax.training import inputs
from delf_jax.training.build import make_static
from delf_jax.training.config import (
    check_same_run,
    check_sources,
    check_values,
    read_training_config,
    start_folder,
)
from delf_jax.training.objective import LossSettings
from delf_jax.training.step import PARTS
from tests.helpers.tiny_training import make_config
from tests.test_configs import FOLDER, TRAININGS

ODD = (0, -1, math.nan, math.inf, -math.inf, 1e18, "", "x", (), None, True, [], {})
# What a config can have beside those of configs/tiny.py, with a value that is right.
EXTRA = {
    "data.sources.images.images": "photos",
    "data.sources.images.label_column": "name",
    "data.sources.images.split": "train",
    "data.sources.images.holdout": ("a",),
    "data.sources.images.unlabelled": ("b",),
    "data.sources.images.weight": 0.5,
    "data.sources.drawn.first": 0,
    "data.sources.drawn.landmarks": 3,
    "data.sources.drawn.views": 2,
    "model.pooling": "mac",
    "model.learn_power": True,
    "model.block3_strides": False,
    "model.block4_dilation": 1,
}
COMMON, RANGES = read_ranges("common")
FIELDS = sorted({*dict(fields_of(COMMON)), *EXTRA} - {"data.sources"})


def with_field(name, value):
    """configs/tiny.py with one field replaced, whatever its type was."""
    config = make_config("images", "prepared")
    with config.unlocked():
        config.data.sources.drawn = ConfigDict({"landmarks": 3})
        *above, last = name.split(".")
        section = config
        for part in above:
            section = section[part]
        if last in section:
            del section[last]
        section[last] = value
    return config


@pytest.mark.parametrize("name", FIELDS)
def test_an_odd_value_is_one_sentence_or_makes_a_training(name):
    """Without one: what is left is refused, or modules and losses can be made of it."""
    refused = 0
    for value in ODD:
        config = with_field(name, value)
        try:
            check_values(config)
            check_sources(config)
            inputs.view_settings(config)
            make_static(config, 3, None)
        except InputError as error:
            assert "\n" not in str(error)
            assert name in str(error) or name.split(".")[-1] in str(error)
            refused += 1
    assert refused >= 5  # None, at the least, is allowed for one field alone.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "batch_size is 0: use a whole number from 1 to 1048575"),
        ("optimizer.learning_rate=nan", r"rate is nan: use a number in \(0, inf\)"),
        ("model.depth=17", "model.depth is 17: use 18 or 22 or 26 or 50 or 101"),
        ("views.size=0", "views.size is 0: use a whole number from 32 to 8191"),
        ("views.area=0.1", "a tuple of 2 values, each a number in .0, 1."),
        ("extraction.image_scales=", "one or more values, each a number in .0, 8."),
        ("data.sources.images.split=test", "images.split is 'test': use '' or 'train'"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(tmp_path, override, message):
    (tmp_path / "mine.py").write_text(
        inspect.cleandoc("""
        from configs import tiny
        def get_config():
            config = tiny.get_config()
            with config.unlocked():
                config.data.sources.images.split = "train"
            return config
        """)
    )
    with pytest.raises(InputError, match=message):
        read_training_config(tmp_path / "mine.py", [f"--config.{override}"])


def test_every_field_has_a_range():
    assert set(dict(fields_of(COMMON))) - {"data.sources"} <= set(RANGES)
    for name in TRAININGS:
        config = read_training_config(FOLDER / f"{name}.py")
        for field in dict(fields_of(config)):
            general = field.split(".")
            if field.startswith("data.sources"):
                general[2] = "*"
            assert ".".join(general) in RANGES, field


def test_the_choices_are_those_of_the_code():
    for name, choices in architecture.CHOICES.items():
        trained = set(choices) - {"folded"}
        assert set(RANGES[f"model.{name}"]) == trained
    assert set(RANGES["train_only"]) == set(PARTS)
    losses = {f"loss.{n}" for n in LossSettings._fields if n != "classes"}
    assert losses == {n for n in RANGES if n.startswith("loss.")}


def test_extraction_may_be_what_its_own_settings_may_be():
    for name, allowed in RANGES.items():
        section, _, field = name.partition(".")
        if section != "extraction":
            continue
        for value in ((), (-1.0,), (0,), (9.0,), (1.0,) * 3, 0, -1, 7, None, math.nan):
            try:
                check_field(name, value, allowed)
            except InputError:
                with pytest.raises(InputError):
                    settings.make_settings({"global_scales": (0,), field: value})


@pytest.mark.parametrize(
    ("value", "allowed", "fits"),
    [
        (0, "[0, 1)", True),
        (1, "[0, 1)", False),
        (1.0, "(0, 1]", True),
        (0.0, "(0, 1]", False),
        (np.float32(0.5), "(0, 1]", True),
        (10**400, "(0, inf)", True),
        (math.inf, "(0, inf)", False),
        (True, "[0, 1]", False),
        (np.int32(3), range(4), True),
        (4, range(4), False),
        (1.0, range(4), False),
        (1, (1, 2), True),
        (True, (1, 2), False),
        (5, (None, range(9)), True),
        (None, (None, range(9)), True),
        ((), [str, ...], True),
        (("a", "b"), [str, ...], True),
        (("a", 1), [str, ...], False),
        ((), [range(3), range(3), ...], False),
        ((1,), [range(3), range(3), ...], True),
        ((1, 2, 3), [range(3), range(3), ...], False),
        ((1, 2), [range(3), range(3)], True),
        ((1,), [range(3), range(3)], False),
        ("a", str, True),
        ("a", bool, False),
    ],
)
def test_what_a_range_allows(value, allowed, fits):
    try:
        check_field("x", value, allowed)
    except InputError:
        assert not fits
    else:
        assert fits


def test_a_field_that_no_source_has_is_named():
    config = with_field("data.sources.images.pth", "photos")
    message = "data.sources.images.pth: no such field; a source has path, images"
    with pytest.raises(InputError, match=message):
        check_values(config)


def test_a_field_that_is_not_there_is_named():
    config = make_config("images", "prepared")
    with config.unlocked():
        del config.views.size
    with pytest.raises(InputError, match=r"has no views\.size; configs/common\.py"):
        check_values(config)


MODEL = {
    "name": "delg",
    "depth": 22,
    "width": 32,
    "layout": "keras",
    "normalization": "frozen",
    "attention_width": 64,
    "num_classes": 0,
}


@pytest.fixture
def source(tmp_path):
    """A model folder, as far as a config looks at it."""
    folder = tmp_path / "model"
    write_json(folder / "config.json", {"architecture": MODEL})
    (folder / "model.safetensors").touch()
    return folder


def read(source, *overrides, config="template_own_folder", workdir=""):
    all_ = [f"--config.init_from={source}", *overrides]
    return read_training_config(FOLDER / f"{config}.py", all_, workdir).model


def test_a_model_is_as_that_which_it_starts_from_where_the_config_leaves_it_open(
    source,
):
    found = read(source).to_dict()
    taken = {"depth": 22, "width": 32, "layout": "keras", "attention_width": 64}
    assert {name: found[name] for name in taken} == taken
    assert (found["normalization"], found["global_dimension"]) == ("batch", 2048)
    assert "num_classes" not in found
    # What a file or the command line says stays.
    assert read(source, "--config.model.depth=50").depth == 50
    tiny = read(source, config="tiny")
    assert (tiny.depth, tiny.width, tiny.layout) == (18, 8, "keras")


def test_of_a_model_of_another_kind_the_backbone_alone_is_taken_along(source):
    write_json(source / "config.json", {"architecture": {**MODEL, "name": "global"}})
    found = read(source)
    assert (found.name, found.depth, found.attention_width) == ("delg", 22, 512)


def read_all(source, *overrides, config="template_own_folder"):
    all_ = [f"--config.init_from={source}", *overrides]
    return read_training_config(FOLDER / f"{config}.py", all_)


def test_extraction_is_as_in_the_model_where_the_config_leaves_it_open(source):
    extraction = {
        "pixel_mean": [1.0, 2.0, 3.0],
        "image_scales": [0.5, 1.0],
        "max_features": 7,
        "locations": "delf",
    }
    content = {"architecture": MODEL, "extraction": extraction}
    write_json(source / "config.json", content)
    found = read_all(source, "--config.extraction.max_features=9").extraction
    assert found.pixel_mean == (1.0, 2.0, 3.0) and found.image_scales == (0.5, 1.0)
    assert found.max_features == 9 and "locations" not in found
    # What a file says stays; that of a model of another kind is for other features.
    assert read_all(source, config="tiny").extraction.max_image_size == 160
    content["architecture"] = {**MODEL, "name": "global"}
    write_json(source / "config.json", content)
    assert read_all(source).extraction.max_features == 1000
    content = {"architecture": MODEL, "extraction": {"pixel_mean": "red"}}
    write_json(source / "config.json", content)
    with pytest.raises(InputError, match="extraction.pixel_mean is 'red': use"):
        read_all(source)


@pytest.mark.parametrize("name", ["template_own_folder", "finetune_bundled"])
def test_the_bundled_model_is_a_start_with_all_that_it_needs(name):
    config = read_all("bundled", config=name)
    assert config.model.backbone == "compact"
    assert not {"depth", "width", "layout"} & set(config.model)
    check_values(config)
    assert start_folder("bundled") == BUNDLED


def test_a_resumed_training_keeps_its_model_when_the_first_one_is_gone(
    source, tmp_path
):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "10").mkdir(parents=True)
    write_json(workdir / "config.json", {"model": MODEL})
    assert read(tmp_path / "gone", workdir=workdir).depth == 22
    with pytest.raises(InputError, match="init_from: .*gone: no such folder"):
        read(tmp_path / "gone")


def test_an_architecture_that_makes_no_sense_is_named(source):
    for field, value in itertools.product(("depth", "width"), (0, "x", None, [], {})):
        write_json(source / "config.json", {"architecture": {**MODEL, field: value}})
        with pytest.raises(InputError):
            read(source)
    for content in ({"architecture": 3}, {"extraction": []}, []):
        write_json(source / "config.json", content)
        with pytest.raises(InputError, match=r"config\.json: .*choose another folder"):
            read(source)


def test_a_run_of_a_version_before_resumes_where_it_did_what_is_done_now():
    now = as_json(make_config("images", "prepared"))
    before = copy.deepcopy(now)
    del before["data"]["on_device"], before["teacher"]["model"]
    before["loss"]["distillation"], before["teacher"]["weights"] = 0.0, "old.npz"
    assert check_same_run(before, now, "run/2") == []
    before["loss"]["distillation"] = 1.0
    with pytest.raises(InputError, match="was trained with loss.distillation 1.0"):
        check_same_run(before, now, "run/2")
    now["data"]["on_device"] = True
    with pytest.raises(InputError, match="with data.on_device False, this config"):
        check_same_run(before, now, "run/2")
