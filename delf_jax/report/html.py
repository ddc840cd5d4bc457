"""Pages of one file: templates filled in, thumbnails embedded."""

import base64
import html
import importlib.resources
import io
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from PIL import Image

from delf_jax import images
from delf_jax.files import InputError, atomic_write
from delf_jax.progress import visible

_QUALITY = 76


class Thumbnail(NamedTuple):
    """A small JPEG, and how large the photo is."""

    source: str
    """a data URI"""
    size: tuple[int, int]
    """(height, width) of the JPEG"""
    photo_size: tuple[int, int]


def fill_template(
    template: str, parts: Mapping[str, str], path: str | os.PathLike
) -> None:
    """Writes a template with its comments of the parts' names, in order, replaced.

    Characters that no page may have, as names of files do, become escapes.
    """
    source = importlib.resources.files("delf_jax.report") / "templates" / template
    before = source.read_text(encoding="utf-8")
    with atomic_write(path, "w") as file:
        for name, part in parts.items():
            start, _, before = before.partition(f"<!--{name}-->")
            file.write(start + visible(part))
        file.write(before)


def breakable(name: str) -> str:
    """A file name that may break after what joins its words."""
    return re.sub("([-_.])", r"\1<wbr>", html.escape(name))


def read_thumbnail(photo: images.ImageLike, side: int) -> Thumbnail | None:
    """A small JPEG of a photo; None if it cannot be read any more."""
    try:
        pixels = images.open_image(photo)
    except InputError:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    data = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(data, image.size[::-1], pixels.shape[:2])
