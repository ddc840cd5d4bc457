import json
import pathlib
import shutil
import tracemalloc
import warnings

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats import lazy_arrays
from delf_jax.formats.tensorflow import tensorbundle
from tests.helpers import tensorflow_files

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
ARRAYS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/bias": np.array([1, -1], np.float16),
    "step": np.array(7),
    "wide": np.array([0.5, 3]).astype(tensorflow_files.BFLOAT16),
}


def same(left, right):
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    if left.dtype == object:
        assert left.tolist() == right.tolist()
    else:
        assert left.tobytes() == right.tobytes()


@pytest.fixture(scope="module")
def tf():
    with warnings.catch_warnings(action="ignore"):
        return pytest.importorskip("tensorflow", reason="needs the extra [tf]")


@pytest.fixture
def prefix(tmp_path):
    tensorflow_files.write_bundle(tmp_path / "model.ckpt-3", ARRAYS, shards=3)
    return tmp_path / "model.ckpt-3"


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("delf_weights", "", "model/"),
        ("delf_tf2-ckpt/ckpt-7", "", ""),
        ("codebook", "", ""),
        ("tf1_model.ckpt-33", "", "tf1/"),
        ("saved_model/variables/variables", "_model/", "model/"),
    ],
)
def test_every_tensor_of_the_original_is_read(golden, name, before, after):
    folder = golden / "tfbundle"
    listed = json.loads((folder / "entries.json").read_text())
    values = np.load(folder / "values.npz")
    bundle = tensorbundle.read_bundle(folder / name)
    assert list(bundle) == sorted(listed["entries"][name])
    for key, (dtype, shape) in listed["entries"][name].items():
        entry, array = bundle.entries[key], bundle[key]
        assert entry.dtype == (object if dtype == "string" else dtype)
        assert (array.dtype, array.shape) == (entry.dtype, tuple(shape))
        stored = after + tensorbundle.variable_path(key).removeprefix(before)
        other = "extra/" + stored
        if stored in values or other in values:
            same(array, values[stored if stored in values else other])
        elif stored == "strings":
            assert array.tolist() == [text.encode() for text in listed["strings"]]
        elif stored == "bfloat16":
            assert array.astype(np.float32).tolist() == listed["bfloat16"]
        elif stored == "float64":
            assert [x.hex() for x in array.tolist()] == listed["float64"]
        else:
            assert "_CHECKPOINTABLE_OBJECT_GRAPH" in key or key.startswith("save_")


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "step"),
    [("codebook", 1), ("tf1_model.ckpt-33", 1), ("delf_tf2-ckpt/ckpt-7", 11)],
)
def test_a_damaged_index_is_noticed_or_changes_nothing(golden, tmp_path, name, step):
    source = golden / "tfbundle" / name
    shutil.copy(f"{source}.data-00000-of-00001", tmp_path / "x.data-00000-of-00001")
    expected = tensorbundle.read_bundle(source).entries
    whole = pathlib.Path(f"{source}.index").read_bytes()
    for data in tensorflow_files.damaged(whole, step):
        (tmp_path / "x.index").write_bytes(data)
        try:
            entries = tensorbundle.read_bundle(tmp_path / "x").entries
        except InputError as error:
            assert "x.index: damaged" in str(error)
        else:
            assert list(entries) == list(expected)
            assert all(entries[k][:2] == expected[k][:2] for k in expected)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "step"), [("codebook", 1), ("delf_tf2-ckpt/ckpt-7", 1997)]
)
def test_damaged_data_are_noticed(golden, tmp_path, name, step):
    source = golden / "tfbundle" / name
    shutil.copy(f"{source}.index", tmp_path / "x.index")
    whole = pathlib.Path(f"{source}.data-00000-of-00001").read_bytes()
    for data in tensorflow_files.damaged(whole, step):
        (tmp_path / "x.data-00000-of-00001").write_bytes(data)
        with pytest.raises(InputError, match=r"checksum is wrong|too short|texts|cut"):
            dict(tensorbundle.read_bundle(tmp_path / "x"))


@pytest.mark.parametrize("key", [b"", b"a"])
def test_damaged_entries_with_right_checksums_do_no_harm(tmp_path, key):
    values = {
        b"": tensorflow_files.header(),
        b"a": tensorflow_files.entry(1, [2, 3], 0, 0, b"\0" * 24),
        b"b": tensorflow_files.entry(7, [2], 0, 24, b"\0" * 6),
    }
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"\0" * 30)
    tracemalloc.start()
    for value in tensorflow_files.damaged(values[key]):
        items = sorted((values | {key: value}).items())
        (tmp_path / "x.index").write_bytes(tensorflow_files.table(items))
        try:
            dict(tensorbundle.read_bundle(tmp_path / "x"))
        except InputError:
            pass
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("settings", [{}, {"snappy": True}, {"block_bytes": 1}])
@pytest.mark.parametrize("shards", [1, 3])
def test_shards_and_blocks_make_no_difference(tmp_path, shards, settings):
    tensorflow_files.write_bundle(tmp_path / "x", ARRAYS, shards, **settings)
    bundle = tensorbundle.read_bundle(tmp_path / "x")
    assert list(bundle) == sorted(ARRAYS)
    for key, array in ARRAYS.items():
        same(bundle[key], array)


def test_types_and_shapes_are_known_before_any_tensor_is_read(prefix):
    bundle = tensorbundle.read_bundle(prefix)
    file = prefix.with_name("model.ckpt-3.data-00000-of-00003")
    file.write_bytes(b"\1" * file.stat().st_size)
    assert lazy_arrays.format_arrays(bundle) == (
        "a/bias float16 [2], a/kernel float32 [2, 3], step int64 [], wide bfloat16 [2]"
    )
    same(bundle["step"], ARRAYS["step"])
    with pytest.raises(InputError, match=r"-00000-of-00003, a/bias: .*checksum"):
        bundle["a/bias"]


def test_a_shard_that_is_absent_or_short_is_named(prefix):
    file = prefix.with_name("model.ckpt-3.data-00001-of-00003")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"00001-of-00003: too short, a/kernel"):
        tensorbundle.read_bundle(prefix)
    file.unlink()
    with pytest.raises(InputError, match=r"00001-of-00003: cannot be read \(No such"):
        tensorbundle.read_bundle(prefix)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (tensorflow_files.entry(1, [2], 0, 0, b"1234"), r"4 bytes for float32 \[2\]"),
        (tensorflow_files.entry(1, [1], -1, 0, b"1234"), "a place that no file has"),
        (tensorflow_files.entry(1, [1], 0, -4, b"1234"), "a place that no file has"),
        (tensorflow_files.entry(1, [1], 0, 1 << 60, b"1234"), "too short"),
        (
            tensorflow_files.entry(1, [1 << 62, 0], 0, 0, b""),
            "a shape that no array has",
        ),
        (tensorflow_files.entry(1, [-1], 0, 0, b"1234"), "left open"),
        (
            tensorflow_files.entry(1, [1], 7, 0, b"1234"),
            "00007-of-00001: cannot be read",
        ),
    ],
)
def test_entries_that_cannot_be_are_refused(tmp_path, value, reason):
    items = [(b"", tensorflow_files.header()), (b"a", value)]
    (tmp_path / "x.index").write_bytes(tensorflow_files.table(items))
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"1234")
    with pytest.raises(InputError, match=reason):
        tensorbundle.read_bundle(tmp_path / "x")


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], "header is missing"),
        ([(b"a", tensorflow_files.header())], "header is missing"),
        ([(b"", tensorflow_files.header(endianness=1))], "big-endian"),
        (
            [
                (
                    b"",
                    tensorflow_files.message(
                        (1, 1), (3, tensorflow_files.message((2, 9)))
                    ),
                )
            ],
            "newer",
        ),
    ],
)
def test_headers_of_another_kind_are_refused(tmp_path, items, reason):
    (tmp_path / "x.index").write_bytes(tensorflow_files.table(items))
    with pytest.raises(InputError, match=reason):
        tensorbundle.read_bundle(tmp_path / "x")


def test_what_cannot_be_read_is_refused_by_name_on_access(tmp_path):
    slices = b"".join(tensorflow_files.message((7, b"")) for _ in range(2))
    items = [
        (b"", tensorflow_files.header()),
        (b"\0part", tensorflow_files.entry(1, [1], 0, 0, b"1234")),
        (b"large", tensorflow_files.entry(1, [9], 0, 0, b"") + slices),
        (b"odd", tensorflow_files.entry(20, [1], 0, 0, b"1234")),
        (b"plain", tensorflow_files.entry(1, [1], 0, 0, b"1234")),
    ]
    (tmp_path / "x.index").write_bytes(tensorflow_files.table(items))
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"1234")
    bundle = tensorbundle.read_bundle(tmp_path / "x")
    assert list(bundle) == ["large", "odd", "plain"]
    assert bundle["plain"].tobytes() == b"1234"
    with pytest.raises(InputError, match="large is partitioned into 2 parts"):
        bundle["large"]
    with pytest.raises(InputError, match="odd: .*type 20 are not supported"):
        bundle["odd"]


def test_texts_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"\1\1\0\0\0\0ab")
    for sizes, reason in [([2], "checksum"), ([9], "8 bytes for 9"), ([1], "fill")]:
        value = tensorflow_files.entry(7, sizes, 0, 0, b"\1\1\0\0\0\0ab")
        items = [(b"", tensorflow_files.header()), (b"a", value)]
        (tmp_path / "x.index").write_bytes(tensorflow_files.table(items))
        with pytest.raises(InputError, match=reason):
            tensorbundle.read_bundle(tmp_path / "x")["a"]


def test_a_checkpoint_is_found_by_prefix_file_or_folder(prefix):
    for path in (
        prefix,
        f"{prefix}.index",
        f"{prefix}.data-00001-of-00003",
        prefix.parent,
    ):
        assert tensorbundle.find_bundle(path) == prefix
        assert tensorbundle.is_bundle(path)
    assert not tensorbundle.is_bundle(prefix.parent / "other")


@pytest.mark.parametrize("inner", ["", "variables"])
def test_a_saved_model_is_found_by_its_folder_or_its_variables(tmp_path, inner):
    (tmp_path / "variables").mkdir()
    tensorflow_files.write_bundle(tmp_path / "variables" / "variables", ARRAYS)
    found = tensorbundle.find_bundle(tmp_path / inner)
    assert found == tmp_path / "variables" / "variables"


def test_a_folder_of_several_lists_them(prefix):
    tensorflow_files.write_bundle(prefix.with_name("b"), ARRAYS)
    with pytest.raises(InputError, match=r"name one .*\(b, model.ckpt-3\)"):
        tensorbundle.find_bundle(prefix.parent)
    (prefix.parent / "empty").mkdir()
    with pytest.raises(InputError, match="no checkpoint here"):
        tensorbundle.find_bundle(prefix.parent / "empty")


@pytest.mark.parametrize(
    "line",
    [
        "model.ckpt-3",
        "/home/else/where/model.ckpt-3",
        r"C:\\runs\\model.ckpt-3",
        r"mod\145l.ckpt-3",
    ],
)
def test_the_state_file_names_the_latest(prefix, line):
    tensorflow_files.write_bundle(prefix.with_name("b"), ARRAYS)
    state = f'model_checkpoint_path: "{line}"\nall_model_checkpoint_paths: "b"\n'
    (prefix.parent / "checkpoint").write_text(state)
    assert tensorbundle.find_bundle(prefix.parent) == prefix


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b'all_model_checkpoint_paths: "model.ckpt-3"',
        b'model_checkpoint_path: ""',
        b'model_checkpoint_path: "../model.ckpt-3"',
        b'model_checkpoint_path: "a/../../b"',
        b'model_checkpoint_path: "model.ckpt-3',
        b'model_checkpoint_path: "model\\q"',
        b'model_checkpoint_path: "model\\000"',
        b'model_checkpoint_path: "\\377"',
        b'model_checkpoint_path: "other"',
        b"\xff\0" * 100,
        b" " * (1 << 21),
    ],
)
def test_a_state_file_that_names_nothing_there_is_refused(prefix, state):
    (prefix.parent / "checkpoint").write_bytes(state)
    with pytest.raises(InputError):
        tensorbundle.find_bundle(prefix.parent)


def same_as_tensorflow(tf, prefix):
    """Compares all that our reader and TensorFlow's find, and returns it."""
    theirs = tf.train.load_checkpoint(str(prefix))
    ours = tensorbundle.read_bundle(prefix)
    shapes = theirs.get_variable_to_shape_map()
    assert list(ours) == sorted(shapes)
    for key, array in ours.items():
        expected = theirs.get_tensor(key)
        assert ours.entries[key].shape == tuple(shapes[key])
        # TensorFlow hands out a single text as plain bytes.
        same(array, np.array(expected, object if array.dtype == object else None))
    return ours


def save(tf, prefix, arrays):
    """TensorFlow's own writer."""
    names, values = list(arrays), list(arrays.values())
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(value) for value in values],
    )


def test_a_full_size_delg_checkpoint_is_read_bit_for_bit(tf, golden, tmp_path, rng):
    listed = json.loads((golden / "variables_keras_delg.json").read_text())
    root = tf.train.Checkpoint()
    for variable in listed:
        *parents, name = variable["name"].split("/")
        owner = root
        for parent in ["model", *parents]:
            if not hasattr(owner, parent):
                setattr(owner, parent, tf.Module())
            owner = getattr(owner, parent)
        value = rng.standard_normal(variable["shape"], np.float32)
        setattr(owner, name, tf.Variable(value))
    prefix = tf.train.CheckpointManager(root, tmp_path, 2).save()
    ours = same_as_tensorflow(tf, prefix)
    expected = {"model/" + variable["name"] for variable in listed}
    expected |= {tensorbundle.OBJECT_GRAPH_KEY, "save_counter"}
    assert set(map(tensorbundle.variable_path, ours)) == expected
    assert str(tensorbundle.find_bundle(tmp_path)) == prefix


def test_shards_of_tensorflow_1_are_read_bit_for_bit(tf, golden, tmp_path, rng):
    listed = json.loads((golden / "variables_slim_r50.json").read_text())
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        for number, variable in enumerate(listed):
            with tf.device(f"/cpu:{number % 3}"):
                value = rng.standard_normal(variable["shape"], np.float32)
                v1.get_variable(variable["name"], initializer=value, use_resource=False)
        config = v1.ConfigProto(device_count={"CPU": 3})
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            saver = v1.train.Saver(sharded=True)
            prefix = saver.save(session, str(tmp_path / "model.ckpt"), 33)
    assert len(list(tmp_path.glob("*.data-*"))) == 3
    ours = same_as_tensorflow(tf, prefix)
    assert set(ours) == {variable["name"] for variable in listed}
    assert str(tensorbundle.find_bundle(tmp_path)) == prefix


def test_every_type_that_tensorflow_writes_is_read(tf, tmp_path):
    base = np.array([[0, 1, 2], [3, 4, 5]])
    names = [*tensorflow_files.TYPES.keys() - {"bfloat16"}, tensorflow_files.BFLOAT16]
    arrays = {str(np.dtype(name)): base.astype(name) for name in names}
    arrays["text"] = np.array([["a", "", "b" * 300], ["\n", "\0", "é" * 20]], object)
    arrays["word"] = np.array("word", object)
    arrays["scalar"] = np.array(1.5, np.float32)
    arrays["empty"] = np.zeros((0, 3), np.float32)
    save(tf, tmp_path / "x", arrays)
    assert set(same_as_tensorflow(tf, tmp_path / "x")) == set(arrays)


def test_many_names_of_tensorflow_fill_several_blocks(tf, tmp_path):
    names = (f"a_long_scope_name/{n:05d}/{'x' * (n % 90)}" for n in range(6000))
    arrays = {name: np.full(n % 3, n) for n, name in enumerate(names)}
    save(tf, tmp_path / "x", arrays)
    assert (tmp_path / "x.index").stat().st_size > 1 << 18
    ours = tensorbundle.read_bundle(tmp_path / "x")
    assert list(ours) == sorted(arrays)
    for name in list(arrays)[::100]:
        same(ours[name], arrays[name])


def test_a_variable_partitioned_by_tensorflow_is_refused_by_name(tf, tmp_path):
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "x"),
        tensor_names=["large", "large", "small"],
        shape_and_slices=["4 2 0,2:0,2", "4 2 2,2:0,2", ""],
        tensors=[tf.ones((2, 2)), tf.zeros((2, 2)), tf.ones(3)],
    )
    ours = tensorbundle.read_bundle(tmp_path / "x")
    assert list(ours) == ["large", "small"]
    assert ours.entries["large"].shape == (4, 2)
    same(ours["small"], np.ones(3, np.float32))
    with pytest.raises(InputError, match="large is partitioned into 2 parts"):
        ours["large"]


@pytest.mark.parametrize("settings", [{}, {"snappy": True}, {"block_bytes": 1}])
def test_the_tests_own_writer_is_understood_by_tensorflow(tf, tmp_path, settings):
    tensorflow_files.write_bundle(tmp_path / "x", ARRAYS, 2, **settings)
    same_as_tensorflow(tf, tmp_path / "x")
