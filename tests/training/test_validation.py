"""Accuracy and mAP on images that a training does not learn from."""

import functools
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from delf_jax.evaluation import datasets
from delf_jax.evaluation.detection import Found, average_precision
from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import make_settings
from delf_jax.features import Features, LocalFeatures
from delf_jax.files import InputError
from delf_jax.training import step, validation
from delf_jax.training.inputs import open_sources
from delf_jax.training.objective import WEIGHTS
from tests.helpers.random_models import random_weights
from tests.helpers.tiny_training import draw_images, make_config, plain_static


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two classes of five images, of which one each is held out."""
    root = draw_images(tmp_path_factory.mktemp("images"), each=5)
    config = make_config(root, tmp_path_factory.mktemp("prepared"))
    config.validation.every = 2
    with config.unlocked():
        config.data.sources.images.split = "train"
    return config


@pytest.fixture
def sources(config):
    return open_sources(config)


def test_a_fifth_of_each_class_is_classified_and_not_trained_on(config, sources):
    held_out = validation.open_held_out(config, sources)
    (trained,), (kept,) = sources, held_out.sources
    assert (len(trained), len(kept)) == (8, 2)
    ids = [{s.identifier(i) for i in range(len(s))} for s in (trained, kept)]
    assert not ids[0] & ids[1]
    assert kept.classes == trained.classes
    assert held_out.names == ("arcface_accuracy", "attention_accuracy")
    assert held_out.chooses == "arcface_accuracy"
    assert sorted(held_out.places.tolist()) == [[0, 0], [0, 1]]


def test_no_more_examples_are_classified_than_configured(config, sources):
    config = config.copy_and_resolve_references()
    config.validation.examples = 1
    assert len(validation.open_held_out(config, sources).places) == 1


def test_nothing_is_opened_if_nothing_is_measured(config, sources):
    config = config.copy_and_resolve_references()
    config.validation.every = 0
    assert validation.open_held_out(config, sources).chooses == ""


def test_a_folder_of_folders_chooses_by_its_map(config, sources, tmp_path):
    config = config.copy_and_resolve_references()
    config.validation.dataset = str(draw_images(tmp_path / "set", "xyz", 2))
    held_out = validation.open_held_out(config, sources)
    assert held_out.names == ("mAP", "arcface_accuracy", "attention_accuracy")
    assert held_out.chooses == "mAP"


def test_what_is_left_out_is_searched_for_among_itself(config, tmp_path):
    config = config.copy_and_resolve_references()
    root = draw_images(tmp_path / "images", each=10)
    config.data.sources.images.path = str(root)
    config.data.directory, config.validation.search = str(tmp_path), True
    held_out = validation.open_held_out(config, open_sources(config))
    assert held_out.chooses == "mAP"
    dataset, (kept,) = held_out.dataset, held_out.sources
    assert {photo.id for photo in dataset.index} == {
        kept.identifier(i) for i in range(len(kept))
    }
    assert all(photo.path.is_file() for photo in dataset.index)
    assert sorted(dataset.landmarks) == ["images/a"] * 2 + ["images/b"] * 2
    assert [len(x) for x in dataset.protocols["all"].positives] == [1] * 4


def test_a_search_among_what_is_left_out_needs_two_of_a_class(config, sources):
    config = config.copy_and_resolve_references()
    config.validation.search = True
    with pytest.raises(InputError, match="search: no class has two photos"):
        validation.open_held_out(config, sources)
    config.validation.dataset = "photos"
    with pytest.raises(InputError, match="search: set it to False beside"):
        validation.open_held_out(config, sources)


def test_drawn_landmarks_are_searched_for_among_each_other(config, sources, tmp_path):
    config = config.copy_and_resolve_references()
    config.data.directory = str(tmp_path)
    config.validation.drawn.update({"landmarks": 3, "views": 2})
    held_out = validation.open_held_out(config, sources)
    assert held_out.chooses == "mAP"
    assert len(held_out.dataset.queries) == len(held_out.dataset.index) == 6
    assert held_out.dataset.landmarks[::2] == ["900000", "900001", "900002"]


@pytest.mark.parametrize(
    ("first", "dataset", "message"),
    [
        (12, "", "data.sources.village trains on some of these landmarks"),
        (7, "", "data.sources.village trains on some of these landmarks"),
        (13, "photos", "validation.drawn.landmarks: name one of them"),
    ],
)
def test_drawn_landmarks_that_are_trained_on_measure_nothing(
    config, sources, first, dataset, message
):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        village = {"first": 10, "landmarks": 3, "views": 1}
        config.data.sources.village = ConfigDict(village)
    config.validation.drawn.update({"first": first, "landmarks": 4})
    config.validation.dataset = dataset
    with pytest.raises(InputError, match=message):
        validation.open_held_out(config, sources)


def test_missing_photos_are_reported_before_the_training(config, sources, tmp_path):
    truth = {
        "imlist": ["a", "b"],
        "qimlist": ["q"],
        "gnd": [{"easy": [0], "hard": [1], "junk": [], "bbx": [0, 0, 9, 9]}],
    }
    (tmp_path / "gnd.json").write_text(json.dumps(truth))
    config = config.copy_and_resolve_references()
    config.validation.dataset = str(tmp_path / "gnd.json")
    with pytest.raises(InputError, match="validation.dataset: 3 photos missing"):
        validation.open_held_out(config, sources)


def test_accuracy_counts_images_of_known_classes(config, sources, monkeypatch):
    """Three of class 0, one of class 1, one of a class that is not trained on."""
    held_out = validation.open_held_out(config, sources)._replace(
        places=np.zeros((5, 2), np.int64), size=8
    )
    labels = np.array([0, 0, 0, 1, -1])
    batches = [(np.zeros((8, 8, 8, 3), np.uint8), labels)]
    monkeypatch.setattr(validation, "_batches", lambda held_out: batches)
    classes = {"arcface_accuracy": np.array([0, 1, 0, 1, 1, 0, 0, 0])}
    monkeypatch.setattr(validation, "_classify", lambda *rest: classes)
    static = plain_static(config)
    assert validation.accuracy(held_out, static, {}) == {"arcface_accuracy": 3 / 4}


def test_held_out_images_come_squeezed_with_the_last_batch_filled_up(config, sources):
    held_out = validation.open_held_out(config, sources)
    ((batch, labels),) = validation._batches(held_out)
    assert batch.shape == (validation.BATCH, 64, 64, 3)
    assert sorted(labels) == [0, 1]
    assert batch[:2].std() > 10 and not batch[2:].any()


def features(direction):
    return Features(None, np.array(direction, np.float32), (64, 64))


@pytest.fixture
def small_set(tmp_path):
    """Photos a/0, a/1, b/0, b/1, each a query."""
    return datasets.read_dataset(draw_images(tmp_path / "set", each=2))


@pytest.fixture
def map_of(tiny_model, small_set, monkeypatch):
    """The mAP, if extraction gives these features of the photos in their order."""
    model = model_folder.load_model(tiny_model)
    settings = make_settings({"image_scales": (1.0,), "global_scales": (0,)})

    def measure(found):
        monkeypatch.setattr(validation, "extract_features", lambda *rest: iter(found))
        return validation.retrieval(small_set, settings, model)["mAP"]

    return measure


def test_map_is_that_of_the_global_descriptors(map_of):
    assert map_of([features(x) for x in ((1, 0), (1, 0), (0, 1), (0, 1))]) == 1
    # The only positive of each query comes third and last.
    worst = [features(x) for x in ((1, 0), (0, 1), (1, 0), (0, 1))]
    precision_at_the_end = (0 + 1 / 3) / 2
    found = map_of(worst)
    assert found < 0.5
    assert found >= precision_at_the_end


def test_photos_that_cannot_be_used_are_left_out_and_named(map_of, capsys):
    found = [features(x) for x in ((1, 0), (1, 0), (0, 1))]
    # Of a/0 and a/1: b/0 has no positive left.
    assert map_of([*found, InputError("b/1: broken")]) == 1
    assert "left out: b/1: broken" in capsys.readouterr().out


def test_local_descriptors_are_summed_where_there_are_no_global_ones(rng):
    descriptors = rng.normal(size=(5, 4)).astype(np.float32)
    attention = np.array([3, 0, 0, 0, 1], np.float32)
    places = np.zeros((5, 2), np.float32), np.ones(5, np.float32)
    one = Features(LocalFeatures(*places, descriptors, attention), None, (64, 64))
    total = 3 * descriptors[0] + descriptors[4]
    expected = total / np.linalg.norm(total)
    np.testing.assert_allclose(validation._descriptor(one), expected, rtol=1e-5)


def test_a_network_in_training_is_measured_as_it_is_exported(
    config, sources, tmp_path, rng
):
    """Both metrics of a state, and the descriptors of the model that it would leave."""
    config = config.copy_and_resolve_references()
    config.validation.dataset = str(draw_images(tmp_path / "set", each=2))
    config.precision = "bfloat16"
    config.extraction.image_scales, config.extraction.global_scales = (1.0,), (0,)
    held_out = validation.open_held_out(config, sources)
    static = plain_static(config, "batch")
    start = functools.partial(step.create_state, static, view_size=64)
    shapes = jax.eval_shape(start, jax.random.key(0)).ema
    averages = jax.tree_util.tree_map_with_path(
        lambda path, x: np.float32(random_weights(rng, path[-1].key, x.shape)), shapes
    )
    measured = validation.measure(held_out, static, averages)
    assert set(measured) == {"mAP", "arcface_accuracy", "attention_accuracy"}
    assert all(0 <= value <= 1 for value in measured.values())
    model_folder.save_model(
        tmp_path / "model",
        config.model.to_dict(),
        averages,
        config.extraction.to_dict(),
        {},
        dtype="float32",
    )
    exported = model_folder.load_model(tmp_path / "model")
    model = validation._to_extract(static.module, averages)
    for name, x in jax.tree_util.tree_leaves_with_path(exported.variables):
        other = model.variables
        for key in name:
            other = other[key.key]
        np.testing.assert_array_equal(other, x)


@pytest.fixture
def boxed(config, tmp_path):
    """The two classes with boxes for a detector, and a drawn landmark."""
    config = config.copy_and_resolve_references()
    config.loss.update({name: 0.0 for name in WEIGHTS})
    config.loss.detection, config.views.kind = 1.0, "boxes"
    config.validation.drawn.update(first=7, landmarks=1, views=2)
    rows = [f"{label}/{n}.png,0,0,72,48\n" for label in "ab" for n in range(5)]
    path = tmp_path / "boxes.csv"
    path.write_text("image,y_min,x_min,y_max,x_max\n" + "".join(rows))
    with config.unlocked():
        config.model = ConfigDict(
            {"name": "ssd", "normalization": "batch", "image_size": 64}
        )
        config.data.sources.images.boxes = str(path)
    return config


def test_a_detector_is_measured_on_held_out_photos_and_drawn_landmarks(
    boxed, config, monkeypatch
):
    held_out = validation.open_held_out(boxed, open_sources(boxed))
    assert held_out.names == ("AP", "AP50", "AP75") and held_out.chooses == "AP"
    assert len(held_out.places) == 4 and held_out.dataset is None

    def find(module, pixels, variables, batch):
        """The box of the photos, surely; that of the landmark is another."""
        boxes = np.zeros((len(batch), 3, 4), np.float32)
        boxes[:, 0] = [0, 0, 1, 0.5]
        scores = np.tile(np.float32([0.9, 0, 0]), (len(batch), 1))
        return boxes, scores, np.ones_like(scores)

    monkeypatch.setattr(validation, "find_boxes", find)
    monkeypatch.setattr(validation, "_plain", lambda module: module)
    static = plain_static(config.copy_and_resolve_references())
    found = validation.precision(held_out, static, {})
    truth = [(held_out.sources[i][j]["boxes"]) for i, j in held_out.places.tolist()]
    one = np.float32([[0, 0, 1, 0.5]]), np.float32([0.9])
    assert found == average_precision([Found(*one, boxes) for boxes in truth])
    assert 0 < found["AP50"] < 1


def test_landmarks_that_are_trained_on_measure_no_detector(boxed):
    with boxed.unlocked():
        boxed.data.sources.drawn = ConfigDict({"first": 7, "landmarks": 1, "views": 2})
    with pytest.raises(InputError, match="data.sources.drawn trains on some of these"):
        validation.open_held_out(boxed, open_sources(boxed))
