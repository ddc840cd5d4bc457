import numpy as np
import pytest


def test_prepare_stores_photos_and_lists_the_broken_ones(run, tmp_path):
    from delf_jax import images

    photos = tmp_path / "photos" / "a"
    photos.mkdir(parents=True)
    for number in range(3):
        pixels = np.full((30, 40, 3), 50 * number, np.uint8)
        (photos / f"{number}.jpg").write_bytes(images.encode_jpeg(pixels, 90))
    (photos / "2.jpg").write_bytes(b"no image")
    data = tmp_path / "data"
    arguments = f"--dataset={photos.parent}", f"--data={data}"
    status, out = run("prepare", *arguments, model=False)
    assert status == 0
    assert "2 of 3 images ready, 1 cannot be used" in out
    listed = (data / "photos-quarantine.csv").read_text()
    assert "a/2.jpg" in listed


def test_hidden_and_linked_folders_are_as_for_all_commands(tmp_path, capsys):
    from delf_jax import cli, images

    encoded = images.encode_jpeg(np.full((30, 40, 3), 90, np.uint8), 90)
    photos = tmp_path / "photos"
    hidden = (
        "a/.ipynb_checkpoints/0.jpg",
        ".ipynb_checkpoints/0.jpg",
        "__MACOSX/a/0.jpg",
    )
    for name in ("photos/a/0.jpg", "b/1.jpe", *(f"photos/{name}" for name in hidden)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded)
    (photos / "a" / "._0.jpg").write_bytes(b"\0\5\26\7")
    (photos / "labels.txt").write_text("")
    (photos / "b").symlink_to(tmp_path / "b")
    arguments = f"--dataset={photos}", f"--data={tmp_path / 'data'}"
    assert cli.main(["prepare", *arguments]) == 0
    printed = capsys.readouterr()
    assert "2 of 2 images ready" in printed.out
    left_out = "2 files skipped: 1 .txt, 1 hidden; 3 folders skipped: 3 hidden"
    assert printed.err.splitlines()[-1] == f"{photos}: {left_out}"


def test_what_prepare_leaves_out_train_finds_without_preparing_again(
    run, tmp_path, monkeypatch
):
    from delf_jax import images
    from delf_jax.data import loader, prepare

    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        encoded = images.encode_jpeg(np.full((30, 40, 3), 90, np.uint8), 90)
        (tmp_path / "photos" / label / "0.jpg").write_bytes(encoded)
    names, stored = tmp_path / "names.txt", tmp_path / "data"
    names.write_text("b\n")
    arguments = f"--dataset={tmp_path / 'photos'}", f"--data={stored}"
    status, out = run("prepare", *arguments, f"--exclude={names}", model=False)
    assert status == 0 and "1 of 1 images ready" in out
    monkeypatch.delattr(prepare, "_build")
    settings = {"mine": {"path": str(tmp_path / "photos")}}
    (source,), _ = loader.open_sources(
        settings, str(stored), max_side=1024, exclude="b"
    )
    assert source.classes == {"a": 0} and len(source) == 1


def test_prepare_writes_the_originals_tfrecords(run, tmp_path):
    from delf_jax import images

    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(5):
            encoded = images.encode_jpeg(np.full((30, 40, 3), 9 * number, np.uint8), 90)
            (tmp_path / "photos" / label / f"{number}.jpg").write_bytes(encoded)
    arguments = f"--dataset={tmp_path / 'photos'}", f"--data={tmp_path / 'out'}"
    options = "--to=tfrecord", "--shards=2"
    for split, count in (("train", 8), ("validation", 2)):
        status, out = run(
            "prepare", *arguments, *options, f"--split={split}", model=False
        )
        assert status == 0
        assert out.splitlines()[-1] == (
            f"{tmp_path / 'out'}: {count} of {count} images ready"
        )
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        "relabeling.csv",
        "train-00000-of-00002",
        "train-00001-of-00002",
        "validation-00000-of-00002",
        "validation-00001-of-00002",
    ]
    status, out = run("inspect", tmp_path / "out" / "relabeling.csv", model=False)
    assert status == 0 and "rows: 2" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards=3"], "--shards is for --to=tfrecord"),
        (["--to=tfrecord", "--shards=0"], "--shards=0: use a positive number"),
        (["--to=tfrecord", "--split=test"], "split is 'test': use 'train' or"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path, capsys, options, message
):
    from delf_jax import cli

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(b"")
    arguments = [f"--dataset={tmp_path}", f"--data={tmp_path / 'out'}"]
    assert cli.main(["prepare", *arguments, *options]) != 0
    assert message in capsys.readouterr().err
