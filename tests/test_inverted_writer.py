import numpy as np
import pytest
from inverted_files import (
    IDS,
    aggregated_query,
    build,
    draw_words,
    fill_store,
)

from delf_jax import inverted_file, inverted_writer


@pytest.fixture
def images(tmp_path):
    return fill_store(tmp_path / "store", IDS)


@pytest.fixture
def words(tmp_path):
    return draw_words(tmp_path / "codebook")


def test_small_shards_are_merged(images, words, tmp_path, monkeypatch):
    monkeypatch.setattr(inverted_writer, "RUN_BYTES", 1)
    monkeypatch.setattr(inverted_writer, "SMALL_SHARDS", 3)
    monkeypatch.setattr(inverted_writer, "SHARD_BYTES", 700)
    _, index = build(images, words, tmp_path / "out")
    assert 1 < len(index.shards) < 7
    names = {path.stem for path in (tmp_path / "out/shards").iterdir()}
    assert names == {shard.described["name"] for shard in index.shards}
    _, one = build(images, words, tmp_path / "one")
    query = aggregated_query(index)
    np.testing.assert_array_equal(
        inverted_file.similarities(index, query),
        inverted_file.similarities(one, query),
    )
