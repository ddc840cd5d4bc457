"""Released artefacts, from a server of this machine, become what they are for."""

import gzip
import io
import pathlib
import tarfile

import numpy as np
import pytest

from delf_jax import cli
from delf_jax.data import archives
from delf_jax.data.download_catalogue import DOWNLOADS
from delf_jax.extraction import model_folder
from delf_jax.formats.delf.datum import write_datum
from tests.helpers import naive_resnet, tensorflow_files
from tests.helpers.faulty_server import serve
from tests.helpers.foreign_weights import (
    BLOCK3,
    SHALLOW,
    UNITS,
    WIDTH,
    saved_model_of,
    slim_heads,
    slim_weights,
)


@pytest.fixture
def server(monkeypatch):
    with serve(monkeypatch) as running:
        yield running


@pytest.fixture
def offer(server, monkeypatch):
    """Has the server send these bytes as the artefact of that name."""

    def offer(name, data):
        (file,) = DOWNLOADS[name].files
        server.files[f"/{name}"] = data
        file = file._replace(url=f"{server.url}/{name}", digest="")
        monkeypatch.setitem(DOWNLOADS, name, DOWNLOADS[name]._replace(files=(file,)))

    return offer


@pytest.fixture
def download(tmp_path, capsys):
    """Runs the command: (status, standard output, lines of what failed)."""

    def download(*names):
        status = cli.main(["download", *names, "--yes", f"--out={tmp_path / 'models'}"])
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        return status, printed.out, [line for line in lines if not line.endswith("/s")]

    return download


def tar_of(folder: pathlib.Path) -> bytes:
    """A compressed TAR of what is in a folder."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return made.getvalue()


@pytest.fixture
def delf(rng, tmp_path):
    """The archive of a small DELF, as the original packs its own."""
    folder = tmp_path / "packed" / "delf_gld_20190411"
    saved_model_of(slim_weights(rng, SHALLOW) | slim_heads(rng), folder / "model")
    write_datum(folder / "pca" / "mean.datum", rng.normal(size=BLOCK3))
    projection = rng.normal(size=(BLOCK3, BLOCK3))
    write_datum(folder / "pca" / "pca_proj_mat.datum", projection)
    return tar_of(folder.parent)


def test_a_delf_is_fetched_unpacked_converted_and_used_next(
    server, offer, download, delf, tmp_path
):
    offer("delf_gld", delf)
    status, out, _ = download("delf_gld")
    models = tmp_path / "models"
    assert status == 0 and f"{models}: 1 fetched, 0 present\n" in out
    assert out.endswith(
        f"next: python main.py match a.jpg b.jpg --model={models / 'delf_gld'}\n"
    )
    config, _ = model_folder.read_model(models / "delf_gld")
    assert config["extraction"]["attention_threshold"] == 100.0  # of this release.
    assert config["extraction"]["pca"]["dimension"] == BLOCK3
    assert sorted(path.name for path in models.iterdir()) == ["delf_gld", "released"]
    server.requests.clear()
    status, out, _ = download("delf_gld")
    assert status == 0 and "is there; remove it to convert it again" in out
    assert "0 fetched, 0 present" in out and server.requests == []


def test_what_was_fetched_and_not_yet_converted_is_converted(
    server, offer, download, delf, tmp_path
):
    offer("delf_gld", delf)
    (tmp_path / "models").mkdir()
    blocked = tmp_path / "models" / "released" / "delf_gld_20190411"
    blocked.parent.mkdir()
    blocked.write_text("mine")
    status, _, (error,) = download("delf_gld")
    assert status == 1 and error.startswith("failed: ")
    blocked.unlink()
    server.requests.clear()
    status, out, _ = download("delf_gld")
    assert status == 0 and "0 fetched, 1 present" in out and server.requests == []
    assert (tmp_path / "models" / "delf_gld" / "config.json").exists()


def test_a_single_file_of_weights_is_converted(rng, offer, download, tmp_path):
    import safetensors.numpy

    named = naive_resnet.random_weights(naive_resnet.TORCHVISION, UNITS, WIDTH, rng)
    offer("timm_resnet50", safetensors.numpy.save(named))
    status, out, errors = download("timm_resnet50")
    assert (status, errors) == (0, [])
    model = tmp_path / "models" / "timm_resnet50"
    assert (
        f"next: python main.py index photos/ --index=runs/photos --model={model}" in out
    )
    config, _ = model_folder.read_model(model)
    (file,) = config["provenance"]["files"]
    assert file["name"] == "resnet50_a1_0-14fe96d1.pth"


def test_a_codebook_says_how_many_words_it_has(rng, offer, download, tmp_path):
    key = "codebook/.ATTRIBUTES/VARIABLE_VALUE"
    folder = tmp_path / "packed" / "k1024_codebook_tfckpt"
    folder.mkdir(parents=True)
    centroids = rng.normal(size=(5, 3)).astype(np.float32)
    tensorflow_files.write_bundle(folder / "codebook", {key: centroids})
    offer("rparis6k_codebook_1024", tar_of(folder.parent))
    status, out, _ = download("rparis6k_codebook_1024")
    path = tmp_path / "models/released/rparis6k_codebook_1024" / folder.name
    assert status == 0
    assert f"{path / 'codebook.index'}: 5 visual words of 3 dimensions\n" in out
    assert f"next: python main.py aggregate FEATURES --codebook={path}" in out


def test_a_detector_is_used_as_it_is(offer, download, tmp_path):
    folder = tmp_path / "packed" / "d2r_mnetssd_20190411"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    offer("d2r_mnetssd", tar_of(folder.parent))
    status, out, _ = download("d2r_mnetssd")
    path = tmp_path / "models" / "released" / folder.name
    assert status == 0 and (path / "saved_model.pb").read_bytes() == b"graph"
    assert f"next: python main.py detect photos/ --model={path} --out=boxes" in out


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>Not today</html>", "the server sent a web page instead of the file"),
        (b"no archive" * 100, "cannot be unpacked ("),
        (gzip.compress(bytes(1 << 22)), "times as large unpacked"),
        (None, "holds no released/delf_gld_20190411; see what it has, and https://"),
    ],
    ids=["page", "no archive", "bomb", "another archive"],
)
def test_what_is_not_the_artefact_is_one_sentence(
    offer, download, tmp_path, monkeypatch, data, message
):
    monkeypatch.setattr(archives, "_LARGEST_RATIO", 2)
    if data is None:
        (tmp_path / "packed").mkdir()
        (tmp_path / "packed" / "readme.txt").write_text("moved")
        data = tar_of(tmp_path / "packed")
    offer("delf_gld", data)
    status, _, (error,) = download("delf_gld")
    assert status == 1 and error.startswith("failed: ") and message in error
    assert not (tmp_path / "models" / "delf_gld").exists()


def test_one_artefact_that_fails_does_not_stop_the_others(
    offer, download, delf, tmp_path
):
    offer("delf_v1", b"no archive" * 100)
    offer("delf_gld", delf)
    status, _, (error,) = download("delf_v1", "delf_gld")
    assert status == 1 and "delf_v1_20171026.tar.gz: cannot be unpacked" in error
    assert (tmp_path / "models" / "delf_gld").is_dir()


def test_the_list_says_what_each_artefact_becomes(capsys):
    names = ["delf_gld", "d2r_frcnn", "rparis6k_codebook_65536"]
    assert cli.main(["download", *names]) == 0
    printed = capsys.readouterr().out
    assert "with --yes it is converted to a model, OUT/delf_gld" in printed
    assert "detect, index and extract take it as it is" in printed
    assert "aggregate, search and evaluate take it as it is" in printed
    assert "nothing was downloaded" in printed
