import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.gldv2 import collection
from tests.helpers.ranked_photos import Store

A, B, C = "a" * 16, "b" * 16, "c" * 16


@pytest.fixture
def data(tmp_path):
    (tmp_path / "train.csv").write_text(
        f"id,url,landmark_id\n{B},x,7\n{A},x,30\n{C},x,7\n"
    )
    (tmp_path / "test.csv").write_text(f"id\n{C}\n{A}\n")
    (tmp_path / "index.csv").write_text(f"id\n{A}\n{B}\n")
    return tmp_path


def test_images_stand_in_the_order_of_their_table(data):
    train = collection.list_images(data, "train")
    assert train.ids == [B, A, C] and train.landmarks.tolist() == [7, 30, 7]
    assert collection.list_images(data, "test").ids == [C, A]
    assert collection.list_images(data, "index").landmarks is None


def test_a_table_that_is_named_replaces_the_usual_one(data):
    (data / "clean.csv").write_text(f"landmark_id,images\n7,{C} {B}\n")
    found = collection.list_images(data, "train", data / "clean.csv")
    assert found.ids == [C, B] and found.landmarks.tolist() == [7, 7]


def test_landmarks_to_exclude_are_left_out_and_counted(data):
    found = collection.list_images(data, "train", exclude={7, 99})
    assert (found.ids, found.excluded) == ([A], 2)
    with pytest.raises(InputError, match="none of the landmarks to exclude found"):
        collection.list_images(data, "train", exclude={99})
    with pytest.raises(InputError, match=r"index_image_to_landmark\.csv not found"):
        collection.list_images(data, "index", exclude={7})
    with pytest.raises(InputError, match=r"index\.csv: no column landmark_id"):
        collection.list_images(data, "index", data / "index.csv", exclude={7})


def test_training_images_without_a_landmark_are_left_out_and_counted(data):
    table = f"id,landmark_id\n{B},7\n{A},None\n{C},7\n"
    (data / "train.csv").write_text(table)
    found = collection.list_images(data, "train")
    assert (found.ids, found.unlabelled, found.excluded) == ([B, C], 1, 0)
    assert found.landmarks.tolist() == [7, 7]
    (data / "index_image_to_landmark.csv").write_text(table)
    index = collection.list_images(data, "index", exclude={7})
    assert (index.ids, index.unlabelled, index.excluded) == ([A], 0, 2)
    (data / "train.csv").write_text(f"id,landmark_id\n{A},None\n")
    with pytest.raises(InputError, match="lists no images"):
        collection.list_images(data, "train")


def test_a_listing_without_some_images_keeps_order_and_landmarks(data):
    train = collection.list_images(data, "train")
    found = collection.drop_images(train, {A})
    assert found.ids == [B, C] and found.landmarks.tolist() == [7, 7]
    with pytest.raises(InputError, match="no images are left"):
        collection.drop_images(train, {A, B, C})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (f"id\n{A}\n{A}\n", f"lists image {A} twice"),
        ("id\n", "lists no images"),
        ("name\nx\n", "no column 'id'"),
        ("", "the file is empty"),
    ],
)
def test_a_bad_table_is_refused_in_one_sentence(data, table, message):
    (data / "test.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        collection.list_images(data, "test")


def test_tables_that_are_absent_or_two_are_asked_for(data):
    (data / "train_clean.csv").write_text("landmark_id,images\n")
    with pytest.raises(InputError, match=r"name one with --train_list"):
        collection.list_images(data, "train")
    (data / "test.csv").unlink()
    with pytest.raises(InputError, match=r"test\.csv not found; name a table"):
        collection.list_images(data, "test")
    with pytest.raises(InputError, match="no such file"):
        collection.list_images(data, "test", data / "absent.csv")


def test_what_is_missing_is_counted_and_named():
    assert collection.check_whole("index", 3, {}, partial=False) == []
    missing = {A: "a.jpg: no such file", B: "b.jpg: damaged"}
    with pytest.raises(InputError, match="of 3 images, 2 photos missing") as error:
        collection.check_whole("index", 3, missing, partial=False)
    assert A in str(error.value) and "a.jpg: no such file" in str(error.value)
    (said,) = collection.check_whole("index", 3, missing, partial=True)
    assert said.startswith("index: of 3 images, 2 photos missing")


def test_descriptors_are_those_of_the_images(rng):
    rows = rng.normal(size=(5, 3)).astype(np.float32)
    images = collection.Images([A, B], None, Store(rows), np.array([4, 1]))
    np.testing.assert_array_equal(collection.descriptors(images), rows[[4, 1]])
    found = collection.descriptors(images, slice(1, 2))
    np.testing.assert_array_equal(found, rows[[1]])
