import numpy as np
import pytest

from delf_jax.files import InputError
from delf_jax.index import inverted_file, inverted_shards
from tests.helpers.inverted_files import (
    aggregated_query,
    build,
    in_runs,
)


def spoil(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[:-8])
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("how", ["truncated", "missing", "corrupt"])
@pytest.mark.parametrize("kind", [inverted_shards.POSTINGS, inverted_shards.TENSORS])
def test_a_damaged_shard_is_named_and_only_its_images_are_aggregated_again(
    images, words, tmp_path, monkeypatch, how, kind
):
    in_runs(monkeypatch, 500)
    _, index = build(images, words, tmp_path / "out")
    query = aggregated_query(index)
    expected = inverted_file.similarities(index, query)
    broken = next(s for s in index.shards if s.entry["postings"])
    path = broken.path.with_suffix(kind)
    spoil(path, how)
    with pytest.raises(
        InputError, match=rf"{path}: is .*; .*run the same command again"
    ):
        opened = inverted_file.open_inverted_file(tmp_path / "out")
        last = np.flatnonzero(broken.lists.counts)[-1]
        inverted_file.similarities(
            opened,
            query._replace(visual_words=np.int32([last]), residuals=query[1][:1]),
        )
    report, index = build(images, words, tmp_path / "out")
    assert report.extracted == len(broken.images)
    assert report.damaged == 1
    np.testing.assert_array_equal(inverted_file.similarities(index, query), expected)
