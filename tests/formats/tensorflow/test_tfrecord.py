"""The original's TFRecords without TensorFlow."""

import struct

import pytest

from delf_jax.files import InputError
from delf_jax.formats.tensorflow import tf_example, tfrecord
from delf_jax.formats.tensorflow.crc32c import masked_crc32c
from delf_jax.formats.tensorflow.tfrecord import Example

EXAMPLES = [
    Example("07a9a5ce7fff037b", b"\xff\xd8 first", 0, 480, 640),
    Example("ü", b"", None, 1, 2),
    Example("c", bytes(range(256)) * 3, -1, 3, 4),
]


def record(data: bytes) -> bytes:
    """A record with sound checksums around anything."""
    length = struct.pack("<Q", len(data))
    foot = struct.pack("<I", masked_crc32c(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + foot


def write(tmp_path, content: bytes):
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(content)
    return path


def test_examples_come_back_as_they_were_written(tmp_path):
    paths = tfrecord.write_examples(tmp_path, "train", EXAMPLES, 2)
    assert [p.name for p in paths] == ["train-00000-of-00002", "train-00001-of-00002"]
    assert list(tfrecord.read_examples(paths)) == EXAMPLES


def test_shards_are_cut_where_the_original_cuts_them(tmp_path):
    examples = [Example(str(i), b"", i, 1, 1) for i in range(11)]
    paths = tfrecord.write_examples(tmp_path, "test", examples, 4)
    labels = [[e.label for e in tfrecord.read_examples([p])] for p in paths]
    assert labels == [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9, 10]]
    # More shards than examples: some are empty files.
    paths = tfrecord.write_examples(tmp_path, "few", examples[:1], 3)
    assert [p.stat().st_size > 0 for p in paths] == [False, False, True]
    assert len(list(tfrecord.read_examples(paths))) == 1


def test_a_listed_place_leads_to_its_example(tmp_path):
    (path,) = tfrecord.write_examples(tmp_path, "train", EXAMPLES, 1)
    places = list(tfrecord.list_examples(path))
    assert [(p.id, p.label) for p in places] == [(e.id, e.label) for e in EXAMPLES]
    for place, example in zip(places, EXAMPLES, strict=True):
        assert tfrecord.read_example(path, place.offset) == example


def test_every_changed_or_cut_byte_is_found_and_its_record_named(tmp_path):
    (path,) = tfrecord.write_examples(tmp_path, "train", EXAMPLES[:2], 1)
    data = bytearray(path.read_bytes())
    (_, second) = (place.offset for place in tfrecord.list_examples(path))
    for place in range(len(data)):
        for flip in (1 << place % 8, 0xFF):
            data[place] ^= flip
            path.write_bytes(data)
            data[place] ^= flip
            number = int(place >= second)
            with pytest.raises(InputError, match=f"00000-of-00001, record {number}"):
                list(tfrecord.read_examples([path]))
            try:
                list(tfrecord.list_examples(path))
            except InputError as error:
                assert "train-00000-of-00001, record" in str(error)
    for length in set(range(1, len(data))) - {second}:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="record .: the file ends here"):
            list(tfrecord.read_examples([path]))


def test_a_length_beyond_the_file_takes_no_memory(tmp_path):
    length = struct.pack("<Q", 2**63)
    head = length + struct.pack("<I", masked_crc32c(length))
    path = write(tmp_path, head + bytes(40))
    with pytest.raises(InputError, match="record 0: the file ends here"):
        list(tfrecord.read_examples([path]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image/id": None}, "has no image/id"),
        ({"image/id": 3}, "has no image/id"),
        ({"image/id": b"\xff"}, "its image/id is not UTF-8"),
        ({"image/encoded": None}, "has no image/encoded"),
        ({"image/height": b"3"}, "has no image/height"),
    ],
)
def test_an_example_of_something_else_is_refused(tmp_path, changes, message):
    features = {"image/id": b"a", "image/encoded": b"", "image/height": 1}
    features |= {"image/width": 1} | changes
    kept = {name: value for name, value in features.items() if value is not None}
    path = write(tmp_path, record(tf_example.serialize_example(kept)))
    with pytest.raises(InputError, match=f"record 0: {message}"):
        list(tfrecord.read_examples([path]))


def test_records_of_other_data_and_other_files_are_refused(tmp_path):
    path = write(tmp_path, record(b"\x0b"))
    with pytest.raises(InputError, match="record 0: not a tf.train.Example"):
        list(tfrecord.read_examples([path]))
    path = write(tmp_path, b"\x1f\x8b compressed by gzip")
    with pytest.raises(InputError, match="damaged, or not a TFRecord"):
        list(tfrecord.read_examples([path]))
    with pytest.raises(InputError, match="no such file"):
        list(tfrecord.read_examples([tmp_path / "nowhere"]))


def test_shards_are_found_by_file_pattern_and_folder(tmp_path):
    train = tfrecord.write_examples(tmp_path, "train", EXAMPLES, 2)
    (tmp_path / "relabeling.csv").touch()
    assert tfrecord.find_shards(tmp_path) == train
    assert tfrecord.find_shards(tmp_path / "train-*-of-*") == train
    assert tfrecord.find_shards(train[1]) == [train[1]]
    assert tfrecord.find_shards(tmp_path / "relabeling.csv") == []
    assert tfrecord.find_shards(tmp_path / "nothing*") == []
    tfrecord.write_examples(tmp_path, "validation", EXAMPLES, 1)
    with pytest.raises(InputError, match="of train and validation; .* as in .*tion-"):
        tfrecord.find_shards(tmp_path)


def test_hidden_files_are_no_shards(tmp_path):
    (path,) = tfrecord.write_examples(tmp_path, "train", EXAMPLES, 1)
    path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    assert tfrecord.find_shards(tmp_path) == [path]


@pytest.mark.filterwarnings("ignore")
def test_tensorflow_reads_and_writes_the_same(tmp_path, rng):
    tf = pytest.importorskip(
        "tensorflow", reason="to compare with TensorFlow: pip install delf_jax[tf]"
    )
    examples = [
        Example(f"{i:016x}", rng.bytes(70_000 * (i + 1)), 7 * i, 5, 6) for i in range(3)
    ]
    mine = tfrecord.write_examples(tmp_path, "train", examples, 2)
    read = tf.data.TFRecordDataset([str(path) for path in mine])
    parsed = [tf.train.Example.FromString(data.numpy()) for data in read]
    for theirs, example in zip(parsed, examples, strict=True):
        feature = theirs.features.feature
        assert feature["image/id"].bytes_list.value[0].decode() == example.id
        assert feature["image/encoded"].bytes_list.value[0] == example.encoded
        assert feature["image/format"].bytes_list.value[0] == b"JPEG"
        assert feature["image/colorspace"].bytes_list.value[0] == b"RGB"
        assert feature["image/class/label"].int64_list.value[0] == example.label
        sizes = ("image/height", "image/width", "image/channels")
        assert [feature[name].int64_list.value[0] for name in sizes] == [5, 6, 3]
        assert len(feature) == 8
    path = tmp_path / "theirs-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for theirs in parsed:
            writer.write(theirs.SerializeToString())
    assert list(tfrecord.read_examples([path])) == examples
    listed = [(place.id, place.label) for place in tfrecord.list_examples(path)]
    assert listed == [(example.id, example.label) for example in examples]
