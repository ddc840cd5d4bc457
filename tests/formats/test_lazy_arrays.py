import numpy as np
import pytest

from delf_jax.formats.lazy_arrays import Entry, LazyArrays, format_arrays


def test_arrays_are_read_on_access_and_not_before():
    read = []

    def entry(name, array):
        return Entry(array.dtype, array.shape, lambda: read.append(name) or array)

    arrays = LazyArrays({name: entry(name, np.ones(2)) for name in "ba"})
    assert list(arrays) == ["b", "a"]
    assert len(arrays) == 2
    assert "a" in arrays and "c" not in arrays
    assert arrays.entries["a"].shape == (2,)
    assert read == []
    np.testing.assert_array_equal(arrays["a"], np.ones(2))
    assert read == ["a"]
    with pytest.raises(KeyError):
        arrays["c"]


def test_the_description_names_types_and_shapes_of_the_first():
    entries = {"words": Entry(np.dtype(object), (), str)}
    entries |= {f"a{n}": Entry(np.dtype("<f4"), (n, 3), str) for n in range(30)}
    text = format_arrays(LazyArrays(entries))
    assert text.startswith("words text [], a0 float32 [0, 3], a1 float32 [1, 3], ")
    assert text.endswith("a18 float32 [18, 3], and 11 more")
    assert format_arrays(LazyArrays({})) == "nothing"
