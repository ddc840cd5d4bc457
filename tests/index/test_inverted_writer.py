import numpy as np
import pytest

from delf_jax.index import inverted_builder, inverted_file
from tests.helpers.inverted_files import (
    IDS,
    aggregated_query,
    build,
    draw_words,
    fill_store,
)


@pytest.fixture
def images(tmp_path):
    return fill_store(tmp_path / "store", IDS)


@pytest.fixture
def words(tmp_path):
    return draw_words(tmp_path / "codebook")


def test_small_shards_are_merged(images, words, tmp_path, monkeypatch):
    monkeypatch.setattr(inverted_builder, "RUN_BYTES", 1)
    monkeypatch.setattr(inverted_builder, "SMALL_SHARDS", 3)
    monkeypatch.setattr(inverted_builder, "SHARD_BYTES", 700)
    _, index = build(images, words, tmp_path / "out")
    assert 1 < len(index.shards) < 7
    names = {path.stem for path in (tmp_path / "out/shards").iterdir()}
    assert names == {shard.entry["name"] for shard in index.shards}
    _, one = build(images, words, tmp_path / "one")
    query = aggregated_query(index)
    np.testing.assert_array_equal(
        inverted_file.similarities(index, query),
        inverted_file.similarities(one, query),
    )
