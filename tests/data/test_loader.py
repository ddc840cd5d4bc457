"""Images on disk as seeded, resumable batches."""

import csv

import cv2
import numpy as np
import pytest

from delf_jax.data import loader
from delf_jax.files import InputError
from delf_jax.images import decode_image

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of three plain images, named by their colour."""
    root = tmp_path_factory.mktemp("classes")
    for label, colour in COLOURS.items():
        (root / label).mkdir()
        for number in range(3):
            image = np.full((40 + number, 60, 3), colour[::-1], np.uint8)
            cv2.imwrite(str(root / label / f"{number}.png"), image)
    return root


@pytest.fixture(scope="module")
def sources(folder, tmp_path_factory):
    prepared = tmp_path_factory.mktemp("prepared")
    opened, failures = loader.open_sources(
        {"colours": {"path": str(folder)}}, str(prepared), max_side=30
    )
    assert failures == []
    return opened


def small(example, rng):
    return {
        "id": example["id"],
        "mean": decode_image(example["encoded"]).mean((0, 1)),
        "label": np.int32(example["label"]),
        "drawn": rng.random(),
    }


def stream(sources, **changes):
    settings = {"batch_size": 4, "seed": 5, "threads": 2} | changes
    return loader.batches(sources, [1.0] * len(sources), small, **settings)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_folder_per_class_gives_ids_labels_and_shrunk_images(sources):
    (source,) = sources
    assert len(source) == 9
    assert source.classes == {"blue": 0, "green": 1, "red": 2}
    identifiers = {source.identifier(i) for i in range(9)}
    assert identifiers == {f"colours/{c}/{i}.png" for c in COLOURS for i in range(3)}
    for index in range(9):
        example = source[index]
        assert example["id"] == source.identifier(index)
        image = decode_image(example["encoded"])
        assert max(image.shape[:2]) == 30
        colour = COLOURS[example["id"].split("/")[1]]
        np.testing.assert_allclose(image.mean((0, 1)), colour, atol=3)
        assert list(COLOURS).index(example["id"].split("/")[1]) == example["label"]


def test_a_csv_names_images_of_another_folder_and_may_leave_labels_empty(
    folder, tmp_path
):
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "place"), ("red/0.png", "x"), ("blue/1.png", "")])
    settings = {"path": str(table), "images": str(folder), "label_column": "place"}
    (source,), _ = loader.open_sources({"s": settings}, str(tmp_path), max_side=30)
    labels = {source[i]["id"]: source[i]["label"] for i in range(2)}
    assert labels == {"s/red/0.png": 0, "s/blue/1.png": loader.UNLABELLED}


def test_classes_of_several_sources_are_numbered_in_one_row(folder, tmp_path):
    (one, two), _ = loader.open_sources(
        {"a": {"path": str(folder), "holdout": ("red",)}, "b": {"path": str(folder)}},
        str(tmp_path),
        max_side=30,
    )
    assert one.classes == {"blue": 0, "green": 1}
    assert two.classes == {"blue": 2, "green": 3, "red": 4}
    assert len(one) == 6


def test_the_same_seed_gives_the_same_batches_whatever_the_threads(sources):
    first = take(stream(sources, threads=1), 5)
    assert_same(first, take(stream(sources, threads=3), 5))
    other = take(stream(sources, seed=6), 5)
    assert [b["id"].tolist() for b in first] != [b["id"].tolist() for b in other]


def test_every_image_comes_once_an_epoch_with_new_draws_in_the_next(sources):
    iterator = stream(sources, batch_size=3)
    epochs = [take(iterator, 3) for _ in range(2)]
    draws = []
    for epoch in epochs:
        identifiers = np.concatenate([batch["id"] for batch in epoch]).tolist()
        assert len(set(identifiers)) == 9
        drawn = np.concatenate([batch["drawn"] for batch in epoch]).tolist()
        draws.append(dict(zip(identifiers, drawn, strict=True)))
    assert all(draws[0][i] != draws[1][i] for i in draws[0])


def test_a_resumed_stream_continues_where_it_stood(sources):
    iterator = stream(sources)
    take(iterator, 3)
    state = iterator.get_state()
    expected = take(iterator, 3)
    resumed = stream(sources)
    resumed.set_state(state)
    assert_same(take(resumed, 3), expected)


@pytest.mark.parametrize("hosts", [2, 3])
def test_the_order_and_the_draws_do_not_depend_on_the_number_of_hosts(sources, hosts):
    whole = take(stream(sources, batch_size=6), 4)
    size = 6 // hosts
    shares = [
        take(stream(sources, batch_size=size, part=(host, hosts)), 4)
        for host in range(hosts)
    ]
    for number, batch in enumerate(whole):
        for name in batch:
            parts = np.stack([share[number][name] for share in shares], 1)
            together = parts.reshape(6, *batch[name].shape[1:])
            np.testing.assert_array_equal(together, batch[name])


def test_sources_mix_in_proportion_to_their_weights(sources):
    twice = [sources[0], loader.ImageSource("copy", sources[0].encoded, {})]
    iterator = loader.batches(twice, [3.0, 1.0], small, batch_size=8, seed=0)
    identifiers = np.concatenate([batch["id"] for batch in take(iterator, 5)])
    copies = sum(identifier.startswith("copy/") for identifier in identifiers)
    assert copies == 10


def test_a_corrupt_image_is_left_out_by_name_and_others_are_kept(folder, tmp_path):
    (tmp_path / "images" / "c").mkdir(parents=True)
    good = tmp_path / "images" / "c" / "good.png"
    good.write_bytes((folder / "red" / "0.png").read_bytes())
    (tmp_path / "images" / "c" / "bad.jpg").write_bytes(b"no image")
    settings = {"s": {"path": str(tmp_path / "images")}}
    (source,), failures = loader.open_sources(
        settings, str(tmp_path / "d"), max_side=30
    )
    assert [source.identifier(i) for i in range(len(source))] == ["s/c/good.png"]
    assert len(failures) == 1
    assert "bad.jpg" in failures[0]


def test_a_class_without_an_image_to_train_on_is_named(folder, tmp_path):
    images = tmp_path / "images"
    for name in ("none", "one", ".hidden"):
        (images / name).mkdir(parents=True)
    pixels = (folder / "red" / "0.png").read_bytes()
    (images / "one" / "0.png").write_bytes(pixels)
    for number in range(2):
        (images / "more" / f"{number}.png").parent.mkdir(exist_ok=True)
        (images / "more" / f"{number}.png").write_bytes(pixels)
    for split, missing in (("", ["none"]), ("train", ["none", "one"])):
        settings = {"s": {"path": str(images), "split": split}}
        (source,), failures = loader.open_sources(
            settings, str(tmp_path / "d"), max_side=30
        )
        assert failures == [
            f"class {name} of s, of which there is no image to train on"
            for name in missing
        ]
        assert not source.classes.keys() & set(missing)


def test_labels_of_any_value_are_numbered_from_0(folder, tmp_path):
    labels = ("-7", "9" * 30, "Köln", "nan")
    table = tmp_path / "labels.csv"
    rows = [f"red/{i % 3}.png,{label}" for i, label in enumerate(labels[:3])]
    rows.append(f"blue/0.png,{labels[3]}")
    table.write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    settings = {"s": {"path": str(table), "images": str(folder)}}
    (source,), _ = loader.open_sources(settings, str(tmp_path / "d"), max_side=30)
    assert source.classes.keys() == set(labels)
    assert sorted(source.classes.values()) == [0, 1, 2, 3]
    found = {source[i]["label"] for i in range(len(source))}
    assert found == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere"}, "nowhere: no such folder"),
        ({"path": ""}, "data.sources.s.path is empty"),
        ({"path": "{folder}", "holdout": ("pink",)}, "holdout: no class 'pink'"),
        ({"path": "{empty}"}, "no images in this folder"),
        ({"path": "{table}"}, "no column 'label'"),
        ({"path": "{folder}", "holdout": tuple(COLOURS)}, "no image is left"),
        ({"path": "{broken}"}, "no image can be read: .*a.png"),
    ],
)
def test_what_cannot_be_trained_on_is_reported_in_one_sentence(
    folder, tmp_path, settings, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("image,place\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    places = {
        "broken": tmp_path / "broken",
        "folder": folder,
        "empty": tmp_path / "empty",
        "table": tmp_path / "table.csv",
    }
    settings = settings | {"path": settings["path"].format(**places)}
    with pytest.raises(InputError, match=message):
        loader.open_sources({"s": settings}, str(tmp_path / "d"), max_side=30)


def test_excluded_classes_are_left_out_of_all_sources_and_counted(folder, tmp_path):
    settings = {"a": {"path": str(folder)}, "b": {"path": str(folder)}}
    sources, failures = loader.open_sources(
        settings, str(tmp_path), max_side=30, exclude=["red", "absent"]
    )
    assert sources[0].classes == {"blue": 0, "green": 1}
    assert sources[1].classes == {"blue": 2, "green": 3}
    count = len(list((folder / "red").iterdir()))
    assert failures == [
        f"{count} images, 1 class of {name}, by data.exclude" for name in settings
    ]


def test_an_exclusion_that_excludes_nothing_is_refused(folder, tmp_path):
    settings = {"a": {"path": str(folder)}}
    with pytest.raises(InputError, match=r"data\.exclude: no source has a class"):
        loader.open_sources(settings, str(tmp_path), max_side=30, exclude=["absent"])
