"""The files of an index's photos, as browsers can show them."""

import functools
import os
import pathlib
import threading
import urllib.parse

from delf_jax import image_files, images
from delf_jax.files import encode_name
from delf_jax.index.photo_index import Index
from delf_jax.report.html import Picture, encode_thumbnail
from delf_jax.serve.engine import MOST_PIXELS, NotFound, check_id

# Longer sides of thumbnails that are served: few, so that many are kept.
SIDES = (160, 320, 640, 1280)
_CARD = 320
_KEPT = 512
# What browsers show, by how the file begins; all else is sent as a JPEG.
_SHOWN = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
}
# A decoded photo may take 400 MB: so many at once, however many are asked for.
_decoding = threading.BoundedSemaphore(2)


def find_photo(index: Index, id: str, *, outside: bool) -> pathlib.Path:
    """The file of a photo of the index; NotFound if it is not shown.

    Args:
      outside: show those that lie outside of the index's folder, too: whoever made the
        index chose them.
    """
    check_id(index, id)
    path = index.file(id)
    if not outside and not is_inside_root(index, path):
        raise NotFound(f"{id}: lies outside of the index's folder; see --outside")
    return path


def is_inside_root(index: Index, path: pathlib.Path) -> bool:
    root = os.path.abspath(index.places.root)
    return pathlib.Path(os.path.abspath(path)).is_relative_to(root)


def link(index: Index, id: str, *, outside: bool) -> Picture | None:
    """The addresses of a photo and its thumbnail; None if there is no file to show."""
    try:
        if not find_photo(index, id, outside=outside).is_file():
            return None
    except NotFound:
        return None
    address = f"api/image/{urllib.parse.quote(encode_name(id))}"
    return Picture(f"{address}?side={_CARD}", address)


def media_type(path: pathlib.Path) -> str | None:
    """Of a file that browsers show as it is; None of another; InputError if absent."""
    with image_files.open_file(path) as (file, _):
        start = file.read(8)
    return next((kind for mark, kind in _SHOWN.items() if start.startswith(mark)), None)


def thumbnail(path: pathlib.Path, side: int) -> bytes:
    """A JPEG of a photo; InputError if it cannot be read."""
    status = path.stat()
    return _thumbnail(path, side, status.st_mtime_ns, status.st_size)


def as_jpeg(path: pathlib.Path) -> bytes:
    """The whole photo as a JPEG; InputError if it cannot be read."""
    with _decoding:
        return images.encode_jpeg(images.read_image(path), quality=92)


def preview(photo: bytes) -> bytes:
    """A JPEG of an upload; InputError if it is no photo."""
    with _decoding:
        return encode_thumbnail(images.decode_image(photo, MOST_PIXELS), SIDES[-1])[0]


@functools.lru_cache(_KEPT)
def _thumbnail(path: pathlib.Path, side: int, modified: int, size: int) -> bytes:
    with _decoding:
        return encode_thumbnail(images.read_image(path), side)[0]
