import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.delf.codebook import read_codebook
from tests.helpers import tensorflow_files

KEY = "codebook/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "key"),
    [("codebook", "codebook"), ("tf1_model.ckpt-33", "tf1/clusters")],
)
def test_both_kinds_of_the_original_are_read(golden, name, key):
    codebook = read_codebook(golden / "tfbundle" / name)
    expected = np.load(golden / "tfbundle" / "values.npz")[key]
    assert codebook.dtype == np.float32
    np.testing.assert_array_equal(codebook, expected)


def test_a_checkpoint_without_codebook_is_an_error_that_lists_what_is_there(tmp_path):
    arrays = {"centroids": np.ones((2, 3), np.float32), "step": np.array(5)}
    tensorflow_files.write_bundle(tmp_path / "a", arrays)
    with pytest.raises(
        InputError, match=r"centroids float32 \[2, 3\], step int64 \[\]"
    ):
        read_codebook(tmp_path / "a")


@pytest.mark.parametrize(
    "array", [np.ones((2, 3)), np.ones(3, np.float32), np.ones((0, 3), np.float32)]
)
def test_other_shapes_and_types_are_no_codebook(tmp_path, array):
    tensorflow_files.write_bundle(tmp_path / "a", {KEY: array})
    with pytest.raises(InputError, match="a codebook is float32"):
        read_codebook(tmp_path / "a")


def test_a_codebook_that_is_not_finite_is_refused(tmp_path):
    array = np.float32([[1, np.nan]])
    tensorflow_files.write_bundle(tmp_path / "a", {KEY: array})
    with pytest.raises(InputError, match="has numbers that are not finite"):
        read_codebook(tmp_path / "a")
