"""Addresses of datasets."""

import pathlib
import re

from PIL import Image

from delf_jax import cli
from delf_jax.data.download_catalogue import DOWNLOADS
from delf_jax.data.released_catalogue import command_for


def test_the_table_is_complete_and_writes_each_file_once():
    for name, download in DOWNLOADS.items():
        assert download.documented.startswith("https://")
        paths = [each.path for files in download.files for each in files.each()]
        assert len(set(paths)) == len(paths), name
        for files in download.files:
            assert ("{}" in files.path) == (len(files.numbers) > 1)
            assert all("{" not in each.url + each.md5 for each in files.each())
            assert bool(files.unpack) == files.url.endswith((".tar", ".tgz", ".gz"))
    counts = {
        name: sum(len(files.numbers) for files in DOWNLOADS[name].files if files.md5)
        for name in ("gldv2_train", "gldv2_index", "gldv2_test")
    }
    assert counts == {"gldv2_train": 500, "gldv2_index": 100, "gldv2_test": 20}


def test_what_is_released_is_told_by_its_name_and_used():
    released = {name: each.use for name, each in DOWNLOADS.items() if each.use}
    assert {use.kind for use in released.values()} == {"model", "detector", "codebook"}
    for name, use in released.items():
        file, *whitening = DOWNLOADS[name].files
        assert [each.path for each in whitening] == [use.whitening] * bool(
            use.whitening
        )
        assert file.path.startswith("released/") and use.source.startswith("released/")
        assert bool(file.unpack) == (file.path != use.source)
        kind, _, digits = file.digest.partition(":")
        if kind:
            assert (kind, len(digits)) in {("md5", 32), ("sha256", 8)}


def test_a_model_of_a_config_that_is_absent_is_named_with_its_download(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("x.png")
    config = pathlib.Path(__file__).parents[2] / "configs" / "delf_gld.py"
    assert cli.main(["extract", "x.png", "--out=y", f"--config={config}"]) == 2
    expected = "models/delf_gld: no such model; run `download delf_gld --yes --out="
    assert expected in capsys.readouterr().err
    assert command_for("a/r50delg_gld") == "download r50delg_gld --yes --out=a"
    assert command_for("models/d2r_frcnn") == command_for("models/mine") == ""


def test_configs_find_their_models_where_downloads_put_them():
    """As `download r50delg_gld --out=models` and configs/r50delg_gld.py."""
    for path in sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py")):
        found = re.search(
            r'^    config\.model = "models/(\w+)"', path.read_text(), re.M
        )
        if found:
            assert DOWNLOADS[found[1]].use.kind == "model"
