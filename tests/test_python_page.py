"""Every snippet of Python in docs/ and the README runs, in order, on drawn photos."""

import pathlib
import re

import jax
import pytest

from delf_jax import images
from delf_jax.synthetic import landmarks
from tests.helpers import documents
from tests.helpers.documents import ROOT, TEXTS


def run(page):
    """The names that the snippets of a page leave, run one after the other."""
    text, names = page.read_text("utf-8"), {}
    # Users have JAX as it comes.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
            # Lines of an error are those of the page.
            before = "\n" * text.count("\n", 0, found.start(1))
            exec(compile(before + found[1], str(page), "exec"), names)
    return names


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder to work in, with a.jpg, b.jpg, broken.jpg and photos/."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        landmark = landmarks.draw_landmark(landmarks.HELD_OUT + number)
        for view in range(2):
            path = tmp_path / "photos" / str(number) / f"{view}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = landmarks.draw_view(landmark, view, (144, 192))
            path.write_bytes(images.encode_jpeg(drawn.image, 92))
    for view, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes((tmp_path / f"photos/0/{view}.jpg").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no image")


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_the_page_runs_from_top_to_bottom(capsys, monkeypatch):
    monkeypatch.setattr("delf_jax.runtime.enable_compilation_cache", lambda: None)
    names = run(ROOT / "docs" / "python.md")
    printed = capsys.readouterr().out
    assert "a.jpg: " in printed and " inliers of " in printed
    assert "broken.jpg - broken.jpg: not an image of a known format" in printed
    assert "rank  image" in printed and "mAP" in printed
    assert pathlib.Path("matches.png").stat().st_size > 10_000
    assert names["attention"].shape == (18, 24)  # a cell every 8 pixels.
    assert names["saliency"].shape == (144, 192)
    assert names["one_against_many"][0] == pytest.approx(1, abs=1e-5)
    assert names["on_all"].shape == (2, 1, 256)


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(
    "page, prints",
    [("README.md", "b.jpg: "), ("docs/quick_start.md", " inliers of ")],
)
def test_short_snippets_run(page, prints, capsys):
    pathlib.Path("query.jpg").write_bytes(pathlib.Path("b.jpg").read_bytes())
    names = run(ROOT / page)
    printed = capsys.readouterr().out
    assert prints in printed and "rank  image" in printed
    assert len(names["index"]) == 4 and pathlib.Path("matches.png").exists()


def test_no_page_has_snippets_that_nothing_runs():
    pages = {page for page, text in TEXTS.items() if documents.blocks(text, "python")}
    # That of released_files.md is for hloc, that of scale.md tried with the table.
    assert pages == {
        *("README.md", "docs/python.md", "docs/quick_start.md"),
        *("docs/released_files.md", "docs/scale.md"),
    }
