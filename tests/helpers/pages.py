"""Pages of HTML, read by tags, and run in a browser where there is one."""

import html.parser
import shutil
import subprocess

import pytest


class Reader(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag, css_class=None, **wanted):
        if css_class is not None:
            wanted["class"] = css_class
        found = [attributes for name, attributes in self.tags if name == tag]
        return [x for x in found if wanted.items() <= x.items()]


def run_in_browser(text, script, folder):
    """The page as it is after the script; skips where there is no chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    path = folder / "run.html"
    path.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    options += " --disable-background-networking --disable-component-update"
    # The page is dumped when all that it waits for has come, however busy the machine.
    options += " --virtual-time-budget=10000"
    options += f" --disable-sync --user-data-dir={folder / 'profile'} --dump-dom"
    return subprocess.run(
        [chromium, *options.split(), path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
