"""Image files in, RGB arrays out; sizes and resizing as the original does them.

Everything here is numpy and Pillow and releases the GIL where it is slow, so that
threads can decode ahead of the device.
"""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8
from PIL import Image

from delf_jax import image_files, jpeg
from delf_jax.files import InputError
from delf_jax.progress import add_note

# A 108-megapixel telephone passes; 384 MB as RGB.
MAX_PIXELS = 128_000_000
_ORIENTATION_TAG = 0x0112
# Of TIFF.
_BITS_TAG, _PHOTOMETRIC_TAG, _SAMPLE_TAG, _DNG_TAG = 258, 262, 339, 50706
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
# Files of more bytes are read and decoded one at a time, by whatever threads.
_LARGE = 64 * 2**20
_large_lock = threading.Lock()
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
    if os.fsdecode(path).lower().endswith(image_files.RAW):
        raise InputError(f"{path}: {image_files.RAW_ADVICE}")
    with image_files.open_file(path) as (file, size):
        with _large_lock if size > _LARGE else contextlib.nullcontext():
            try:
                return decode_image(file.read(size + 1), max_pixels)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None
            except InputError as error:
                raise InputError(f"{path}: {error}") from None


def decode_image(
    data: bytes, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """As `read_image`, from the bytes of a file."""
    if not data:
        raise InputError("the file is empty")
    with _decoding():
        with _open(data) as image:
            _check_size(image.size, max_pixels)
            return _upright_rgb(image, data if data.startswith(jpeg.START) else None)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of the image that `read_image` gives, by its header alone.

    InputError, naming the file, if it is no image.
    """
    with image_files.open_file(path) as (file, size):
        try:
            with _decoding(), _open(file.read(size + 1)) as image:
                turned = _orientation(image) >= 5  # by a quarter
                return image.size if turned else image.size[::-1]
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    """(height, width) as an RGB JPEG stores them; None for a file of another kind.

    Whatever its EXIF says: as TensorFlow and others have it, who do not look there.
    """
    if not data.startswith(jpeg.START):
        return None
    with _decoding(), _open(data) as image:
        return image.size[::-1] if image.mode == "RGB" else None


def encode_jpeg(image: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """The bytes of a JPEG file."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorsubsampling="420"
    )


class SizeBounds(NamedTuple):
    """What the longer side of an image is brought into before extraction.

    None or a negative number is no bound.
    """

    most: int | float | None = None
    least: int | float | None = None

    def zoom(self, size: tuple[int, int]) -> float:
        """Pixels of the image as it is extracted for one of the image; (0, 0): 1."""
        largest, (most, least) = max(*size, 1), self
        if most is not None and 0 <= most < largest:
            return most / largest
        if least is not None and least > largest and max(size) > 0:
            return least / largest
        return 1.0


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


def _open(data: bytes) -> Image.Image:
    """The image with its header read, as a format of images that are no programs."""
    with _quiet_pillow():
        try:
            formats = image_files.readable_formats()
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.UnidentifiedImageError:
            if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
                return _open_heif(data)
            # Pillow takes no stray bytes between segments.
            mended = jpeg.mend(data) if data.startswith(jpeg.START) else None
            if mended is None:
                raise
            image = Image.open(io.BytesIO(mended.data), formats=["JPEG"])
    if _DNG_TAG in getattr(image, "tag_v2", ()):  # Only its thumbnail is a TIFF.
        raise InputError(image_files.RAW_ADVICE)
    return image


def _open_heif(data: bytes) -> Image.Image:
    if reason := image_files.missing_formats().get("HEIF"):
        raise InputError(f"HEIC photos need another package: {reason}")
    import pillow_heif

    pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=["HEIF"])


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
    except MemoryError:
        raise InputError("not enough memory to decode it") from None
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
        advice = ": scale them to 8 bits, of 16 by (array >> 8).astype(np.uint8)"
        integers = np.issubdtype(array.dtype, np.integer)
        raise InputError(
            f"expected uint8, or float in [0, 1], got {array.dtype}{advice * integers}"
        )
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


def _upright_rgb(
    image: Image.Image, encoded: bytes | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a Pillow image, of a JPEG from its bytes."""
    pixels = None if encoded is None else _decode_jpeg(image, encoded)
    if pixels is None:
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


def _decode_jpeg(image: Image.Image, encoded: bytes) -> np.ndarray | None:
    """The RGB of a JPEG whose header is read; None if Pillow must decode it."""
    if image.mode in ("RGB", "L"):
        return jpeg.decode_jpeg(encoded)
    inks = jpeg.decode_jpeg(encoded, "CMYK") if image.mode == "CMYK" else None
    if inks is None:
        return None
    # As Pillow: all programs write them inverted, as Adobe's did.
    return _to_rgb(Image.frombytes("CMYK", image.size, (~inks).tobytes()))


def _orientation(image: Image.Image) -> int:
    """How the camera was held, as EXIF has it: 1 to 8."""
    # A broken EXIF block does not affect the pixels.
    with contextlib.suppress(Exception), _quiet_pillow():
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.repeat(_grey_of_integers(image)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise InputError("floating-point images have no fixed range; save as 8-bit")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _grey_of_integers(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """The upper 8 of the bits that the format has, else what spans the range found."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    bits = _bits_of(image, tags)
    if bits is not None:
        grey = (np.clip(values, 0, 2**bits - 1) >> (bits - 8)).astype(np.uint8)
        return ~grey if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO else grey
    if tags and tags.get(_SAMPLE_TAG, (_UNSIGNED,))[0] == _UNSIGNED:
        values = values.view(np.uint32)
    add_note(
        "images of 32-bit or signed integers do not say how bright these are: the "
        "smallest of each is read as black, the largest as white"
    )
    low, high = int(values.min()), int(values.max())
    scaled = (values - np.float64(low)) * (255 / max(high - low, 1))
    return np.rint(scaled).astype(np.uint8)


def _bits_of(image: Image.Image, tags: Mapping) -> int | None:
    """How many bits a grey of integers has; None if that does not say what is white."""
    if tags:  # of a TIFF
        bits = tags.get(_BITS_TAG, (16,))[0]
        unsigned = tags.get(_SAMPLE_TAG, (_UNSIGNED,))[0] == _UNSIGNED
        return bits if unsigned and bits <= 16 else None
    # Pillow keeps 16 bits of some formats as 32, scaled.
    is_known = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    return 16 if is_known else None
