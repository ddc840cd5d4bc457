"""What a user may get wrong, and disks and files may do: one sentence each."""

import errno
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from delf_jax import cli, files, manifests
from delf_jax.index import photo_index


def write_photo(path, seed=0, size=(96, 128)):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (*(-(-side // 8) for side in size), 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(small)
    image.resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def write_large_png(path, side):
    """A valid black picture of `side` x `side` pixels in a few kilobytes."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = b"\0" * (1 + (side + 7) // 8)
    data = zlib.compress(row * side)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, tiny_model):
    """A folder that holds photos/ and index/, made by the tiny model."""
    folder = tmp_path_factory.mktemp("indexed")
    for seed in range(3):
        write_photo(folder / "photos" / f"{seed}.jpg", seed)
    photos, index = folder / "photos", folder / "index"
    assert cli.main(["index", str(photos), f"--index={index}", *model(tiny_model)]) == 0
    return folder


@pytest.fixture
def own(indexed, tmp_path):
    """A copy of the index, to be damaged."""
    shutil.copytree(indexed / "index", tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def other_model(tiny_model, tmp_path):
    """The tiny model with one number changed, so another model."""
    import safetensors.numpy

    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + tensors[name].dtype.type(1)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["sha256"] = files.sha256_of(folder / "model.safetensors")
    manifests.write_manifest(folder / "config.json", config)
    return folder


def model(folder):
    return [f"--model={folder}"]


def refuse(capsys, *arguments):
    """The one sentence that a command prints when it could do nothing useful."""
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) in (1, 2)
    captured = capsys.readouterr()
    (line,) = [x for x in captured.err.splitlines() if not x.startswith("extract: ")]
    assert line.startswith("error: ") and line.count("error") == 1
    assert "Traceback" not in captured.err
    return line


def test_no_such_file(tiny_model, indexed, tmp_path, capsys):
    photo, absent = indexed / "photos/0.jpg", tmp_path / "absent.jpg"
    index, out = f"--index={indexed / 'index'}", f"--out={tmp_path / 'm.png'}"
    with_model = model(tiny_model)
    for arguments in (
        ["match", photo, absent, out],
        ["extract", absent, f"--out={tmp_path / 'store'}"],
        ["index", absent, f"--index={tmp_path / 'new'}"],
        ["search", absent, index],
    ):
        line = refuse(capsys, *arguments, *with_model)
        assert "absent.jpg: no such file" in line
    assert list(tmp_path.iterdir()) == []


def test_no_such_index_model_or_config(tiny_model, indexed, tmp_path, capsys):
    photo, none = indexed / "photos/0.jpg", tmp_path / "none"
    line = refuse(capsys, "search", photo, f"--index={none}", *model(tiny_model))
    assert f"{none}: no index" in line
    line = refuse(capsys, "match", photo, photo, *model(none))
    assert f"{none}: no such model" in line
    line = refuse(capsys, "train", f"--config={none}", f"--workdir={tmp_path}")
    assert f"{none}: no such config" in line


def test_not_an_image(tiny_model, indexed, tmp_path, capsys):
    text = tmp_path / "text.jpg"
    text.write_text("This is not a photo.")
    for arguments in (
        ["match", text, indexed / "photos/0.jpg", f"--out={tmp_path / 'm.png'}"],
        ["search", text, f"--index={indexed / 'index'}"],
    ):
        line = refuse(capsys, *arguments, *model(tiny_model))
        assert "text.jpg: not an image" in line


def test_an_empty_folder(tiny_model, indexed, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for arguments in (
        ["extract", tmp_path / "empty", f"--out={tmp_path / 'store'}"],
        ["index", tmp_path / "empty", f"--index={tmp_path / 'index'}"],
        ["search", tmp_path / "empty", f"--index={indexed / 'index'}"],
    ):
        assert "empty: no images" in refuse(capsys, *arguments, *model(tiny_model))


def test_three_good_photos_and_one_corrupt(tiny_model, indexed, tmp_path, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(indexed / "photos", photos)
    whole = (photos / "0.jpg").read_bytes()
    (photos / "half.jpg").write_bytes(whole[: len(whole) // 2])
    index = f"--index={tmp_path / 'index'}"
    assert cli.main(["index", str(photos), index, *model(tiny_model)]) == 0
    captured = capsys.readouterr()
    assert "3 extracted" in captured.out and "1 failed" in captured.out
    assert "half.jpg" in captured.err
    found = tmp_path / "found.json"
    arguments = ["search", str(photos), index, f"--json={found}", *model(tiny_model)]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "half.jpg" in captured.err and "1 failed" in captured.out
    queries = json.loads(found.read_text())["queries"]
    names = [pathlib.Path(query["image"]).name for query in queries]
    assert names == ["0.jpg", "1.jpg", "2.jpg"]
    assert all(len(query["results"]) == 3 for query in queries)


def test_only_corrupt_photos_is_a_failure(tiny_model, tmp_path, capsys):
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"\xff\xd8\xff\xe0 cut")
    index = f"--index={tmp_path / 'index'}"
    arguments = ["index", str(tmp_path / "photos"), index, *model(tiny_model)]
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert "2 failed" in captured.out
    assert "x.jpg" in captured.err and "y.jpg" in captured.err


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_images_without_extent(tiny_model, indexed, tmp_path, capsys, size):
    thin = write_photo(tmp_path / "thin.png", size=size)
    line = refuse(
        capsys, "search", thin, f"--index={indexed / 'index'}", *model(tiny_model)
    )
    assert "thin.png: " in line and "pixels" in line


def test_a_picture_of_400_million_pixels(tiny_model, indexed, tmp_path, capsys):
    bomb = write_large_png(tmp_path / "bomb.png", 20_000)
    assert bomb.stat().st_size < 200_000
    out = f"--out={tmp_path / 'm.png'}"
    line = refuse(
        capsys, "match", bomb, indexed / "photos/0.jpg", out, *model(tiny_model)
    )
    assert "bomb.png: 20000 x 20000 pixels" in line


def test_an_index_made_by_another_model(indexed, own, other_model, capsys):
    photo = indexed / "photos/0.jpg"
    line = refuse(capsys, "search", photo, f"--index={own}", *model(other_model))
    assert "indexed by model tiny" in line and "not by other" in line
    line = refuse(
        capsys, "index", f"--index={own}", "--add", photo, *model(other_model)
    )
    assert "indexed by model tiny" in line


def test_a_truncated_store(tiny_model, indexed, own, capsys):
    shards = sorted((own / "store").rglob("*.safetensors"))
    whole = shards[0].read_bytes()
    arguments = ["search", indexed / "photos/0.jpg", f"--index={own}"]
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        shards[0].write_bytes(whole[:length])
        line = refuse(capsys, *arguments, *model(tiny_model))
        assert shards[0].name in line or str(own) in line
    arguments[0] = "index"
    arguments[1] = indexed / "photos"
    assert cli.main([*map(str, arguments), *model(tiny_model)]) == 0
    assert "3 extracted, 0 unchanged, 1 damaged" in capsys.readouterr().out
    assert len(photo_index.open_index(own).store) == 3


@pytest.mark.parametrize("name", ["index.json", "store/manifest.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}'])
def test_a_damaged_description_of_the_index(
    tiny_model, indexed, own, capsys, name, text
):
    (own / name).write_text(text)
    arguments = ["search", indexed / "photos/0.jpg", f"--index={own}"]
    line = refuse(capsys, *arguments, *model(tiny_model))
    assert pathlib.Path(name).name in line or str(own) in line


def test_a_full_disk_keeps_what_was_there(
    tiny_model, indexed, own, tmp_path, capsys, monkeypatch
):
    before = {p: p.read_bytes() for p in own.rglob("*") if p.is_file()}
    new = write_photo(tmp_path / "new.jpg", 9)

    def no_room(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_room)
    for arguments in (
        ["index", f"--index={own}", "--add", new],
        ["extract", new, f"--out={tmp_path / 'store'}"],
        ["match", new, new, f"--out={tmp_path / 'm.png'}"],
        ["search", new, f"--index={own}", f"--json={tmp_path / 's.json'}"],
        ["search", new, f"--index={own}", f"--html={tmp_path / 's.html'}"],
    ):
        line = refuse(capsys, *arguments, *model(tiny_model))
        assert "disk" in line
    assert {p: p.read_bytes() for p in own.rglob("*") if p.is_file()} == before
    left = {p.name for p in tmp_path.iterdir()} - {"index", "new.jpg", "store"}
    assert not left
    monkeypatch.undo()
    arguments = ["index", f"--index={own}", "--add", str(new), *model(tiny_model)]
    assert cli.main(arguments) == 0


def test_a_misspelt_field_of_a_config(tmp_path, capsys):
    config = pathlib.Path(__file__).parent.parent / "configs" / "tiny.py"
    arguments = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    line = refuse(capsys, *arguments, "--config.loss.margn=0.2")
    assert "--config.loss.margn=0.2" in line and "no field margn" in line
    line = refuse(capsys, *arguments, "--config.seed=many")
    assert "--config.seed=many" in line
    assert not (tmp_path / "run").exists()


def test_weights_of_another_architecture(tiny_model, indexed, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["reduced_dimension"] = 8
    manifests.write_manifest(folder / "config.json", config)
    photo = indexed / "photos/0.jpg"
    line = refuse(capsys, "match", photo, photo, *model(folder))
    assert "architecture" in line and str(folder) in line
    config["architecture"]["reduced_dimension"] = 16
    config["architecture"]["depht"] = 18
    manifests.write_manifest(folder / "config.json", config)
    assert "depht" in refuse(capsys, "match", photo, photo, *model(folder))


def test_a_truncated_model(tiny_model, indexed, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    photo = indexed / "photos/0.jpg"
    line = refuse(capsys, "match", photo, photo, *model(folder))
    assert "model.safetensors" in line


def test_options_that_contradict_each_other(tiny_model, indexed, tmp_path, capsys):
    photo, index = indexed / "photos/0.jpg", f"--index={indexed / 'index'}"
    with_model = model(tiny_model)
    line = refuse(capsys, "index", photo, index, "--add", photo, *with_model)
    assert "--add" in line
    assert "--add" in refuse(capsys, "index", index, *with_model)
    assert "--top=-1" in refuse(capsys, "search", photo, index, "--top=-1", *with_model)
    line = refuse(capsys, "match", photo, photo, "--out=m.xyz", *with_model)
    assert "m.xyz" in line
