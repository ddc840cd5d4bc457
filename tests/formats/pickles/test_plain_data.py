"""Numbers and ids of datasets, checked."""

import os
import pickle

import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.formats.pickles import plain_data


def test_lists_and_arrays_of_any_number_become_flat_numbers():
    for value in ([1, 2], (1.0, 2.0), np.array([[1], [2]], np.uint8)):
        assert plain_data.read_numbers(value, "x").tolist() == [1, 2]
    assert plain_data.read_numbers([], "x").shape == (0,)


@pytest.mark.parametrize("value", ["ab", [None], [True], [[1], [2, 3]], {"a": 1}, 1j])
def test_what_is_not_a_list_of_numbers_is_refused(value):
    with pytest.raises(InputError, match="gnd: not a list of numbers"):
        plain_data.read_numbers(value, "gnd")


def test_ids_count_from_zero_whatever_the_file_counts_from():
    ids = plain_data.read_ids([1.0, 4.0], "gnd", 1, 4)
    assert ids.tolist() == [0, 3]
    assert ids.dtype == np.int32
    for wrong in (0, 5, 1.5):
        with pytest.raises(
            InputError, match=f"gnd: {wrong} is not an image; there are 4"
        ):
            plain_data.read_ids([wrong], "gnd", 1, 4)


class Hostile:
    def __reduce__(self):
        return os.abort, ()


def test_a_pickle_that_runs_commands_is_refused(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(InputError, match="x.pkl: needs .*abort.* is refused"):
        plain_data.read_pickle(path)
