import os
import zlib

import numpy as np
import pytest

from delf_jax import files, manifests
from delf_jax.files import InputError, sha256_of
from delf_jax.formats import tensor_files
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


def _forge(out, change):
    """Changes arrays of the first shard of an inverted file; its sums are right."""
    info = files.read_json(out / "inverted.json")
    entry = info["shards"][0]
    path = out / "shards" / f"{entry['name']}.safetensors"
    tensors, _ = tensor_files.read_tensors(path)
    tensors = {name: np.array(array) for name, array in tensors.items()}
    change(tensors)
    tensor_files.write_tensors(path, tensors, {})
    entry["sha256"] = sha256_of(path)
    entry["postings"] = abs(int(tensors["counts"].sum()))
    manifests.write_manifest(out / "inverted.json", info)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.pop("checksums"),
        lambda x: x.update(counts=x["counts"][:-1], checksums=x["checksums"][:-1]),
        lambda x: x.update(counts=-x["counts"]),
        lambda x: x.update(counts=x["counts"].astype(np.int64)),
        lambda x: x.update(counts=x["counts"] * 0),
        lambda x: x.update(word_counts=x["word_counts"][1:]),
        lambda x: x.update(word_counts=x["word_counts"][:, None]),
        lambda x: x.update(images=np.frombuffer(b"[]", np.uint8)),
        lambda x: x.update(images=np.frombuffer(b"{", np.uint8)),
        lambda x: x.update(images=np.frombuffer(b"[1, 2]", np.uint8)),
        lambda x: x.update(images=np.frombuffer(b"[" * 10**5, np.uint8)),
    ],
)
def test_arrays_that_do_not_fit_the_manifest_are_refused(
    images, words, tmp_path, change
):
    build(images, words, tmp_path / "out")
    _forge(tmp_path / "out", change)
    with pytest.raises(InputError, match="damaged or truncated; delete it"):
        inverted_file.open_inverted_file(tmp_path / "out")


@pytest.mark.parametrize("number", [-1, 10**6])
@pytest.mark.parametrize("binary", [True, False])
def test_a_list_of_images_that_there_are_not_is_refused(
    images, words, tmp_path, number, binary
):
    out = tmp_path / "out"
    _, index = build(images, words, out, binary=binary)
    query = aggregated_query(index)
    lists, path = index.shards[0].lists, index.shards[0].path
    word = int(query.visual_words[lists.counts[query.visual_words] > 1][0])
    data = np.array(lists.data)
    start, end = lists.starts[word : word + 2].tolist()
    data[start : start + 1].view(np.int32)[0] = number
    path.write_bytes(data.tobytes())

    def with_its_sum(tensors):
        tensors["checksums"][word] = zlib.crc32(data[start:end].tobytes())

    _forge(out, with_its_sum)
    opened = inverted_file.open_inverted_file(out)
    with pytest.raises(InputError, match=r"postings: is damaged"):
        inverted_file.similarities(opened, query)
    report, _ = build(images, words, out, binary=binary)
    assert report.damaged == 1


@pytest.mark.parametrize(
    "name", ["../../home/model", "/model", "a/b", "", "..", "A" * 12]
)
@pytest.mark.parametrize("other_key", [True, False])
def test_no_name_of_a_shard_leads_out_of_its_folder(
    images, words, tmp_path, name, other_key
):
    out = tmp_path / "index" / "out"
    build(images, words, out)
    (tmp_path / "home").mkdir()
    name = f"{tmp_path}/home/model" if name == "/model" else name
    precious = [tmp_path / "home" / f"model{s}" for s in (".postings", ".safetensors")]
    for path in precious:
        path.write_text("precious")
    info = files.read_json(out / "inverted.json")
    info["shards"][0]["name"] = name
    info |= {"key": "0" * 16} if other_key else {}
    manifests.write_manifest(out / "inverted.json", info)
    opened = lambda: inverted_file.open_inverted_file(out)  # noqa: E731
    for use in (opened, lambda: build(images, words, out)):
        with pytest.raises(InputError, match=r"shards\[0\].name': expected 12 hex"):
            use()
    assert all(path.read_text() == "precious" for path in precious)


@pytest.mark.parametrize("folder", ["shards", "codebook"])
def test_nothing_is_written_or_deleted_through_a_link(images, words, tmp_path, folder):
    build(images, words, tmp_path / "own")
    build(images, words, tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "own").rglob("*.*")}
    (tmp_path / "out" / folder).rename(tmp_path / "aside")
    (tmp_path / "out" / folder).symlink_to(tmp_path / "own" / folder)
    with pytest.raises(InputError, match=f"out/{folder}: is a symbolic link"):
        build(images, words, tmp_path / "out", binary=False)
    assert {p: p.read_bytes() for p in (tmp_path / "own").rglob("*.*")} == before


def test_files_of_other_names_are_not_deleted(images, words, tmp_path):
    build(images, words, tmp_path / "out")
    folder = tmp_path / "out" / "shards"
    ours = [folder / "0123456789ab.postings", folder / ".0123456789ab.postings.1.2"]
    others = [folder / "model.safetensors", folder / "0123456789ab.jpg"]
    for path in [*ours, *others]:
        path.write_text("old")
        os.utime(path, (0, 0))
    build(images, words, tmp_path / "out")
    assert [path.exists() for path in [*ours, *others]] == [False] * 2 + [True] * 2
