import numpy as np
import pytest
from safetensors import safe_open

from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.formats import tensor_files
from delf_jax.index import global_index, global_search
from delf_jax.retrieval import nearest
from delf_jax.store import feature_store
from tests.helpers.stores import add_features


def draw(rng, count, dimension=48):
    centres = rng.normal(size=(max(1, count // 20), dimension))
    rows = centres[rng.integers(0, len(centres), count)]
    rows = rows + 0.5 * rng.normal(size=rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def add(folder, descriptors, first=0):
    """A store with images named by their number."""
    features = {
        f"{number:06d}": Features(None, row, (10, 10))
        for number, row in enumerate(descriptors, first)
    }
    return add_features(folder, features)


@pytest.fixture
def rows(rng):
    return draw(rng, 600)


@pytest.fixture
def filled(tmp_path, rows):
    return add(tmp_path / "store", rows)


def path(opened, precision):
    return opened.path / f"global-{precision}.safetensors"


def open_quietly(opened, precision="float32"):
    return global_index.open_descriptors(opened, precision, progress=False)


def test_few_descriptors_in_float32_are_read_and_no_file_is_made(filled, rows):
    index, recall = open_quietly(filled)
    np.testing.assert_array_equal(index.rows.values, rows)
    assert index.originals is None and recall is None
    assert not path(filled, "float32").exists()


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_a_file_holds_what_is_searched_and_finds_what_memory_finds(
    filled, rows, precision, monkeypatch, rng
):
    monkeypatch.setattr(global_index, "IN_MEMORY", 0)
    monkeypatch.setattr(global_index, "_CHUNK", 250)
    index, _ = open_quietly(filled, precision)
    expected = global_search.from_array(rows, precision)
    for found, each in zip(index.rows, expected.rows, strict=True):
        np.testing.assert_array_equal(found, each)
    assert index.largest_norm == expected.largest_norm
    assert index.rows.values.ctypes.data % 64 == 0
    assert isinstance(index.rows.values.base.base, np.memmap)
    queries = draw(rng, 4)
    for found, each in zip(
        *(global_search.find_nearest(i, queries, 20) for i in (index, expected)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, each)
    with safe_open(path(filled, precision), "numpy") as file:
        assert file.get_slice("values").get_shape() == list(rows.shape)
    assert list(filled.path.glob(".*")) == []


def test_the_file_is_made_once_and_again_when_the_store_is_another(filled, rng):
    open_quietly(filled, "int8")
    made = path(filled, "int8").stat()
    open_quietly(filled, "int8")
    assert path(filled, "int8").stat().st_mtime_ns == made.st_mtime_ns
    changed = draw(rng, 2)
    grown = add(filled.path, changed, first=599)
    index, _ = open_quietly(grown, "int8")
    assert index.size == 601
    expected = nearest.quantize(changed, "int8")
    np.testing.assert_array_equal(index.rows.values[-2:], expected.values)
    feature_store.remove_from_store(filled.path, ["000000"])
    assert open_quietly(feature_store.open_store(filled.path), "int8")[0].size == 600


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_no_flipped_bit_is_searched(filled, precision):
    index, recall = open_quietly(filled, precision)
    file = path(filled, precision)
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 60).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        file.unlink()  # What is mapped stays as it is.
        file.write_bytes(flipped)
        found, measured = open_quietly(filled, precision)
        assert (found.largest_norm, measured) == (index.largest_norm, recall)
        np.testing.assert_array_equal(
            *(i.rows.values.view(np.uint8) for i in (found, index))
        )


def test_a_file_of_version_0_1_is_searched(filled, monkeypatch):
    index, recall = open_quietly(filled, "int8")
    file = path(filled, "int8")
    tensors, metadata = tensor_files.map_tensors(file)
    old = {name: tensors[name] for name in ("values", "scales")}
    specs = {name: (array.dtype, array.shape) for name, array in old.items()}
    del metadata["checksum"]
    header = tensor_files.encode_header(specs, metadata, 2048)
    file.unlink()
    file.write_bytes(header + b"".join(array.tobytes() for array in old.values()))
    monkeypatch.setattr(global_index, "_write", None)
    assert open_quietly(filled, "int8")[1] == recall


def test_nothing_is_written_through_a_link(filled, tmp_path):
    (tmp_path / "precious").write_text("precious")
    path(filled, "int8").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="is a symbolic link"):
        open_quietly(filled, "int8")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "noise", "header"])
def test_a_damaged_file_is_rebuilt(filled, damage):
    open_quietly(filled, "int8")
    file = path(filled, "int8")
    whole = file.read_bytes()
    file.write_bytes(
        {
            "cut": whole[:-1],
            "longer": whole + b"0",
            "empty": b"",
            "noise": b"\xff" * len(whole),
            "header": whole.replace(b'"I8"', b'"F9"'),
        }[damage]
    )
    open_quietly(filled, "int8")
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("precision", "size", "plain"), [("bfloat16", 96, 0.97), ("int8", 52, 0.95)]
)
def test_recall_is_measured_when_the_file_is_made(filled, precision, size, plain):
    index, recall = open_quietly(filled, precision)
    assert (recall.photos, recall.nearest) == (64, 60)
    assert plain < recall.plain < recall.again == 1
    line = global_index.format_summary(index, recall)
    assert f"{precision}: {size} bytes a photo (float32: 192)" in line
    assert f"{recall.plain:.2%} of the 60 most similar, 100.00% among the 120" in line
    assert open_quietly(filled, precision)[1] == recall


def test_measured_recall_is_that_of_searches(filled, rows):
    _, recall = open_quietly(filled, "int8")
    photos = np.random.default_rng(0).choice(600, 64, replace=False)
    index = global_search.from_array(rows, "int8")._replace(originals=None)
    expected, found = (
        global_search.find_nearest(each, rows[photos], 61).ids
        for each in (global_search.from_array(rows, "float32"), index)
    )
    others = [
        [ids[ids != photo][:60] for ids, photo in zip(each, photos, strict=True)]
        for each in (found, expected)
    ]
    assert recall.plain == pytest.approx(
        nearest.recall(*map(np.stack, others)), abs=1e-3
    )


def test_of_very_few_photos_nothing_is_measured(tmp_path, rng):
    few = add(tmp_path / "few", draw(rng, 9))
    index, recall = open_quietly(few, "int8")
    assert recall is None
    expected = "int8: 52 bytes a photo (float32: 192)"
    assert global_index.format_summary(index, recall) == expected


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_a_descriptor_that_is_not_finite_is_refused_by_name(tmp_path, rng, precision):
    rows = draw(rng, 20)
    rows[7, 3] = np.nan
    broken = add(tmp_path / "broken", rows)
    with pytest.raises(InputError, match="global descriptor of 000007 is not finite"):
        open_quietly(broken, precision)
    assert not path(broken, precision).exists()


@pytest.mark.parametrize("precision", nearest.PRECISIONS)
def test_an_empty_store_opens_and_finds_nothing(tmp_path, precision, rng):
    empty = add(tmp_path / "empty", [])
    index, _ = open_quietly(empty, precision)
    assert global_search.find_nearest(index, draw(rng, 2), 5).ids.shape == (2, 0)


def test_what_cannot_be_opened_is_refused_in_a_sentence(filled, tmp_path):
    with pytest.raises(InputError, match="'int4': use one of float32, bfloat16, int8"):
        open_quietly(filled, "int4")
    local = add(tmp_path / "local", [None])
    with pytest.raises(InputError, match="no global descriptors"):
        open_quietly(local)
