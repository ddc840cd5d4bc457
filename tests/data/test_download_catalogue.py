"""Addresses of datasets."""

from delf_jax.data.download_catalogue import DOWNLOADS


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
