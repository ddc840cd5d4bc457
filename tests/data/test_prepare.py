"""Labelled images prepared in parts: kept, resumed, shared; broken ones listed."""

import csv
import os
import pathlib
import shutil
import time

import cv2
import numpy as np
import pytest

from delf_jax.data import image_lists
from delf_jax.data import prepare as preparation
from delf_jax.data.image_lists import list_records
from delf_jax.files import InputError
from delf_jax.images import decode_image
from tests.helpers.clusters import in_this_process


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Ten plain images of two classes, in parts of three."""
    monkeypatch.setattr(preparation, "PART", 3)
    for number in range(10):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 40, 3), 20 * number, np.uint8))
    return list_records(str(tmp_path / "images"))


def prepare(records, directory, **changes):
    settings = {"max_side": 16, "progress": False} | changes
    return preparation.prepare("s", records, str(directory), **settings)


def content(prepared):
    return {
        example["id"].decode(): (
            example["label"].decode(),
            decode_image(bytes(example["image"])).shape,
            int(decode_image(bytes(example["image"])).mean().round()),
        )
        for example in (prepared.images[i] for i in range(len(prepared.images)))
    }


def expected(records):
    shape = (8, 16, 3)
    return {r.id: (r.label, shape, 20 * int(r.path.stem)) for r in records}


@pytest.fixture
def read(monkeypatch):
    """The ids of the images that are read."""
    ids, whole = [], image_lists.read_record

    def counted(record):
        ids.append(record.id)
        return whole(record)

    monkeypatch.setattr(preparation, "read_record", counted)
    return ids


def test_all_images_are_there_shrunk_with_their_labels(records, tmp_path):
    prepared = prepare(records, tmp_path / "data", threads=3)
    assert content(prepared) == expected(records)
    assert prepared.failures == {}
    assert not (tmp_path / "data" / "s-quarantine.csv").exists()


def test_what_is_prepared_is_not_prepared_again(records, tmp_path, read):
    prepare(records, tmp_path / "data")
    assert sorted(read) == [record.id for record in records]
    read.clear()
    assert content(prepare(records, tmp_path / "data")) == expected(records)
    assert read == []


def test_a_process_that_another_one_overtakes_takes_what_that_has_prepared(
    records, tmp_path, monkeypatch
):
    whole = image_lists.read_record

    def overtaken(record):
        monkeypatch.setattr(preparation, "read_record", whole)
        prepare(records, tmp_path / "data")
        return whole(record)

    monkeypatch.setattr(preparation, "read_record", overtaken)
    assert content(prepare(records, tmp_path / "data")) == expected(records)


def test_a_killed_job_resumes_after_the_parts_that_it_finished(
    records, tmp_path, monkeypatch, read
):
    whole = preparation._shrunk_jpeg

    def killed(image, max_side):
        if len(read) > 7:
            raise KeyboardInterrupt
        return whole(image, max_side)

    monkeypatch.setattr(preparation, "_shrunk_jpeg", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(records, tmp_path / "data")
    monkeypatch.setattr(preparation, "_shrunk_jpeg", whole)
    read.clear()
    assert content(prepare(records, tmp_path / "data")) == expected(records)
    assert sorted(read) == [record.id for record in records[6:]]


def test_several_processes_each_prepare_their_parts(records, tmp_path, read):
    first = prepare(records, tmp_path / "data", part=(0, 2))
    assert sorted(read) == [r.id for r in records[:3] + records[6:9]]
    assert len(first.images) == 6
    prepare(records, tmp_path / "data", part=(1, 2))
    read.clear()
    assert content(prepare(records, tmp_path / "data")) == expected(records)
    assert read == []


def test_changed_files_change_their_part_only(records, tmp_path, read):
    prepare(records, tmp_path / "data")
    cv2.imwrite(str(records[4].path), np.full((30, 60, 3), 99, np.uint8))
    read.clear()
    prepared = content(prepare(records, tmp_path / "data"))
    assert sorted(read) == [record.id for record in records[3:6]]
    assert prepared[records[4].id][2] == 99


def test_names_that_are_not_utf8_keep_their_bytes(records, tmp_path):
    image = records[0].path.read_bytes()
    (tmp_path / "latin" / os.fsdecode(b"K\xf6ln")).mkdir(parents=True)
    for name in (b"\xfc.png", b"broken \xfc.png"):
        path = tmp_path / "latin" / os.fsdecode(b"K\xf6ln/" + name)
        path.write_bytes(b"" if b"broken" in name else image)
    prepared = prepare(list_records(str(tmp_path / "latin")), tmp_path / "data")
    (example,) = (prepared.images[i] for i in range(len(prepared.images)))
    assert (example["id"], example["label"]) == (b"K\xf6ln/\xfc.png", b"K\xf6ln")
    assert list(prepared.failures) == [os.fsdecode(b"K\xf6ln/broken \xfc.png")]
    quarantine = (tmp_path / "data" / "s-quarantine.csv").read_bytes()
    assert b"\nK\xf6ln/broken \xfc.png," in quarantine


def test_a_folder_of_prepared_images_needs_a_name_in_utf8(records, tmp_path):
    with pytest.raises(InputError, match="choose a folder whose name is UTF-8"):
        prepare(records, tmp_path / os.fsdecode(b"K\xf6ln"))


def test_what_a_killed_job_left_is_cleared_when_it_is_old(records, tmp_path):
    first = prepare(records[:3], tmp_path / "data")
    (made,) = (tmp_path / "data" / "labelled_images").iterdir()
    shutil.rmtree(made / "1.0.0")
    for name, days in (("old", 2), ("young", 0)):
        left = made / f"incomplete.{name}_1.0.0"
        left.mkdir()
        os.utime(left, (time.time() - days * 24 * 3600,) * 2)
    assert content(prepare(records[:3], tmp_path / "data")) == content(first)
    assert {p.name for p in made.iterdir()} == {"1.0.0", "incomplete.young_1.0.0"}


def test_a_part_that_was_killed_before_its_checksums_gets_them(records, tmp_path):
    first = prepare(records[:3], tmp_path / "data")
    (sums,) = (tmp_path / "data").rglob(preparation.CHECKSUMS)
    written = sums.read_text()
    # It, or another one at the same time, has begun to write them.
    sums.rename(sums.with_name(f".{sums.name}.77.abcd"))
    assert content(prepare(records[:3], tmp_path / "data")) == content(first)
    assert sums.read_text() == written


def test_broken_images_are_listed_and_remembered(records, tmp_path, read):
    records[0].path.write_bytes(b"no image")
    records[5].path.unlink()
    for _ in range(2):
        prepared = prepare(records, tmp_path / "data")
        assert set(prepared.failures) == {records[0].id, records[5].id}
        assert len(content(prepared)) == 8
        with open(tmp_path / "data" / "s-quarantine.csv", newline="") as file:
            listed = {row["image"]: row["reason"] for row in csv.DictReader(file)}
        assert listed == prepared.failures
    assert len(read) == len(records)
    cv2.imwrite(str(records[0].path), np.zeros((20, 40, 3), np.uint8))
    cv2.imwrite(str(records[5].path), np.zeros((20, 40, 3), np.uint8))
    assert len(content(prepare(records, tmp_path / "data"))) == 10
    assert not (tmp_path / "data" / "s-quarantine.csv").exists()


def test_a_part_of_broken_images_alone_is_left_out(records, tmp_path):
    for record in records[3:6]:
        record.path.write_bytes(b"no image")
    prepared = prepare(records, tmp_path / "data")
    assert set(prepared.failures) == {record.id for record in records[3:6]}
    assert content(prepared) == expected(records[:3] + records[6:])


def test_nothing_but_broken_images_is_reported_in_one_sentence(records, tmp_path):
    for record in records:
        record.path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"sources\.s: no image can be read: .*0\.png"):
        prepare(records, tmp_path / "data")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


FILES = ("dataset_info.json", "features.json", "metadata.json", "checksums.json")


@pytest.mark.parametrize("damage", [flip, empty, pathlib.Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_with_what_to_do(records, tmp_path, name, damage):
    prepare(records, tmp_path / "data")
    path = min((tmp_path / "data").rglob(name))
    damage(path)
    if name == "checksums.json" and damage is pathlib.Path.unlink:  # as of 0.1.
        assert content(prepare(records, tmp_path / "data")) == expected(records)
        return
    with pytest.raises(InputError, match=f"^{path}: ") as caught:
        prepare(records, tmp_path / "data")
    assert "\n" not in str(caught.value)
    shutil.rmtree(path.parent)
    assert content(prepare(records, tmp_path / "data")) == expected(records)


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("text", ["", "{", "3", '{"failures": 3}', "[" * 100_000])
def test_a_damaged_file_of_an_older_version_is_no_traceback(
    records, tmp_path, name, text
):
    prepare(records, tmp_path / "data")
    path = min((tmp_path / "data").rglob(name))
    (path.parent / "checksums.json").unlink()
    path.write_text(text)
    try:
        assert content(prepare(records, tmp_path / "data")) == expected(records)
    except InputError as error:
        assert str(path.parent) in str(error) and "prepares it again" in str(error)


@pytest.mark.parametrize("with_checksums", [True, False])
def test_damaged_images_are_named_when_they_are_read(records, tmp_path, with_checksums):
    prepare(records, tmp_path / "data")
    path = min((tmp_path / "data").rglob("*.array_record*"))
    data = path.read_bytes()
    start = data.index(b"\xff\xd8")  # of the first JPEG.
    path.write_bytes(data[: start + 20] + b"damage" + data[start + 26 :])
    if not with_checksums:
        (path.parent / "checksums.json").unlink()
    prepared = prepare(records, tmp_path / "data")
    with pytest.raises(InputError, match=f"{path.parent}: a damaged part .* again"):
        content(prepared)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=f"{path.parent}.* prepares it again"):
        content(prepare(records, tmp_path / "data"))


def test_an_empty_folder_is_refused(records):
    with pytest.raises(InputError, match="data.directory is empty"):
        prepare(records, "")


def files_of(folder):
    """The bytes of all files, without what says where and when tfds made them."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".json"]
    return {p.relative_to(folder): p.read_bytes() for p in paths}


def test_a_cluster_prepares_what_one_process_would(records, tmp_path, monkeypatch):
    records[2].path.write_bytes(b"no image")
    records[9].path.write_bytes(b"nor this, the only one of its part")
    one = prepare(records, tmp_path / "one")
    worked = in_this_process(monkeypatch, times=2)
    many = prepare(records, tmp_path / "many", ray="")
    assert content(many) == content(one) and many.failures == one.failures
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")
    assert len(worked) == 4
    prepare(records, tmp_path / "many", ray="")
    # Only the part of which no image can be read is tried again.
    assert len(worked) == 5


def test_images_of_a_part_that_fails_are_listed(records, tmp_path, monkeypatch):
    in_this_process(monkeypatch, fails=lambda part: part[0] == records[3])
    prepared = prepare(records, tmp_path / "data", ray="")
    assert {*prepared.failures} == {r.id for r in records[3:6]}
    assert len(prepared.images) == 7
    assert content(prepare(records, tmp_path / "data")) == expected(records)
