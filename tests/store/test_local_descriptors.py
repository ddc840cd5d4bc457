import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.store import local_descriptors
from tests.helpers.stores import draw_store


def whole(given):
    return np.concatenate([features.local.descriptors for features in given.store])


@pytest.mark.parametrize("size", [1, 2, 4, 9, 50])
def test_chunks_are_all_descriptors_in_order(tmp_path, monkeypatch, size):
    monkeypatch.setattr(local_descriptors, "CHUNK", size)
    given = local_descriptors.open_descriptors(draw_store(tmp_path / "store"))
    chunks = list(local_descriptors.read_chunks(given, "test", False))
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert 0 < len(chunks[-1]) <= size
    np.testing.assert_array_equal(np.concatenate(chunks), whole(given))
    assert given.total == 9 and given.dimension == 6


def test_descriptors_are_found_by_their_numbers(tmp_path):
    given = local_descriptors.open_descriptors(draw_store(tmp_path / "store"))
    for rows in ([0], [8], [1, 3, 4, 8], list(range(9))):
        found = local_descriptors.gather(given, np.array(rows))
        np.testing.assert_array_equal(found, whole(given)[rows])


def test_a_store_without_local_descriptors_is_refused(tmp_path):
    draw_store(tmp_path / "globes", local=0)
    with pytest.raises(InputError, match="globes: has no local descriptors"):
        local_descriptors.open_descriptors(tmp_path / "globes")
    draw_store(tmp_path / "empty", ids=[])
    with pytest.raises(InputError, match="an empty store"):
        local_descriptors.open_descriptors(tmp_path / "empty")


def test_descriptors_that_are_not_finite_are_refused(tmp_path):
    given = local_descriptors.open_descriptors(draw_store(tmp_path / "store"))
    rows = np.full((2, 6), np.nan, np.float32)
    features = given.store[0]
    broken = features._replace(local=features.local._replace(descriptors=rows))
    given = given._replace(store=Broken([broken]), counts=np.array([2]))
    with pytest.raises(InputError, match="not finite"):
        list(local_descriptors.read_chunks(given, "test", False))
    with pytest.raises(InputError, match="not finite"):
        local_descriptors.gather(given, np.array([1]))


class Broken(list):
    path = "broken"
