"""Photos, stores and indexes in buckets."""

import os
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from delf_jax import cli
from delf_jax.cluster import buckets, jobs
from delf_jax.cluster.shares import Answer
from delf_jax.commands import options
from delf_jax.files import InputError
from delf_jax.store import feature_store
from tests.helpers.bucket import make_bucket


@pytest.fixture
def bucket(tmp_path, photos, monkeypatch):
    """A bucket with four photos; copies are kept beside it."""
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path / "cache"))
    bucket = make_bucket(tmp_path / "s3")
    shutil.copytree(photos, bucket / "photos")
    return bucket


def _content(folder: pathlib.Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


EXTRACT = ("extract", "s3://bucket/photos", "--out=s3://bucket/features")


def test_features_of_photos_in_a_bucket_are_those_of_photos_on_a_disk(
    run, bucket, photos, tmp_path
):
    assert run("extract", photos, f"--out={tmp_path / 'here'}")[0] == 0
    status, printed = run(*EXTRACT)
    assert status == 0 and "4 extracted, 0 unchanged" in printed
    here, there = (
        feature_store.open_store(path)
        for path in (tmp_path / "here", bucket / "features")
    )
    assert here.ids == there.ids
    np.testing.assert_array_equal(here.global_descriptors, there.global_descriptors)
    for row in range(len(here.ids)):
        ours, theirs = here[row].local, there[row].local
        np.testing.assert_array_equal(ours.descriptors, theirs.descriptors)


def test_another_machine_goes_on_where_one_has_ended(
    run, bucket, tmp_path, monkeypatch
):
    assert "4 extracted" in run(*EXTRACT)[1]
    shards = [*(bucket / "features" / "shards").iterdir()]
    sent = [path.stat().st_mtime_ns for path in shards]
    assert "0 extracted, 4 unchanged" in run(*EXTRACT)[1]
    assert shards and sent == [path.stat().st_mtime_ns for path in shards]
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path / "another"))
    shutil.copy(bucket / "photos" / "0.png", bucket / "photos" / "new.png")
    (bucket / "photos" / "1.png").unlink()
    assert "1 extracted, 3 unchanged" in run(*EXTRACT)[1]
    # And the first one learns of it.
    monkeypatch.setenv("DELF_JAX_CACHE", str(tmp_path / "cache"))
    assert "0 extracted, 4 unchanged" in run(*EXTRACT)[1]
    store = feature_store.open_store(bucket / "features")
    assert "new.png" in store.ids


def test_an_index_in_a_bucket_is_searched_and_changed(run, bucket, photos):
    index = "--index=s3://bucket/index"
    assert run("index", "s3://bucket/photos", index)[0] == 0
    status, printed = run("search", "s3://bucket/photos/0.png", index, "--top=2")
    assert status == 0 and "1.png" in printed
    assert run("index", index, "--remove", "1.png")[0] == 0
    assert "1.png" not in run("search", photos / "0.png", index, "--top=4")[1]


def test_what_was_finished_is_sent_by_the_next_run(run, bucket, monkeypatch):
    monkeypatch.setattr(buckets, "push", lambda mirror: None)  # Killed before.
    assert "4 extracted" in run(*EXTRACT)[1]
    assert not (bucket / "features").exists()
    monkeypatch.undo()
    monkeypatch.setenv("DELF_JAX_CACHE", str(bucket.parent.parent / "cache"))
    assert "0 extracted, 4 unchanged" in run(*EXTRACT)[1]
    assert len(feature_store.open_store(bucket / "features").ids) == 4


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_what_a_command_writes_to_is_known(name):
    parser = options.Parser()
    cli.COMMANDS[name].add_options(parser)
    known = {action.dest for action in parser._actions}
    for written in options.WRITTEN.get(name, ()):
        assert written in known
    writes = {"out", "target", "workdir"} & known
    if name not in options.WITHOUT_BUCKETS:
        assert writes <= {*options.WRITTEN.get(name, ("out",))}


def test_what_is_only_read_stays_whatever_becomes_of_the_copy(bucket, tmp_path):
    values = {"paths": "s3://bucket/photos", "out": "s3://bucket/out"}
    (bucket / "out").mkdir()
    (bucket / "out" / "kept").write_text("1")
    with buckets.mirrored(values, tmp_path / "copies", ["out"]):
        (pathlib.Path(values["paths"]) / "0.png").unlink()
        (pathlib.Path(values["paths"]) / "1.png").write_text("changed")
    before = {f"{n}.png" for n in range(4)}
    assert _content(bucket / "photos").keys() == before
    assert (bucket / "photos" / "1.png").stat().st_size > 100
    values["out"] = "s3://bucket/out"
    with pytest.raises(InputError, match="its copy in the cache has gone"):
        with buckets.mirrored(values, tmp_path / "copies", ["out"]):
            shutil.rmtree(tmp_path / "copies" / "buckets" / "s3")
    assert (bucket / "out" / "kept").exists()


def test_what_is_removed_is_that_file_and_what_tells_of_others_comes_last(
    bucket, tmp_path, monkeypatch
):
    out = bucket / "out"
    out.mkdir()
    for name in ("a[1]", "a1", "*", "b"):
        (out / name).write_text(name)
    values = {"out": "s3://bucket/out"}
    sent = []
    with buckets.mirrored(values, tmp_path / "copies", ["out"]):
        copy = pathlib.Path(values["out"])
        for name in ("*", "a[1]"):
            (copy / name).unlink()
        (copy / "manifest.json").write_text("{}")
        (copy / "shard").write_text("later")
        put = DirFileSystem.put
        monkeypatch.setattr(
            DirFileSystem, "put", lambda *a: sent.append(a[2]) or put(*a)
        )
    assert sent == [["bucket/out/shard"], ["bucket/out/manifest.json"]]
    assert {path.name for path in out.iterdir()} == {
        *("a1", "b", "shard"),
        "manifest.json",
    }


def test_what_fails_names_the_address(bucket, capsys):
    assert cli.main(["extract", "s3://bucket/none", "--out=s3://bucket/out"]) == 2
    assert "error: s3://bucket/none" in capsys.readouterr().err
    assert not (bucket / "out").exists()


def test_a_bucket_without_rights_is_one_sentence(bucket, monkeypatch, capsys):
    def refuse(*_, **__):
        raise PermissionError("Access Denied.")

    monkeypatch.setattr("fsspec.implementations.dirfs.DirFileSystem.find", refuse)
    assert cli.main(list(EXTRACT)) == 2
    error = capsys.readouterr().err
    assert error == "error: s3://bucket/photos: Access Denied (PermissionError)\n"


@pytest.mark.parametrize("command", ["train", "sweep", "serve"])
def test_what_runs_on_files_wants_them_mounted(command, capsys):
    given = {
        "train": ["--config=configs/drawn.py", "--workdir=gs://a/b"],
        "sweep": ["--config=configs/drawn.py", "--workdir=gs://a/b"],
        "serve": ["--index=gs://a/b"],
    }
    assert cli.main([command, *given[command]]) == 2
    error = capsys.readouterr().err
    assert "mount the bucket" in error and error.count("\n") == 1


def test_names_that_lead_elsewhere_are_not_followed(bucket, tmp_path, monkeypatch):
    listing = {"bucket/a/../../x": {"size": 1}, "bucket/a//y": {"size": 1}}
    monkeypatch.setattr(
        "fsspec.implementations.dirfs.DirFileSystem.find", lambda *_, **__: listing
    )
    values = {"out": "s3://bucket/a"}
    with buckets.mirrored(values, tmp_path / "copies"):
        assert not pathlib.Path(values["out"]).exists()
    with pytest.raises(InputError, match="expected s3://BUCKET/PATH"):
        with buckets.mirrored({"out": "s3://bucket/../x"}, tmp_path / "copies"):
            pass


def test_workers_of_a_cluster_get_photos_and_send_results_themselves(bucket, tmp_path):
    values = {"paths": ["s3://bucket/photos"], "out": "s3://bucket/out"}
    (bucket / "out").mkdir()
    (bucket / "out" / "first").write_text("1")
    with buckets.mirrored(values, tmp_path / "copies", ["out"], ["paths"]):
        photo, out = (
            pathlib.Path(values["paths"][0], "0.png"),
            pathlib.Path(values["out"]),
        )
        assert photo.stat().st_size == (bucket / "photos" / "0.png").stat().st_size
        assert photo.stat().st_blocks == 0
        mirrors = buckets.active()
        actor = jobs._Actor()

        def work(share):
            ((name, path),) = share
            (out / name).write_bytes(path.read_bytes())
            return len(os.listdir(out))

        actor._work = work
        buckets.adopt(mirrors)
        assert actor.work([("second", photo)]).result == 2
        assert (bucket / "out" / "second").read_bytes() == photo.read_bytes()
    assert _content(bucket / "photos").keys() == {f"{n}.png" for n in range(4)}
    assert photo.read_bytes() == (bucket / "photos" / "0.png").read_bytes()
    assert [path.name for path in photo.parent.iterdir()] == ["0.png"]
    with buckets.mirrored({"paths": "s3://bucket/photos"}, tmp_path / "copies"):
        assert _content(photo.parent) == _content(bucket / "photos")


def test_a_worker_on_another_disk_gets_copies_of_its_own(bucket, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=lambda job: job))
    values = {"paths": "s3://bucket/photos", "out": "s3://bucket/out"}
    (bucket / "out").mkdir()
    (bucket / "out" / "first").write_text("1")
    with buckets.mirrored(values, tmp_path / "copies", ["out"], ["paths"]):
        mirrors = buckets.active()
        shutil.rmtree(tmp_path / "copies")  # As on a machine that has none.
        photo, sign = f"{values['paths']}/0.png", f"{values['out']}/sign"
        job = [lambda: len]
        here = jobs._versions(), str(tmp_path)
        assert jobs._Actor().make_ready(*here, [sign, photo], mirrors, job) == Answer()
        assert pathlib.Path(values["out"], "first").read_text() == "1"
        (bucket / "photos").rename(bucket / "elsewhere")
        monkeypatch.setattr(buckets, "_listing", _refuse)
        answer = jobs._Actor().make_ready(*here, [sign, photo], mirrors, job)
        assert answer.failure == "s3://bucket/photos: no (PermissionError)"
        monkeypatch.undo()


def _refuse(_):
    raise PermissionError("no")
