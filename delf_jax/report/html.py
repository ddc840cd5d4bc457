"""Pages: templates filled in, thumbnails embedded.

The templates are Jinja's, which escapes whatever stands in them. Style and scripts are
files beside them: included in a page that needs nothing but itself, linked by one that
is served.
"""

import base64
import io
import os
import pathlib
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape
from PIL import Image

from delf_jax import images
from delf_jax.files import InputError, atomic_write, encode_name, is_stdout
from delf_jax.progress import visible

_QUALITY = 76


class Thumbnail(NamedTuple):
    """A small JPEG, and how large the photo is."""

    source: str
    """a data URI"""
    size: tuple[int, int]
    """(height, width) of the JPEG"""
    photo_size: tuple[int, int]


class Picture(NamedTuple):
    """A photo on a page, as the macro `picture` of parts.html shows it."""

    source: str
    """the address of its thumbnail"""
    full: str = ""
    """the address of the photo itself"""
    symbol: str = ""
    """id of the one place where a thumbnail is embedded; "": the source is linked"""
    size: tuple[int, int] = (3, 4)
    """(height, width) of a thumbnail that is embedded"""


def render(template: str, **values: Any) -> str:
    """A template filled in.

    Characters that no page may have, as names of files do, become escapes.
    """
    return visible(_templates.get_template(template).render(values))


def write_page(template: str, path: str | os.PathLike, **values: Any) -> None:
    """Writes a template filled in, as `render`."""
    text = render(template, **values)
    with atomic_write(path, "w") as file:
        file.write(text)


def read_source(name: str) -> str:
    """A file of the templates' folder as it is: a style or script."""
    assert _templates.loader is not None
    return _templates.loader.get_source(_templates, name)[0]


def breakable(name: str) -> Markup:
    """A file name that may break after what joins its words."""
    return Markup(re.sub("([-_.])", r"\1<wbr>", str(escape(name))))


def relative_link(photo: pathlib.Path, page: str | os.PathLike) -> str:
    """The address of a photo from a page; both may move together."""
    folder = "." if is_stdout(page) else os.path.dirname(os.path.abspath(page))
    try:
        path = os.path.relpath(photo, folder)
    except ValueError:  # On another drive of Windows.
        return pathlib.Path(os.path.abspath(photo)).as_uri()
    return urllib.parse.quote(encode_name(path.replace(os.sep, "/")))


def read_thumbnail(
    photo: images.ImageLike, side: int, quality: int = _QUALITY
) -> Thumbnail | None:
    """A small JPEG of a photo; None if it cannot be read any more."""
    try:
        pixels = images.open_image(photo)
    except InputError:
        return None
    encoded, size = encode_thumbnail(pixels, side, quality)
    data = "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
    return Thumbnail(data, size, pixels.shape[:2])


def encode_thumbnail(
    pixels: Any, side: int, quality: int = _QUALITY
) -> tuple[bytes, tuple[int, int]]:
    """A JPEG of pixels whose longer side is at most `side`; its (height, width)."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue(), image.size[::-1]


def embedded(photos: Sequence[Picture | None]) -> list[Picture]:
    """The pictures whose thumbnails a page embeds, each once."""
    found = {photo.symbol: photo for photo in photos if photo and photo.symbol}
    return [*found.values()]


_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("delf_jax.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_templates.filters["breakable"] = breakable
# A page is a file by itself unless it says that it is served.
_templates.globals |= {"served": False, "styles": ["look.css"], "scripts": []}
