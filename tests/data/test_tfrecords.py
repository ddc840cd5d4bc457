"""Training images written as the original's build_image_dataset writes them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.proto import tf_example_generated_pb2

from delf_jax.data import image_lists, tfrecords
from delf_jax.files import InputError
from delf_jax.formats.datasets import gldv2
from delf_jax.formats.tensorflow import tfrecord
from delf_jax.formats.tensorflow.crc32c import masked_crc32c
from delf_jax.images import encode_jpeg
from tests.campaign.contents import contents
from tests.helpers.clusters import in_this_process

LANDMARKS = {"aa1": 100, "bb2": 9, "cc3": 100, "dd4": 20, "ee5": 100}


def jpeg(number):
    return encode_jpeg(np.full((8, 10 + number, 3), 20 * number, np.uint8), 90)


@pytest.fixture
def landmarks(tmp_path):
    """A folder of GLDv2 with five images of three landmarks, and all its tables."""
    root = tmp_path / "gldv2"
    for number, image_id in enumerate(LANDMARKS):
        path = gldv2.image_path(root, image_id)
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(number))
    rows = [f"{image_id},x,{label}\n" for image_id, label in LANDMARKS.items()]
    (root / "train.csv").write_text("id,url,landmark_id\n" + "".join(rows[::-1]))
    clean = "landmark_id,images\n100,cc3 aa1 ee5\n20,dd4\n9,bb2\n"
    (root / "train_clean.csv").write_text(clean)
    (root / "test.csv").write_text("id\ncc3\naa1\n")
    return root


def write(path, folder, shards=2, plan=None, **changes):
    planned = plan or tfrecords.plan(str(path))
    return tfrecords.write(
        planned, str(folder), shards=shards, progress=False, **changes
    )


def read(folder, split="train"):
    paths = sorted(folder.glob(f"{split}-*"))
    return list(tfrecord.read_examples(paths))


def test_train_csv_is_written_by_id_with_its_own_numbers(landmarks, tmp_path):
    out = tmp_path / "out"
    assert write(landmarks / "train.csv", out) == (5, {})
    names = sorted(path.name for path in out.glob("[!.]*"))
    assert names == ["train-00000-of-00002", "train-00001-of-00002"]
    found = read(out)
    assert {example.id: example.label for example in found} == LANDMARKS
    assert [example.id for example in found] == sorted(LANDMARKS)
    for number, example in enumerate(found):
        assert example.encoded == jpeg(number)  # byte for byte as it was.
        assert (example.height, example.width) == (8, 10 + number)


def test_the_cleaned_table_is_numbered_anew_and_says_how(landmarks, tmp_path):
    """In the order of the file; new numbers ascend with the landmarks."""
    write(landmarks / "train_clean.csv", tmp_path / "out")
    found = [(example.id, example.label) for example in read(tmp_path / "out")]
    assert found == [("cc3", 2), ("aa1", 2), ("ee5", 2), ("dd4", 1), ("bb2", 0)]
    table = (tmp_path / "out" / "relabeling.csv").read_text()
    assert table.splitlines() == ["new_label,old_label", "0,9", "1,20", "2,100"]


def test_every_byte_of_a_record_is_as_the_formats_say(landmarks, tmp_path):
    """By protobuf itself: eight features of an Example, between two checksums."""
    write(landmarks / "train_clean.csv", tmp_path, shards=1)
    data = (tmp_path / "train-00000-of-00001").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
    content = data[12 : 12 + length]
    foot = struct.unpack("<I", data[12 + length : 16 + length])
    assert foot[0] == masked_crc32c(content)
    example = tf_example_generated_pb2.Example.FromString(content)
    feature = example.features.feature
    texts = {name: feature[name].bytes_list.value for name in feature}
    numbers = {name: feature[name].int64_list.value for name in feature}
    assert {name: x[0] for name, x in texts.items() if x} == {
        "image/colorspace": b"RGB",
        "image/format": b"JPEG",
        "image/id": b"cc3",
        "image/encoded": jpeg(2),
    }
    assert {name: x[0] for name, x in numbers.items() if x} == {
        "image/height": 8,
        "image/width": 12,
        "image/channels": 3,
        "image/class/label": 2,
    }


def test_parts_are_those_of_the_released_code_in_its_order(landmarks, tmp_path):
    table = landmarks / "train_clean.csv"
    listed = [("cc3", 2), ("aa1", 2), ("ee5", 2), ("dd4", 1), ("bb2", 0)]
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(0)))
    parts = {"train": [], "validation": []}
    for label in (2, 1, 0):
        members = [each for each in listed if each[1] == label]
        order = np.arange(len(members))
        rng.shuffle(order)
        drawn = [members[place] for place in order]
        parts["validation"] += drawn[:1]
        parts["train"] += drawn[1:]
    for split in ("validation", "train"):
        order = np.arange(len(parts[split]))
        rng.shuffle(order)
        expected = [parts[split][place] for place in order]
        plan = tfrecords.plan(str(table), split=split)
        write(table, tmp_path, shards=1, plan=plan)
        found = [(example.id, example.label) for example in read(tmp_path, split)]
        assert found == expected
        trained = image_lists.list_records(str(table), split=split)
        assert sorted(x[0] for x in found) == [record.id for record in trained]


def test_images_without_a_label_are_the_test_split(landmarks, tmp_path):
    write(landmarks / "test.csv", tmp_path)
    found = [(example.id, example.label) for example in read(tmp_path, "test")]
    assert found == [("aa1", None), ("cc3", None)]


def test_names_are_numbered_and_what_is_no_rgb_jpeg_becomes_one(tmp_path):
    """Grey ones break the original's batches, other formats its promise."""
    photos = tmp_path / "photos"
    for name, mode in (("b/0.png", "RGBA"), ("a/1.jpg", "L"), ("a/2.jpg", "CMYK")):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (30, 20)).save(photos / name)
    (photos / "loose.jpg").write_bytes(jpeg(1))  # of no class.
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(photos / "a" / "3.jpg", exif=turned)
    (photos / "a" / "broken.jpg").write_bytes(jpeg(1)[:-20])
    out = tmp_path / "out"
    written = write(photos, out, shards=1)
    assert written.images == 4 and list(written.failures) == ["a/broken.jpg"]
    assert "a/broken.jpg" in (out / "quarantine-train.csv").read_text()
    assert not list(out.glob("train[!-]*"))  # --train_file_pattern=.../train*
    found = {example.id: example for example in read(out)}
    labels = {"a/1.jpg": 0, "a/2.jpg": 0, "a/3.jpg": 0, "b/0.png": 1}
    assert {id: example.label for id, example in found.items()} == labels
    for id, example in found.items():
        with Image.open(io.BytesIO(example.encoded)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (30, 20))
        assert (example.height, example.width) == (20, 30), id
    kept = (photos / "a" / "3.jpg").read_bytes()
    assert found["a/3.jpg"].encoded == kept
    assert (out / "relabeling.csv").read_text().splitlines()[1:] == ["0,a", "1,b"]
    small = write(photos, tmp_path / "small", shards=1, max_side=15)
    assert small.images == 4
    sizes = {(x.height, x.width) for x in read(tmp_path / "small")}
    assert sizes == {(10, 15), (15, 10)}  # what is encoded anew stands upright.


def test_what_is_written_is_what_our_own_training_reads(landmarks, tmp_path):
    write(landmarks / "train.csv", tmp_path)
    records = image_lists.list_records(str(tmp_path))
    assert {record.id: record.label for record in records} == LANDMARKS
    before = image_lists.list_records(str(landmarks / "train.csv"))
    for one, other in zip(records, before, strict=True):
        pixels = image_lists.read_record(one), image_lists.read_record(other)
        np.testing.assert_array_equal(*pixels)
    again = tmp_path / "again"
    write(tmp_path, again)
    for path in tmp_path.glob("train-*"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_shards_that_are_there_are_kept_and_changed_ones_written_anew(
    landmarks, tmp_path, monkeypatch
):
    table, out = landmarks / "train.csv", tmp_path / "out"
    made, write_shard = [], tfrecord.write_shard

    def counted(path, examples):
        made.append(path.name)
        write_shard(path, examples)

    monkeypatch.setattr(tfrecord, "write_shard", counted)
    names = [f"train-{shard:05d}-of-00003" for shard in range(3)]
    assert write(table, out, shards=3, part=(1, 2)).images == 2
    assert made == names[1:2]
    assert write(table, out, shards=3).images == 5
    assert made == [names[1], names[0], names[2]]
    write(table, out, shards=3)
    assert len(made) == 3
    whole = {name: (out / name).read_bytes() for name in names}
    # A shard cut short, what is known of another damaged, a photo of the third changed.
    (out / names[0]).write_bytes(whole[names[0]][:-1])
    (out / ".shards" / f"{names[1]}.json").write_bytes(b"{")
    path = gldv2.image_path(landmarks, "ee5")
    photo = path.read_bytes()
    path.write_bytes(photo + b"\0")
    write(table, out, shards=3)
    assert made[3:] == names
    assert [(out / name).read_bytes() == whole[name] for name in names] == [
        True,
        True,
        False,
    ]


def test_shards_of_another_number_are_not_mixed_with_these(landmarks, tmp_path):
    write(landmarks / "train.csv", tmp_path, shards=2)
    with pytest.raises(InputError, match="00000-of-00002: is of another number of"):
        write(landmarks / "train.csv", tmp_path, shards=3)
    write(landmarks / "test.csv", tmp_path, shards=3)  # of another split.


def test_a_source_without_one_good_image_is_refused(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="no image can be read: .*0.jpg"):
        write(tmp_path / "photos", tmp_path / "out")


def test_a_cluster_writes_the_shards_that_one_process_would(
    landmarks, tmp_path, monkeypatch
):
    table = landmarks / "train_clean.csv"
    gldv2.image_path(landmarks, "bb2").write_bytes(b"no image")
    one = write(table, tmp_path / "one", shards=3)
    worked = in_this_process(monkeypatch, times=2)
    assert write(table, tmp_path / "many", shards=3, ray="") == one
    assert {*one.failures} == {"bb2"} and len(worked) == 3
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            other = tmp_path / "many" / path.relative_to(tmp_path / "one")
            assert other.read_bytes() == path.read_bytes()
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    write(table, tmp_path / "many", shards=3, ray="")
    assert len(worked) == 3


def test_images_of_a_shard_that_fails_are_listed_and_written_later(
    landmarks, tmp_path, monkeypatch
):
    table, out = landmarks / "train.csv", tmp_path / "out"
    second = "train-00001-of-00002"
    in_this_process(monkeypatch, fails=lambda shard: shard.name == second)
    written = write(table, out, shards=2, ray="")
    assert written.images == 2 and {*written.failures} == {"cc3", "dd4", "ee5"}
    assert "dd4.jpg: failed 3 times" in (out / "quarantine-train.csv").read_text()
    assert write(table, out, shards=2) == (5, {})
