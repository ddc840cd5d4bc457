import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from delf_jax.evaluation import evaluation, page
from delf_jax.evaluation.datasets import Dataset, Photo, Protocol
from delf_jax.features import Features, LocalFeatures
from delf_jax.images import SizeBounds
from delf_jax.search.pipeline import RankingInputs
from tests.helpers.pages import Reader, run_in_browser

NASTY = "<b> \"quoted\" & 'so'"
SIZE = (300, 400)


def ids(*lists):
    return [np.array(each, np.int32) for each in lists]


class Store(list):
    """What the page asks of a feature store."""

    manifest = {  # noqa: RUF012
        "model": {"name": "a model", "fingerprint": "0123"},
        "settings": {"max_features": 7},
    }


def features(rng):
    """Nine features, the same for all photos: every pair matches at each of them."""
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(-1, 2)
    locations = (grid * [100.0, 130.0] + 20).astype(np.float32)
    descriptors = np.eye(9, 16, dtype=np.float32)
    ones = np.ones(9, np.float32)
    local = LocalFeatures(locations, ones, descriptors, ones)
    return Features(local, np.ones(4, np.float32), SIZE)


@pytest.fixture
def made(tmp_path, rng):
    """Two queries among eleven photos, "verified", one query cropped."""
    photos = []
    for number in range(11):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", SIZE[::-1], (20 * number, 90, 90)).save(path)
        photos.append(Photo(NASTY if number == 10 else f"{number}", path.name, path))
    protocols = {"medium": Protocol(ids([0], [10]), ids([1], []))}
    boxes = np.array([[0, 0, *SIZE], [30, 100, 180, 300]], np.float64)
    landmarks = [NASTY, "b"]
    queries = [photos[2], photos[10]]
    dataset = Dataset(NASTY, "v", photos, queries, boxes, protocols, landmarks)
    ranking = np.tile(np.arange(11, dtype=np.int32), (2, 1))
    given = {name: {"medium": ranking} for name in ("global", "verification")}
    same = features(rng)
    store = Store([same] * 11)
    inputs = RankingInputs(
        [same] * 2, store, np.arange(11), np.array([-1, -1]), SizeBounds()
    )
    return evaluation.score(dataset, given)._replace(inputs=inputs)


def write(made, tmp_path):
    path = tmp_path / "report.html"
    page.write_report(path, made, progress=False)
    return path.read_text(encoding="utf-8")


def test_each_photo_is_there_once_small_and_with_a_text(made, tmp_path):
    reader = Reader(write(made, tmp_path))
    photos = reader.all("image")
    # The first eight photos, and the one that the second query should find.
    assert len(photos) == len({photo["href"] for photo in photos}) == 9
    for photo in photos:
        data = base64.b64decode(photo["href"].removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(data)) as thumbnail:
            assert thumbnail.size == (320, 240)
    drawn = reader.all("svg", role="img")
    assert drawn and all(svg["aria-label"] for svg in drawn)
    shown = {use["href"] for use in reader.all("use")}
    assert shown == {f"#{symbol['id']}" for symbol in reader.all("symbol")}


def test_nothing_is_loaded_from_elsewhere_and_names_cannot_break_it(made, tmp_path):
    text = write(made, tmp_path)
    reader = Reader(text)
    sources = [
        attributes[name]
        for _, attributes in reader.tags
        for name in ("src", "href")
        if name in attributes
    ]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    assert len(reader.all("script")) == 1
    assert any(NASTY in svg.get("aria-label", "") for svg in reader.all("svg"))


def test_marks_say_in_words_what_is_right_wrong_or_junk(made, tmp_path):
    text = write(made, tmp_path)
    marks = re.findall(r'<b class="mark">(.*?)</b>', text)
    # The worst query first: its photo is the eleventh.
    assert marks[:8] == [f"{rank} \u2717 wrong" for rank in range(1, 9)]
    assert marks[8] == "11 \u2713 right"
    assert marks[9:11] == ["1 \u2713 right", "junk \u00b7 ignored"]
    assert "2 of 2 queries, by average precision of the ranking verification" in text
    assert "a model" in text and "max_features" in text


def test_lines_start_in_the_box_of_the_query(made, tmp_path):
    text = write(made, tmp_path)
    (rect,) = Reader(text).all("rect")
    box = [float(rect[name]) for name in ("x", "y", "width", "height")]
    np.testing.assert_allclose(box, [80, 24, 160, 120])
    (figure,) = [x for x in Reader(text).all("figure", "query") if x["data-box"]]
    assert json.loads(figure["data-box"]) == [0.1, 0.25, 0.6, 0.75]
    # The cropped query is the first: it went worst.
    card = next(x for x in Reader(text).all("button") if "data-lines" in x)
    ends = np.array(json.loads(card["data-lines"])) / 10_000
    assert len(ends) == 9
    y, x = ends[:, 0], ends[:, 1]
    assert ((x >= 0.25) & (x <= 0.75) & (y >= 0.1) & (y <= 0.6)).all()
    # The first feature is at (20, 20) of 300 x 400: in the box, and in all of a photo.
    expected = [0.1 + 0.5 * 20.5 / 300, 0.25 + 0.5 * 20.5 / 400, 20.5 / 300, 20.5 / 400]
    np.testing.assert_allclose(ends[0], expected, atol=1e-4)


def test_rankings_made_elsewhere_and_photos_that_are_gone_have_a_page(made, tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.png").unlink()
    reader = Reader(write(made._replace(inputs=None), tmp_path))
    assert {card["data-lines"] for card in reader.all("button", "card right")} <= {"[]"}
    assert len(reader.all("image")) == 1
    assert "photo not found" in reader.words


def test_a_long_list_of_queries_ends(made, tmp_path):
    many = 600
    queries = [made.dataset.queries[0]] * many
    protocols = {
        "all": Protocol(ids(*[[i % 11] for i in range(many)]), ids(*[[]] * many))
    }
    dataset = made.dataset._replace(
        queries=queries, boxes=None, protocols=protocols, landmarks=None
    )
    ranking = np.tile(np.arange(11, dtype=np.int32), (many, 1))
    result = evaluation.score(dataset, {"global": {"all": ranking}})
    text = write(result, tmp_path)
    assert len(Reader(text).all("section")) == page._QUERIES
    assert text.count('<th scope="row">') == page._MOST_ROWS
    assert "and 100 better ones" in text
    assert len(text) < 500_000


@pytest.mark.slow
def test_a_browser_opens_a_photo_beside_its_query_with_box_and_lines(made, tmp_path):
    click = "document.querySelector('.card').click();"
    reader = Reader(run_in_browser(write(made, tmp_path), click, tmp_path))
    stage = [tag for tag, _ in reader.tags]
    assert stage.count("line") == 9 and stage.count("circle") == 18
    # On the query of the list, and in the viewer.
    assert stage.count("rect") == 2
    # The photos themselves are shown, by links that are relative.
    shown = [x["href"] for x in reader.all("image") if not x["href"].startswith("data")]
    assert len(shown) == 2 and all("/" not in href for href in shown)


@pytest.mark.slow
def test_a_browser_sorts_by_a_ranking(made, tmp_path):
    click = "document.querySelectorAll('.sortable thead button')[1].click();"
    page = run_in_browser(write(made, tmp_path), click + click, tmp_path)
    assert 'aria-sort="descending"' in page
    values = re.findall(r'<td class="bar"[^>]*>([\d.]+)</td>', page)
    assert float(values[0]) > float(values[2])
