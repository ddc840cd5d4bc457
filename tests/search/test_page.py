import base64
import io
import json
import os
import pathlib
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from delf_jax.search import page
from delf_jax.search.query import Answer, Result
from delf_jax.search.verdict import Verdict
from tests.helpers.pages import Reader, run_in_browser

NASTY = "a/<b> \"quoted\" & 'so'.jpg"


def result(image, inliers=None, similarity=0.5):
    lines = np.linspace(0, 1, 4 * (inliers or 0)).reshape(-1, 4)
    return Result(image, similarity, inliers, lines)


@pytest.fixture
def photos(tmp_path):
    """A folder of photos, of which one has gone since it was indexed."""
    for name in ("query.png", "x.png", "y.png", NASTY):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (800, 600), (200, 30, 30)).save(path, "PNG")
    return tmp_path


def write(photos, answers, **kwargs):
    path = photos / "page.html"
    page.write_page(path, answers, lambda image: photos / image, **kwargs)
    return path.read_text(encoding="utf-8")


def answer(photos, *results, name="query.png"):
    return Answer(name, photos / name, list(results))


def test_results_stand_in_order_with_their_scores(photos):
    found = answer(photos, result("y.png", 41, 0.25), result("x.png", None, 0.75))
    reader = Reader(write(photos, [found], description="holiday: 2 photos"))
    cards = reader.all("button", "card")
    assert [card["data-image"] for card in cards] == ["y.png", "x.png"]
    assert cards[0]["data-facts"] == "41 inliers, similarity 0.250"
    assert cards[1]["data-facts"] == "not verified, similarity 0.750"
    assert "1 query in holiday: 2 photos" in reader.words


def test_results_that_are_no_more_than_chance_are_said_to_be_so(photos):
    results = [result("y.png", 41), result("x.png", 9)]
    sure = answer(photos, *results)._replace(verdict=Verdict(41, 19))
    reader = Reader(write(photos, [sure]))
    assert not reader.all("p", "doubt")
    assert len(reader.all("b")) == 1  # 41 inliers are green, 9 are not.
    unsure = answer(photos, results[1])._replace(verdict=Verdict(9, 19))
    reader = Reader(write(photos, [unsure, sure]))
    assert len(reader.all("p", "doubt")) == 1 and len(reader.all("b")) == 1
    assert "No confident match" in reader.words
    unverified = answer(photos, result("x.png"))._replace(verdict=Verdict())
    assert not Reader(write(photos, [unverified])).all("p", "doubt")


def test_lines_are_whole_numbers_of_ten_thousandths(photos):
    reader = Reader(write(photos, [answer(photos, result("x.png", 3))]))
    (card,) = reader.all("button", "card")
    lines = json.loads(card["data-lines"])
    assert len(lines) == 3
    assert lines[0][0] == 0 and lines[-1][-1] == 10_000


def test_nothing_is_loaded_from_elsewhere(photos):
    text = write(photos, [answer(photos, result("x.png", 3))])
    reader = Reader(text)
    sources = [
        attributes[name]
        for _, attributes in reader.tags
        for name in ("src", "href")
        if name in attributes
    ]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in text and "@import" not in text and "fetch(" not in text


def thumbnail_sizes(reader):
    sizes = []
    for image in reader.all("image"):
        data = base64.b64decode(image["href"].removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(data)) as thumbnail:
            sizes.append(thumbnail.size)
    return sizes


def test_each_photo_is_embedded_once_and_small(photos):
    found = answer(photos, result("x.png", 3), result("y.png", 2))
    reader = Reader(write(photos, [found, found, answer(photos, result("query.png"))]))
    assert thumbnail_sizes(reader) == [(560, 420)] * 3
    embedded = {f"#{symbol['id']}" for symbol in reader.all("symbol")}
    assert {use["href"] for use in reader.all("use")} == embedded


def test_many_photos_are_embedded_smaller(photos):
    names = [f"{number}.png" for number in range(page._FEW + 1)]
    for name in names:
        (photos / name).write_bytes((photos / "x.png").read_bytes())
    found = [
        answer(photos, *map(result, names[:40])),
        answer(photos, *map(result, names)),
    ]
    sizes = thumbnail_sizes(Reader(write(photos, found)))
    # The query, and those of the first page of either list.
    assert sizes == [(224, 168)] * (1 + page._PAGE)


def test_larger_photos_are_linked_relative_to_the_page(photos):
    (photos / "pages").mkdir()
    path = photos / "pages" / "page.html"
    found = answer(photos, result(NASTY, 3))
    page.write_page(path, [found], lambda image: photos / image)
    reader = Reader(path.read_text(encoding="utf-8"))
    (card,) = reader.all("button", "card")
    (query,) = reader.all("figure", "query")
    assert query["data-full"] == "../query.png"
    linked = path.parent / urllib.parse.unquote(card["data-full"])
    assert linked.samefile(photos / NASTY)


def test_names_cannot_break_the_page(photos):
    found = Answer(NASTY, photos / NASTY, [result(NASTY, 5)])
    reader = Reader(write(photos, [found, found], description="<i>&"))
    assert {card["data-image"] for card in reader.all("button", "card")} == {NASTY}
    assert pathlib.PurePath(NASTY).name in "".join(reader.words)
    assert not reader.all("b>") and len(reader.all("script")) == 1


def test_names_that_no_page_may_have_are_escaped(photos):
    name = os.fsdecode(b"caf\xe9\x1b[1m\x01.png")
    (photos / name).write_bytes((photos / "x.png").read_bytes())
    found = answer(photos, result(name, 3), name=name)
    text = write(photos, [found], description=name)
    assert text.count(r"caf\xe9\x1b[1m\x01") >= 4
    assert not {*map(chr, range(32))} - {"\n"} & {*text}
    (card,) = Reader(text).all("button", "card")
    assert card["data-image"] == r"caf\xe9\x1b[1m\x01.png"


def test_a_photo_that_is_gone_is_said_to_be_absent(photos):
    found = answer(photos, result("gone.png", 2), result("x.png", 1))
    reader = Reader(write(photos, [found]))
    assert reader.words.count("photo not found") == 1
    assert len(reader.all("image")) == 2  # The query, and x.png.


def test_several_queries_are_linked_at_the_top(photos):
    found = answer(photos, result("x.png", 3))
    unsure = found._replace(verdict=Verdict(3, 19))
    reader = Reader(write(photos, [found, unsure]))
    links = [link for link in reader.all("a") if "href" in link]
    assert [link["href"] for link in links] == ["#main", "#query-1", "#query-2"]
    assert "no confident match" in links[2]["title"]
    assert "no confident match" not in links[1]["title"]
    assert not Reader(write(photos, [found])).all("nav")


def test_a_ranking_of_all_does_not_make_an_endless_page(photos):
    found = answer(photos, *[result("x.png", 0)] * 5000)
    reader = Reader(write(photos, [found]))
    assert len(reader.all("button", "card")) == page._MOST_RESULTS
    assert f"{page._MOST_RESULTS} of 5000 results" in "".join(reader.words)


def test_photos_behind_the_first_page_are_linked_and_not_embedded(photos):
    (photos / "late.png").write_bytes((photos / "x.png").read_bytes())
    late = [result("late.png", 0), result("gone.png", 0)]
    reader = Reader(write(photos, [answer(photos, *[result("x.png")] * 60, *late)]))
    (linked,) = reader.all("img")
    assert linked["src"] == "late.png" and linked["loading"] == "lazy"
    assert len(reader.all("image")) == 2
    assert reader.words.count("photo not found") == 1


def test_a_query_without_results_has_its_place(photos):
    assert "0 results" in write(photos, [answer(photos)])


@pytest.mark.slow
def test_a_browser_opens_a_photo_with_one_line_per_inlier(photos):
    text = write(photos, [answer(photos, result("y.png", 2), result("x.png", 7))])
    click = "document.querySelectorAll('.card')[1].click();"
    reader = Reader(run_in_browser(text, click, photos))
    assert "open" in reader.all("dialog")[0]
    assert len(reader.all("line")) == 7
    assert len(reader.all("circle")) == 14


@pytest.mark.slow
def test_a_browser_shows_the_photos_themselves_and_zooms(photos):
    text = write(photos, [answer(photos, result("y.png", 2))])
    press = "new KeyboardEvent('keydown', {key: '+', bubbles: true})"
    click = f"""
document.querySelector('.card').click();
const wait = setInterval(() => {{
  const svg = document.querySelector('.stage svg');
  if (!svg) return;
  clearInterval(wait);
  document.body.dataset.before = svg.getAttribute('viewBox');
  document.querySelector('dialog').dispatchEvent({press});
}}, 20);"""
    reader = Reader(run_in_browser(text, click, photos))
    shown = [x["href"] for x in reader.all("image") if not x["href"].startswith("data")]
    assert shown == ["query.png", "y.png"]
    (svg,) = [x for x in reader.all("svg") if "--dot" in x.get("style", "")]
    before = float(reader.all("body")[0]["data-before"].split()[2])
    width = float(svg["viewbox"].split()[2])
    assert width == pytest.approx(before / 1.6, rel=1e-3)


@pytest.mark.slow
def test_a_browser_pages_through_long_lists(photos):
    found = answer(photos, *[result("x.png", 0)] * 150)
    click = "document.querySelectorAll('.pager .button')[1].click();"
    reader = Reader(run_in_browser(write(photos, [found]), click, photos))
    items = reader.all("li")
    assert [place for place, x in enumerate(items) if "hidden" not in x] == [
        *range(60, 120)
    ]
    assert "61 to 120 of 150" in reader.words
