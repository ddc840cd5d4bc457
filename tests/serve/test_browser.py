"""The page in a browser: what people do there, by mouse, touch and keyboard alone."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
from PIL import Image

from tests.helpers.indexed_photos import draw_photo
from tests.serve.conftest import MISSING

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NASTY = "<b>'&.jpg"


@contextlib.contextmanager
def running(folder, model, *options):
    """The address of the command, in a process of its own."""
    command = [sys.executable, "main.py", "serve", f"--index={folder / 'index'}"]
    options = [f"--model={model}", "--config.extraction.max_features=50", *options]
    with subprocess.Popen(
        [*command, "--port=0", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        # A server that never says its address is ended.
        clock = threading.Timer(300, process.kill)
        clock.start()
        try:
            lines = iter(process.stdout.readline, "")
            found = (re.search(r"http://\S+/$", line.strip()) for line in lines)
            yield next(each[0] for each in found if each), process
        finally:
            clock.cancel()
            process.terminate()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        with playwright.chromium.launch(
            executable_path=CHROMIUM, args=options
        ) as chromium:
            yield chromium


@pytest.fixture
def address(copied, tiny_model):
    pytest.importorskip("fastapi", reason=MISSING)
    draw_photo(copied / "photos" / NASTY, 0)  # As a/1.jpg.
    with running(copied, tiny_model, "--writable") as (address, _):
        yield address


@pytest.fixture
def page(browser, address, request):
    """The page, whose console must stay silent."""
    sizes = {"viewport": {"width": 1280, "height": 800}} | getattr(request, "param", {})
    context = browser.new_context(**sizes)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(address)
    yield page
    context.close()
    # A response of 400 is one that the page shows.
    assert [line for line in said if "400 (Bad Request)" not in line] == []


def search(page, photo):
    page.set_input_files("#photo", photo)
    page.wait_for_selector("#state:has-text('Results')")


def test_a_photo_is_found_and_its_matches_are_drawn_zoomed_and_moved(page, copied):
    search(page, copied / "photos/a/1.jpg")
    assert page.locator("#found .card").count() == 4
    assert page.locator(".card >> nth=0").get_attribute("data-image") == "a/1.jpg"
    page.click(".card >> nth=0")
    page.wait_for_selector(".stage line", state="attached")
    svg = page.locator(".stage svg")
    before = svg.get_attribute("viewBox").split()
    page.mouse.move(500, 400)
    page.mouse.wheel(0, -300)
    zoomed = svg.get_attribute("viewBox").split()
    for _ in range(50):
        if zoomed != before:
            break
        page.wait_for_timeout(50)
        zoomed = svg.get_attribute("viewBox").split()
    assert float(zoomed[2]) < float(before[2])
    page.mouse.down()
    page.mouse.move(400, 380)
    page.mouse.up()
    assert float(svg.get_attribute("viewBox").split()[0]) > float(zoomed[0])
    page.click("[data-do=attention]")
    page.wait_for_selector(".attention", state="attached")
    original = page.locator("[data-do=original]").get_attribute("href")
    assert original == "api/image/a/1.jpg"


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}],
    indirect=True,
)
def test_a_phone_shows_all_within_its_width_and_offers_its_camera(page, copied):
    assert page.locator(".camera").is_visible()
    search(page, copied / "photos/a/1.jpg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap(".card >> nth=1")
    page.wait_for_selector(".stage svg")
    assert page.locator("[data-do=close]").is_visible()


def test_the_keyboard_alone_searches_looks_and_returns(page, copied):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")  # The API.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "photo"
    search(page, copied / "photos/b/1.jpg")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('card')"):
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".stage svg")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("dialog p:has-text('result 2')")
    page.keyboard.press("+")
    page.wait_for_selector("[data-do=out]:enabled")
    page.keyboard.press("0")
    page.wait_for_selector("[data-do=out]:disabled")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.rank") == "2"


def test_a_part_is_dragged_and_searched_with(page, copied):
    search(page, copied / "photos/a/1.jpg")
    area = page.locator(".frame img").bounding_box()
    page.mouse.move(area["x"] + 5, area["y"] + 5)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.7, area["y"] + area["height"] * 0.8)
    with page.expect_response("**/search") as response:
        page.mouse.up()
    assert response.value.ok
    page.wait_for_selector("#state:has-text('Results')")
    assert page.locator(".frame .box").is_visible()


def test_only_confident_pages_and_what_is_no_photo(page, copied):
    search(page, copied / "photos/a/1.jpg")
    page.check("#sure")
    shown = page.locator("#found li:not([hidden])").count()
    assert shown == page.locator("#found b").count() < 4
    page.set_input_files(
        "#photo", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"none"}
    )
    page.wait_for_selector("#state.wrong:has-text('known format')")
    # What was found for the photo before it is gone.
    assert page.locator("#found .card").count() == 0
    assert page.locator(".pager").is_hidden()


def test_a_photo_that_browsers_do_not_show_is_drawn_with_its_matches(page, copied):
    path = copied / "photo.tif"
    Image.open(copied / "photos/a/1.jpg").save(path)
    with page.expect_response("**/preview"):
        search(page, path)
    page.wait_for_selector(".frame img")
    page.click(".card >> nth=0")
    page.wait_for_selector(".stage line", state="attached")


def test_a_photo_that_is_gone_is_said_to_be(page, copied):
    (copied / "photos/a/2.jpg").unlink()
    search(page, copied / "photos/a/1.jpg")
    page.click(".card[data-image='a/2.jpg']")
    page.wait_for_selector("dialog p:has-text('the photo cannot be shown')")


def test_photos_are_added_and_names_with_markup_stay_names(page, copied):
    page.set_input_files("#add", [copied / "photos" / NASTY, copied / "photos/b/1.jpg"])
    page.wait_for_selector("#adding span:has-text('2 of 2 added')")
    search(page, copied / "photos/a/1.jpg")
    assert page.inner_text("#count") == "6 photos"
    card = page.locator(".card", has_text=NASTY)
    assert card.locator(".name").inner_text() == NASTY
    assert page.locator(".card .name b").count() == 0


def test_a_server_that_is_killed_starts_again_on_what_it_has(copied, tiny_model):
    pytest.importorskip("fastapi", reason=MISSING)
    for _ in range(2):
        with running(copied, tiny_model) as (address, process):
            with urllib.request.urlopen(f"{address}healthz") as response:
                assert b'"photos": 4' in response.read()
            os.kill(process.pid, signal.SIGKILL)


def test_a_server_that_is_terminated_ends_well(copied, tiny_model):
    pytest.importorskip("fastapi", reason=MISSING)
    with running(copied, tiny_model) as (_, process):
        process.terminate()
        assert process.wait(60) == 0
