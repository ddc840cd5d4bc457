"""Image files in, RGB arrays out; sizes and resizing as the original does them.

Everything here is numpy and Pillow and releases the GIL where it is slow, so that
threads can decode ahead of the device.
"""

import contextlib
import io
import os
import pathlib
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8
from PIL import Image

from delf_jax.files import InputError

# A 108-megapixel telephone passes; 384 MB as RGB.
MAX_PIXELS = 128_000_000
# What a folder is searched for; a file that is named itself may end in anything.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
# Some cameras pad before the end marker; more than this is damage.
_HARMLESS_PADDING = 32
_ORIENTATION_TAG = 0x0112
_pillow_lock = threading.Lock()


@runtime_checkable
class SupportsArray(Protocol):
    """An array of numpy, JAX or another library."""

    def __array__(self) -> np.ndarray: ...


@runtime_checkable
class SupportsRead(Protocol):
    """A file object opened in binary mode."""

    def read(self) -> bytes: ...


ImageLike = str | os.PathLike | Image.Image | SupportsArray | bytes | SupportsRead


def open_image(
    image: object, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB pixels of an image in a file or in memory.

    InputError if there are none, which names the image only if it is a path.

    Args:
      image: a path, the bytes of an image file, or a file object opened in binary mode:
        as `read_image`; a PIL.Image, whose orientation and transparency count, too;
        or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (transparent pixels are
        laid over white) of uint8 or of floats in [0, 1].
      max_pixels: of a file, or of a PIL.Image.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image, max_pixels)
    if isinstance(image, Image.Image):
        with _decoding():
            _check_size(image.size, max_pixels)
            with _pillow_lock:  # two threads may open the same one
                image.load()
            return _upright_rgb(image)
    if isinstance(image, SupportsArray):
        return _open_array(np.asarray(image))
    if isinstance(image, io.TextIOBase):
        raise InputError("file opened as text: open it in mode 'rb'")
    if isinstance(image, SupportsRead):
        try:
            image = image.read()
        except (OSError, ValueError) as error:
            raise InputError(f"file object cannot be read ({error})") from None
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), max_pixels)
    raise InputError(
        "expected a path, a PIL.Image, an array, the bytes of an image file or a "
        f"binary file object, got {type(image).__name__}"
    )


def image_name(image: object, number: int) -> str:
    """What messages call an image: its path or file name, else "image 3"."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    name = getattr(image, "filename", None) or getattr(image, "name", None)
    return name if name and isinstance(name, str) else f"image {number}"


def read_image(
    path: str | os.PathLike, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB image of a file, turned upright as its EXIF orientation says.

    Grey, CMYK and 16-bit images become 8-bit RGB; transparent pixels are laid over
    white; of an animation, the first frame is taken. InputError, naming the file, if
    it is absent, no image, larger than `max_pixels` (known from the header, before
    memory is taken) or damaged: half an image is never returned.
    """
    try:
        return decode_image(pathlib.Path(path).read_bytes(), max_pixels)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def find_images(paths: Iterable[str | os.PathLike]) -> list[tuple[str, pathlib.Path]]:
    """(id, path) of images and of all images in folders, sorted by id.

    Ids are paths with forward slashes within the folder, or within the closest one that
    holds all paths. InputError if a path does not exist or a folder holds no image.
    """
    listed = [pathlib.Path(os.path.abspath(path)) for path in paths]
    if not listed:
        raise InputError("no images or folders were given")
    found = set()
    for path in listed:
        if path.is_dir():
            inside = sorted(_walk(path))
            if not inside:
                known = " ".join(SUFFIXES)
                raise InputError(f"{path}: no images in this folder ({known})")
            found.update(inside)
        elif path.exists():
            found.add(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    root = listed[0]
    if len(listed) > 1 or not root.is_dir():
        root = pathlib.Path(os.path.commonpath([path.parent for path in listed]))
    return sorted((path.relative_to(root).as_posix(), path) for path in found)


def decode_image(
    data: bytes, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """As `read_image`, from the bytes of a file."""
    if not data:
        raise InputError("the file is empty")
    with _decoding():
        with _quiet_pillow():
            image = Image.open(io.BytesIO(data))
        with image:
            _check_size(image.size, max_pixels)
            is_jpeg = data[:3] == b"\xff\xd8\xff" and image.mode in ("RGB", "L")
            return _upright_rgb(image, data if is_jpeg else None)


def encode_jpeg(image: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """The bytes of a JPEG file."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorsubsampling="420"
    )


def resize_rule(
    size: tuple[int, int],
    max_image_size: int | float | None = None,
    min_image_size: int | float | None = None,
    square: bool = False,
    factor: int | float = 1.0,
) -> tuple[int, int]:
    """(height, width) that an image of `size` is resized to before extraction.

    The longer side is brought into [min, max] times `factor`; None or a negative
    number is no bound; `square` squeezes both sides to the longer one. Rounds half to
    even. InputError if a side would vanish. The original's `ResizeImage`.
    """
    if factor < 0:
        raise InputError(f"resize factor: {factor} is negative")
    height, width = size
    largest = max(height, width)
    bounds = (max_image_size, min_image_size)
    maximum, minimum = (-1.0 if bound is None else factor * bound for bound in bounds)
    if maximum >= 0 and largest > maximum:
        scale = maximum / largest
    elif minimum >= 0 and largest < minimum:
        scale = minimum / largest
    elif square and height != width:
        scale = 1.0
    else:
        return height, width
    if square:
        height = width = largest
    resized = int(round(height * scale)), int(round(width * scale))
    if min(resized) < 1:
        raise InputError(
            f"{size[1]} x {size[0]} pixels are too thin to be resized to "
            f"{resized[1]} x {resized[0]}"
        )
    return resized


def resize_image(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image at `size` (height, width): Pillow's antialiased bilinear filter."""
    if image.shape[:2] == tuple(size):
        return image
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def normalize_pixels(
    image: UInt8[np.ndarray, "H W 3"],
    mean: Sequence[float] = (128.0, 128.0, 128.0),
    std: Sequence[float] = (128.0, 128.0, 128.0),
) -> Float[np.ndarray, "H W 3"]:
    """float32 (x - mean) / std of each of R, G and B; by default in [-1, 1)."""
    height, width, _ = image.shape
    # whole rows at once: six times faster than to broadcast three numbers to each pixel
    rows = image.reshape(height, 3 * width).astype(np.float32)
    rows -= np.tile(np.asarray(mean, np.float32), width)
    rows /= np.tile(np.asarray(std, np.float32), width)
    return rows.reshape(image.shape)


def resize_bilinear(
    image: Float[np.ndarray, "H W C"], size: tuple[int, int], legacy: bool = False
) -> Float[np.ndarray, "h w C"]:
    """The image at `size`: two-tap bilinear, half-pixel centres, no antialiasing.

    Bit for bit what TensorFlow 2's tf.image.resize gives: its float32 coordinates,
    and columns before rows. legacy: sampled at the corners of pixels instead, as
    TensorFlow 1's resize_bilinear does with align_corners=False.
    """
    if image.shape[:2] == tuple(size):
        return image
    left, right, weight_x = _taps(image.shape[1], size[1], legacy)
    top, bottom, weight_y = _taps(image.shape[0], size[0], legacy)
    columns = _lerp(image, left, right, weight_x[:, None], axis=1)
    return _lerp(columns, top, bottom, weight_y[:, None, None], axis=0)


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The images in a folder and those below it; hidden ones are left out."""
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield pathlib.Path(directory, name)


def _taps(
    length: int, new_length: int, legacy: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel its two neighbours and the weight of the second."""
    scale = np.float32(length) / np.float32(new_length)
    half = np.float32(0 if legacy else 0.5)
    centres = (np.arange(new_length, dtype=np.float32) + half) * scale - half
    floors = np.floor(centres)
    upper = np.minimum(np.ceil(centres).astype(np.int32), length - 1)
    lower = np.minimum(np.maximum(floors.astype(np.int32), 0), upper)
    return lower, upper, centres - floors


def _lerp(
    image: np.ndarray, low: np.ndarray, high: np.ndarray, weight: np.ndarray, axis: int
) -> np.ndarray:
    first, second = (np.take(image, taps, axis=axis) for taps in (low, high))
    np.subtract(second, first, out=second)
    np.multiply(second, weight, out=second)
    return np.add(first, second, out=second)


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow without its limit on pixels, which only warns, and other warnings.

    Both switches are global: for headers and metadata only, which take no time.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """InputError for whatever goes wrong: decoders raise nearly anything on damage."""
    try:
        yield
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError("not an image of a known format") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"damaged or unsupported image ({reason})") from None


def _open_array(array: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    shape = array.shape
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise InputError(
            "expected an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got "
            f"{list(shape)}"
        )
    if np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # nor NaN
            raise InputError(
                f"expected float pixels in [0, 1], got {low:g} to {high:g}: divide "
                "them by their range, or use uint8"
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"expected uint8, or float in [0, 1], got {array.dtype}")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return array if array.shape[2] == 3 else _to_rgb(Image.fromarray(array))


def _check_size(size_xy: tuple[int, int], max_pixels: int) -> None:
    width, height = size_xy
    if width * height > max_pixels:
        raise InputError(
            f"{width} x {height} pixels are more than the {max_pixels / 1e6:g} "
            "million allowed; make the image smaller"
        )


def _decode_jpeg(data: bytes) -> np.ndarray:
    """2.5 times as fast as Pillow, same pixels; a warning of the decoder is damage."""
    try:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        padding = re.search(r"(\d+) extraneous bytes before marker 0xd9", str(error))
        if padding is None or int(padding[1]) > _HARMLESS_PADDING:
            raise
    return simplejpeg.decode_jpeg(data, "RGB", strict=False)


def _upright_rgb(
    image: Image.Image, jpeg: bytes | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a Pillow image, of a JPEG from its bytes."""
    if jpeg is not None:
        pixels = _decode_jpeg(jpeg)
    else:
        image.load()
        pixels = _to_rgb(image)
    # After decoding: the metadata of a PNG may stand behind its pixels.
    orientation = _orientation(image)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _orientation(image: Image.Image) -> int:
    """How the camera was held, as EXIF has it: 1 to 8."""
    # A broken EXIF block does not affect the pixels.
    with contextlib.suppress(Exception), _quiet_pillow():
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image)
        # PNG and TIFF hold 16 bits, of which the upper 8 are kept.
        grey = np.clip(grey, 0, 65535).astype(np.uint16) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise InputError("floating-point images have no fixed range; save as 8-bit")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
