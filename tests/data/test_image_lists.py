"""Lists of labelled training images."""

import pickle

import numpy as np
import pytest

from delf_jax.data import image_lists, loader
from delf_jax.files import InputError
from delf_jax.formats.datasets import gldv2
from delf_jax.formats.tensorflow import tfrecord
from delf_jax.images import encode_jpeg

LANDMARKS = {"aa1": 100, "bb2": 9, "cc3": 100, "dd4": 20}  # 100 < 20 < 9 as text.


def jpeg(number: int) -> bytes:
    return encode_jpeg(np.full((8, 10 + number, 3), 20 * number, np.uint8), 90)


@pytest.fixture
def landmarks(tmp_path):
    """A folder of GLDv2 with four images of three landmarks, and both its tables."""
    for number, image_id in enumerate(LANDMARKS):
        path = gldv2.image_path(tmp_path, image_id)
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(number))
    rows = [f"{image_id},http://x,{label}\n" for image_id, label in LANDMARKS.items()]
    (tmp_path / "train.csv").write_text("id,url,landmark_id\n" + "".join(rows))
    clean = "landmark_id,images\n100,cc3 aa1\n20,dd4\n9,bb2\n"
    (tmp_path / "train_clean.csv").write_text(clean)
    return tmp_path


@pytest.fixture
def shards(tmp_path):
    """The same as TFRecords of two splits."""
    folder = tmp_path / "tfrecords"
    examples = [
        tfrecord.Example(image_id, jpeg(number), label, 8, 10 + number)
        for number, (image_id, label) in enumerate(LANDMARKS.items())
    ]
    tfrecord.write_examples(folder, "train", examples, 2)
    tfrecord.write_examples(folder, "test", [examples[0]._replace(label=None)], 1)
    return folder


def test_tables_of_landmarks_name_images_three_folders_deep(landmarks):
    for table in ("train.csv", "train_clean.csv"):
        found = image_lists.list_records(str(landmarks / table))
        assert [(r.id, r.label) for r in found] == list(LANDMARKS.items())
        assert found[0].path == landmarks / "a" / "a" / "1" / "aa1.jpg"
        images = [image_lists.read_record(record) for record in found]
        assert [image.shape for image in images] == [(8, 10 + i, 3) for i in range(4)]


def test_a_folder_with_one_table_is_taken_and_with_two_is_ambiguous(landmarks):
    with pytest.raises(InputError, match="name the one to train on, .*train_clean.csv"):
        image_lists.list_records(str(landmarks))
    (landmarks / "train.csv").unlink()
    assert len(image_lists.list_records(str(landmarks))) == 4


def test_a_table_may_lie_elsewhere_than_its_images(landmarks, tmp_path):
    table = tmp_path / "tables" / "mine.csv"
    table.parent.mkdir()
    (landmarks / "train_clean.csv").rename(table)
    found = image_lists.list_records(str(table), str(landmarks))
    assert image_lists.read_record(found[0]).shape == (8, 10, 3)


def test_tfrecords_are_read_in_place(shards):
    found = image_lists.list_records(str(shards / "train-*-of-*"))
    assert [(r.id, r.label) for r in found] == list(LANDMARKS.items())
    assert [image_lists.read_record(r).shape for r in found] == [
        (8, 10 + i, 3) for i in range(4)
    ]
    (unlabelled,) = image_lists.list_records(str(shards / "test-00000-of-00001"))
    assert unlabelled.label == ""
    with pytest.raises(InputError, match="TFRecords of test and train"):
        image_lists.list_records(str(shards))


def test_a_damaged_image_in_a_tfrecord_is_named(tmp_path):
    example = tfrecord.Example("aa1", b"no image", 0, 1, 1)
    (path,) = tfrecord.write_examples(tmp_path, "train", [example], 1)
    (record,) = image_lists.list_records(str(tmp_path))
    with pytest.raises(InputError, match="train-00000-of-00001, image aa1: "):
        image_lists.read_record(record)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="record at byte 0: damaged"):
        image_lists.read_record(record)


def test_an_image_that_is_listed_twice_is_refused(landmarks):
    with (landmarks / "train.csv").open("a") as file:
        file.write("aa1,http://x,3\n")
    with pytest.raises(InputError, match="train.csv: image aa1 is listed twice"):
        image_lists.list_records(str(landmarks / "train.csv"))


@pytest.mark.parametrize("kind", ["train.csv", "train_clean.csv", "tfrecords"])
def test_landmarks_are_numbered_by_ascending_id(landmarks, shards, tmp_path, kind):
    path = shards / "train-*" if kind == "tfrecords" else landmarks / kind
    settings = {"gldv2": {"path": str(path)}}
    (source,), failures = loader.open_sources(
        settings, str(tmp_path / "d"), max_side=30
    )
    assert failures == []
    assert source.classes == {"9": 0, "20": 1, "100": 2}
    labels = {source[i]["id"]: source[i]["label"] for i in range(len(source))}
    assert labels == {"gldv2/aa1": 2, "gldv2/bb2": 0, "gldv2/cc3": 2, "gldv2/dd4": 1}


def test_missing_images_are_named_and_keep_their_landmark_s_number(landmarks, tmp_path):
    gldv2.image_path(landmarks, "bb2").unlink()
    settings = {"s": {"path": str(landmarks / "train_clean.csv"), "holdout": (20,)}}
    (source,), failures = loader.open_sources(
        settings, str(tmp_path / "d"), max_side=30
    )
    assert {source.identifier(i) for i in range(len(source))} == {"s/aa1", "s/cc3"}
    assert source.classes == {"9": 0, "100": 1}
    assert len(failures) == 1
    assert "bb2.jpg: no such file" in failures[0]


def test_images_of_gldv1_without_a_landmark_are_left_out_and_counted(tmp_path, capsys):
    table = tmp_path / "train.csv"
    table.write_text('"id","url","landmark_id"\n"aa1","x","9"\n"bb2","None","None"\n')
    (found,) = image_lists.list_records(str(table))
    assert (found.id, found.label) == ("aa1", 9)
    said = capsys.readouterr().err
    assert said == f"{table}: 1 image without a landmark left out\n"
    table.write_text("id,url,landmark_id\nbb2,None,None\n")
    with pytest.raises(InputError, match="no images found to train on"):
        image_lists.list_records(str(table))


def test_images_of_gldv1_may_lie_beside_their_table(tmp_path):
    rows = "97c0a12e07ae8dd5,http://x,6651\nabcdef,http://x,7\n"
    (tmp_path / "train.csv").write_text("id,url,landmark_id\n" + rows)
    (tmp_path / "97c0a12e07ae8dd5.jpg").write_bytes(jpeg(0))
    first, second = image_lists.list_records(str(tmp_path / "train.csv"))
    assert first.path == tmp_path / "97c0a12e07ae8dd5.jpg"
    assert image_lists.read_record(first).shape == (8, 10, 3)
    # What is absent is looked for where GLDv2 has it.
    assert second.path == tmp_path / "a" / "b" / "c" / "abcdef.jpg"


def test_the_models_of_sfm120k_are_classes(tmp_path):
    folder = tmp_path / "train" / "retrieval-SfM-120k"
    folder.mkdir(parents=True)
    ids = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"]
    part = {"cids": ids, "cluster": [5, 9], "qidxs": [0], "pidxs": [1]}
    path = folder / "retrieval-SfM-120k.pkl"
    path.write_bytes(pickle.dumps({"train": part, "val": part}))
    found = image_lists.list_records(str(path))
    assert [(r.id, r.label) for r in found] == [(ids[0], 5), (ids[1], 9)]
    assert found[0].path == tmp_path / "train" / "ims" / "ef" / "cd" / "ab" / ids[0]
    path.write_bytes(pickle.dumps({"val": part}))
    with pytest.raises(InputError, match="no training images with their clusters"):
        image_lists.list_records(str(path))


def test_a_fifth_of_each_class_validates_drawn_as_the_released_code_draws():
    listed = [
        image_lists.LabelledImage(f"{label}{number}", None, label)
        for label, count in (("b", 11), ("a", 1), ("c", 4))
        for number in range(count)
    ]
    train, validation = image_lists.split_records(listed, seed=3)
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(3)))
    expected = {"train": [], "validation": []}
    for label, count, kept in (("b", 11, 2), ("a", 1, 1), ("c", 4, 1)):
        order = np.arange(count)
        rng.shuffle(order)
        ids = [f"{label}{number}" for number in order]
        expected["validation"] += ids[:kept]
        expected["train"] += ids[kept:]
    for part in ("validation", "train"):  # in this order, by the same generator.
        order = np.arange(len(expected[part]))
        rng.shuffle(order)
        expected[part] = [expected[part][place] for place in order]
    assert [r.id for r in train] == expected["train"]
    assert [r.id for r in validation] == expected["validation"]
    assert image_lists.split_records(listed, seed=4)[1] != validation


def test_the_parts_of_a_source_are_disjoint_and_all_of_it(landmarks):
    table = str(landmarks / "train_clean.csv")
    train, validation = (
        {r.id for r in image_lists.list_records(table, split=split)}
        for split in ("train", "validation")
    )
    assert not train & validation
    assert train | validation == set(LANDMARKS)
    assert len(train) == 1  # of the one landmark with two images.
    with pytest.raises(InputError, match="split is 'test': use 'train' or"):
        image_lists.list_records(table, split="test")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("b.jpg", "labels.csv, line 3: no field 'label'"),
        (",a", "labels.csv: a row of label 'a' names no image"),
    ],
)
def test_a_row_without_its_label_or_image_is_named(tmp_path, row, words):
    (tmp_path / "labels.csv").write_text(f"image,label\na.jpg,a\n{row}\n")
    with pytest.raises(InputError, match=words):
        image_lists.list_records(str(tmp_path / "labels.csv"))


def test_an_empty_label_is_none(tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,a\nb.jpg,\n")
    found = image_lists.list_records(str(tmp_path / "labels.csv"))
    assert [image.label for image in found] == ["a", ""]


def test_names_in_a_csv_may_leave_out_suffixes_and_folders(tmp_path):
    for name in ("one.jpg", "deep/two.PNG", "x/three.jpg", "y/three.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(0))
    table = tmp_path / "list.csv"
    table.write_text("image,label\none,a\ntwo.jpg,b\nthree,c\nx/three,d\nnone,e\n")
    found = image_lists.list_records(str(table), str(tmp_path / "photos"))
    paths = {r.id: r.path.relative_to(tmp_path / "photos").as_posix() for r in found}
    assert paths == {
        "none": "none",
        "one": "one.jpg",
        "three": "three",
        "two.jpg": "deep/two.PNG",
        "x/three": "x/three.jpg",
    }
    table.write_text("image,label\none.jpg,a\none,b\n")
    with pytest.raises(InputError, match="'one.jpg' and 'one' are one photo; list it"):
        image_lists.list_records(str(table), str(tmp_path / "photos"))


def test_names_of_photos_that_are_nowhere_stay_as_they_are(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("image,label\none,a\n")
    (found,) = image_lists.list_records(str(table))
    assert found.path == tmp_path / "one"
