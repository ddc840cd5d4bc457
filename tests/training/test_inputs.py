"""From a config to the views that a step sees."""

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from delf_jax.config import read_config
from delf_jax.data import augment, loader
from delf_jax.files import InputError
from delf_jax.formats.confirmed_pairs import ConfirmedPair, write_pairs
from delf_jax.synthetic import landmarks
from delf_jax.training import inputs
from delf_jax.training.objective import WEIGHTS
from tests.helpers.tiny_training import draw_images

TINY = pathlib.Path(__file__).parents[2] / "configs" / "tiny.py"


@pytest.fixture
def config(tmp_path) -> ConfigDict:
    """Two drawn landmarks, seen twice."""
    config = read_config(TINY)
    config.data.directory, config.data.threads = str(tmp_path), 1
    drawn = {"first": 0, "landmarks": 2, "views": 2}
    with config.unlocked():
        config.data.sources = ConfigDict({"drawn": drawn})
    return config


def test_drawn_landmarks_become_views_with_their_class_and_coordinates(
    config, monkeypatch
):
    sources = inputs.open_sources(config)
    batch = next(inputs.open_batches(config, sources, devices=1))
    assert batch["image"].shape == (4, 2, 64, 64, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["coordinates"].shape == (4, 2, 4, 4, 2)
    assert set(batch["label"]) <= {0, 1}
    assert batch["id"][0].startswith("drawn/")

    def fail(seed):
        raise AssertionError("drawn again")

    monkeypatch.setattr(landmarks, "draw_landmark", fail)
    assert len(inputs.open_sources(config)[0]) == 4


def test_landmarks_that_are_kept_for_tests_are_not_drawn(config):
    config.data.sources.drawn.first = landmarks.HELD_OUT - 1
    with pytest.raises(InputError, match="are for tests"):
        inputs.open_sources(config)


def test_of_many_images_that_are_left_out_a_hundred_are_named(
    config, monkeypatch, capsys
):
    failures = [f"{number}.jpg: no such file" for number in range(1234)]
    monkeypatch.setattr(loader, "open_sources", lambda *_, **__: ([], failures))
    inputs.open_sources(config)
    lines = capsys.readouterr().out.splitlines()
    assert lines[99:] == [
        "left out: 99.jpg: no such file",
        "left out: 1134 more images",
    ]


def test_the_cells_of_a_view_lie_where_the_layout_has_them(config):
    config.views.size = 192
    assert inputs.view_settings(config).cell_offset == 0
    config.model.layout = "keras"
    settings = inputs.view_settings(config)
    assert (settings.cell_stride, settings.cell_offset) == (16, 3.0)
    config.model.block3_strides = True
    settings = inputs.view_settings(config)
    assert (settings.cell_stride, settings.cell_offset) == (32, 3.0)
    config.model.block3_strides = False
    config.views.size = 321
    with pytest.raises(InputError, match="views.size 321 .* multiple of 16"):
        inputs.view_settings(config)


def test_a_field_that_the_settings_lack_is_named():
    with pytest.raises(InputError, match="config.views.zom: no such field"):
        inputs.settings_tuple(augment.ViewSettings, ConfigDict({"zom": 1.0}), "views")


def test_crops_are_one_view_of_any_size(config):
    config.views.kind, config.views.size = "crop", 41
    config.loss.correspondence = config.loss.matchability = 0.0
    sources = inputs.open_sources(config)
    batch = next(inputs.open_batches(config, sources, 1))
    assert batch["image"].shape == (config.batch_size, 1, 41, 41, 3)
    assert set(batch) == {"id", "image", "label"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "crop"}, "loss.correspondence compares two views"),
        ({"kind": "square"}, "views.kind is 'square': use 'pair', 'crop' or 'tuple'"),
    ],
)
def test_views_that_the_losses_cannot_use_are_refused(config, fields, message):
    config.views.update(fields)
    with pytest.raises(InputError, match=message):
        inputs.view_settings(config)


def test_landmarks_that_a_file_names_are_not_trained_on(config, tmp_path, capsys):
    (tmp_path / "seen.txt").write_text("1  # is in the test, too\n")
    config.data.exclude = str(tmp_path / "seen.txt")
    (source,) = inputs.open_sources(config)
    assert source.classes == {"0": 0} and len(source) == 2
    printed = capsys.readouterr().out
    assert "left out: 2 images, 1 class of drawn, by data.exclude" in printed


def test_photos_on_the_device_are_named_by_their_place_among_all_sources(
    config, tmp_path
):
    folders = {"noise": draw_images(tmp_path / "noise"), "more": tmp_path / "more"}
    draw_images(folders["more"], classes=("c",), each=2)
    config.data.on_device = True
    with config.unlocked():
        named = {name: {"path": str(path)} for name, path in folders.items()}
        config.data.sources = ConfigDict(named)
    sources = inputs.open_sources(config)
    labels = {name: n for source in sources for name, n in source.classes.items()}
    every = [source.identifier(i) for source in sources for i in range(len(source))]
    batches = inputs.open_batches(config, sources, devices=1)
    seen = [next(batches) for _ in range(4)]
    for batch in seen:
        assert [every[n] for n in batch["photo"]] == list(batch["id"])
        named = [name.split("/")[1] for name in batch["id"]]
        assert [labels[name] for name in named] == list(batch["label"])
    assert {name.split("/")[0] for batch in seen for name in batch["id"]} == {*folders}
    assert len(np.unique([batch["seed"] for batch in seen])) == 16


def test_confirmed_pairs_are_drawn_beside_images_alone(config, tmp_path, capsys):
    draw_images(tmp_path / "noise")
    config.data.on_device = True
    with config.unlocked():
        config.data.sources = ConfigDict({"noise": {"path": str(tmp_path / "noise")}})
    sources = inputs.open_sources(config)
    every = [source.identifier(i) for source in sources for i in range(len(source))]
    numbers = (20, 0.9, 0.1, 0, -0.1, 0.9, 0.1, 0.1, 0.2, 0.8, 0.9)
    pairs = [
        ConfirmedPair(*every[:2], *numbers),
        ConfirmedPair("kept/out", "x", *numbers),
    ]
    write_pairs(tmp_path / "pairs.csv", pairs)
    config.data.pairs = str(tmp_path / "pairs.csv")
    batches = inputs.open_batches(config, sources, devices=1)
    left = f"left out: 1 pair of {tmp_path / 'pairs.csv'}, of photos that no source has"
    assert left in capsys.readouterr().out
    drawn = [
        (batch["photo"][n], batch["counterpart"][n], batch["affine"][n])
        for batch in (next(batches) for _ in range(10))
        for n in range(len(batch["photo"]))
    ]
    together = [affine for one, other, affine in drawn if one != other]
    assert 1 <= len(together) < len(drawn) / 2
    np.testing.assert_allclose(together[0], [[0.9, 0.1, 0], [-0.1, 0.9, 0.1]])
    alone = [affine for one, other, affine in drawn if one == other]
    np.testing.assert_array_equal(alone, [np.eye(2, 3)] * len(alone))

    write_pairs(tmp_path / "pairs.csv", pairs[1:])
    with pytest.raises(InputError, match="no source has both photos of a pair"):
        inputs.open_batches(config, sources, devices=1)


@pytest.fixture
def boxed(config) -> ConfigDict:
    """The same for a detector."""
    config.loss.update({name: 0.0 for name in WEIGHTS})
    config.loss.detection, config.views.kind = 1.0, "boxes"
    with config.unlocked():
        config.model = ConfigDict(
            {"name": "ssd", "normalization": "batch", "image_size": 64}
        )
    return config


def test_drawn_landmarks_have_their_boxes(boxed):
    boxed.views.area, boxed.views.zoom = (0.99, 1.0), 0.0
    (source,) = inputs.open_sources(boxed)
    batch = next(inputs.open_batches(boxed, [source], devices=1))
    assert batch["image"].shape == (4, 1, 64, 64, 3)
    assert batch["valid"].sum(axis=1).tolist() == [1] * 4
    for id, boxes in zip(batch["id"], batch["boxes"], strict=True):
        seed, view = map(int, id.removeprefix("drawn/")[:-4].split("/"))
        landmark = landmarks.draw_landmark(seed)
        drawn = landmarks.draw_view(landmark, view, inputs.DRAWN_SIZE)
        expected = landmarks.box_of(landmark, drawn)[0]
        np.testing.assert_allclose(boxes[0], expected, atol=0.03)


def test_photos_need_boxes_and_those_that_have_none_are_left_out(
    boxed, tmp_path, capsys
):
    root = draw_images(tmp_path / "images")
    with boxed.unlocked():
        boxed.data.sources = ConfigDict({"photos": {"path": str(root)}})
    with pytest.raises(InputError, match=r"data\.sources\.photos\.boxes is empty"):
        inputs.open_sources(boxed)
    (tmp_path / "b.csv").write_text(
        "image,y_min,x_min,y_max,x_max\na/0.png,0,0,36,96\n"
    )
    with boxed.unlocked():
        boxed.data.sources.photos.boxes = str(tmp_path / "b.csv")
    (source,) = inputs.open_sources(boxed)
    assert "left out: 5 images of photos: not in" in capsys.readouterr().out
    assert len(source) == 1
    np.testing.assert_allclose(source[0]["boxes"], [[0, 0, 0.5, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss.detection": 0.0}, "go together: set all of them or none"),
        ({"views.kind": "pair"}, "go together: set all of them or none"),
        ({"model.name": "delg"}, "go together: set all of them or none"),
        ({"loss.arcface": 1.0}, "loss.arcface must be 0 beside loss.detection"),
        ({"views.size": 96}, "views.size is 96: it must be model.image_size, 64"),
        ({"data.on_device": True}, "only views of the kind 'pair' are drawn"),
    ],
)
def test_what_does_not_go_with_boxes_is_refused(boxed, change, message):
    boxed.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        inputs.view_settings(boxed)
