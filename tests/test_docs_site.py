"""The site of docs/: its pages are all there, and nothing of it needs a network."""

import importlib.util
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import delf_jax
from docs import site_hooks
from tests.helpers.documents import ROOT, TEXTS
from tests.helpers.pages import Reader
from tests.test_architecture import ARROWS

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
# Wings that are for the command line alone.
NO_API = {"cli", "commands", "demo", "serve", "inspection"}


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(each)


def test_every_page_is_in_the_navigation_once():
    pages = sorted(f"docs/{page}" for page in _pages(CONFIG["nav"]))
    assert pages == sorted(name for name in TEXTS if name.startswith("docs/"))


def test_the_api_has_every_public_name_and_wing():
    public = TEXTS["docs/api/delf_jax.md"]
    assert [
        n for n in delf_jax._MODULES if f"heading: delf_jax.{n}," not in public
    ] == []
    api = "".join(text for page, text in TEXTS.items() if "/api/" in page)
    wings = ARROWS.keys() - NO_API
    assert {wing for wing in wings if f"::: delf_jax.{wing}\n" not in api} == set()


def test_links_out_of_the_pages_lead_to_files_of_the_repository():
    file = types.SimpleNamespace(src_uri="papers/a.md")
    text = "[a](../search.md#b) [b](../../configs/c.py) [c](b.md) [d](https://x/../y)"
    led = site_hooks.on_page_markdown(text, page=types.SimpleNamespace(file=file))
    config = f"{site_hooks.SOURCE}configs/c.py"
    assert led == f"[a](../search.md#b) [b]({config}) [c](b.md) [d](https://x/../y)"


def test_options_and_long_names_wrap_where_they_read_well():
    page = "<p><code>index --config=configs/r50delg_gldv2clean.py</code></p>"
    wrapped = site_hooks.on_page_content(page)
    assert '<span class="dashed">--config</span>' in wrapped
    assert "configs/</span><wbr>r50delg_<wbr>gldv2clean.py" in wrapped
    assert re.sub("<[^>]+>", "", wrapped) == re.sub("<[^>]+>", "", page)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="make docs installs mkdocs"
)
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet")
    subprocess.run(
        [*command, "--site-dir", tmp_path],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    for page in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]:
        text = page.read_text("utf-8")
        reader = Reader(text) if page.suffix == ".html" else Reader("")
        loaded = [tag.get("src", "") for _, tag in reader.tags]
        loaded += [tag.get("href", "") for tag in reader.all("link")]
        loaded += re.findall(r"url\([\"']?([^)]*)", text) if not reader.tags else []
        assert [each for each in loaded if re.match("(https?:)?//", each)] == [], page
        links = {tag.get("href", "").partition("#")[0] for tag in reader.all("a")}
        # Of 404.html they start with /, as a server shows it at any address.
        near = {link for link in links if not re.match(r"\w+:|/|$", link)}
        assert {link for link in near if not (page.parent / link).exists()} == set()
    assert "reichstag" in (tmp_path / "search" / "search_index.js").read_text("utf-8")
