"""Which JPEGs are whole, whatever decoders warn of, and how much others lack."""

import contextlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from delf_jax import images, jpeg
from delf_jax.files import InputError


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Something with details everywhere, 160 rows high."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return np.asarray(
        Image.fromarray(noise).resize((240, 160), Image.Resampling.BICUBIC)
    )


def _encode(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def _segments(data: bytes) -> dict[int, int]:
    """Where the segments of each marker begin, the last of each."""
    found, place = {}, 2
    while data[place + 1] != 0xDA:
        found[data[place + 1]] = place
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return found | {0xDA: place}


def _patched(data: bytes, place: int, values: bytes) -> bytes:
    return data[:place] + values + data[place + len(values) :]


def _between_segments(data: bytes, stray: bytes) -> bytes:
    for place in sorted(_segments(data).values(), reverse=True):
        data = data[:place] + stray + data[place:]
    return data


def _invalid_scan(data: bytes) -> bytes:
    """As of Samsung's telephones: an end of the spectrum that no decoder needs."""
    place = _segments(data)[0xDA]
    return _patched(data, place + 5 + 2 * data[place + 4], b"\0\0\0")


def _broken_colour_profile(data: bytes) -> bytes:
    return data[:2] + b"\xff\xe2\0\x14ICC_PROFILE\0\x05\x02junk" + data[2:]


def _unknown_transform(data: bytes) -> bytes:
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07"
    return data[:2] + adobe + data[_segments(data)[0xE0] + 18 :]


HARMLESS = {
    "scan": _invalid_scan,
    "revision": lambda data: _patched(data, _segments(data)[0xE0] + 9, b"\x02"),
    "zeros between segments": lambda data: _between_segments(data, bytes(4)),
    "much between segments": lambda data: _between_segments(data, bytes(700)),
    "letters between segments": lambda data: _between_segments(data, b"camera"),
    "transform": _unknown_transform,
    "profile": _broken_colour_profile,
    "zeros before the end": lambda data: data[:-2] + bytes(5000) + data[-2:],
    "junk before the end": lambda data: data[:-2] + b"padding" + data[-2:],
    "no end": lambda data: data[:-2],
    "no end, but zeros": lambda data: data[:-2] + bytes(9),
    "more behind the end": lambda data: data + bytes(100) + b"\xff\xd8more",
}


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("oddity", HARMLESS)
def test_what_decoders_only_warn_of_is_read(photo, oddity, progressive):
    data = _encode(photo, progressive=progressive and oddity != "scan")
    odd = HARMLESS[oddity](data)
    found = images.decode_image(odd)
    np.testing.assert_array_equal(found, images.decode_image(data))
    with contextlib.suppress(OSError):  # Pillow takes some, and not all.
        np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(odd))))


def test_several_oddities_at_once_do_not_hide_damage(photo):
    data = _encode(
        photo,
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\1\x12\0\3\0\0\0\1\0\6\0\0" + bytes(4),
    )
    odd = _between_segments(_invalid_scan(data), b"odd")[:-2]
    np.testing.assert_array_equal(images.decode_image(odd), images.decode_image(data))
    assert images.decode_image(odd).shape == (240, 160, 3)  # turned upright
    with pytest.raises(InputError, match="premature end of JPEG data: about 5. %"):
        images.decode_image(odd[: len(odd) // 2])


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_printed_photos_are_held_to_the_same(photo, mode):
    file = io.BytesIO()
    Image.fromarray(photo).convert(mode).save(file, "JPEG", quality=90)
    data = file.getvalue()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.decode_image(data), expected)
    np.testing.assert_array_equal(images.decode_image(_invalid_scan(data)), expected)
    damaged = _patched(data, len(data) // 2, b"\x12" * 60)
    for broken in (damaged, data[: len(data) // 2]):
        with pytest.raises(InputError, match="damaged"):
            images.decode_image(broken)


def test_colours_may_be_sampled_in_any_way(photo):
    file = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(file, "JPEG", subsampling=2)
    data = file.getvalue()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.decode_image(data), expected)
    with pytest.raises(InputError, match="damaged"):
        images.decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("percent", range(5, 100, 5))
@pytest.mark.parametrize("restart", [0, 1])
def test_a_file_that_ends_too_soon_says_how_much_is_missing(photo, percent, restart):
    data = _encode(photo, restart_marker_rows=restart)
    start = _segments(data)[0xDA] + 14
    kept = data[: start + (len(data) - start) * percent // 100]
    with pytest.raises(InputError, match="damaged image .premature end") as error:
        images.decode_image(kept)
    share = re.search(r"about (\d+) % of its rows are missing", str(error.value))
    assert share and abs(int(share[1]) - (100 - percent)) <= 12


@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_a_progressive_file_that_ends_too_soon_is_refused(photo, percent):
    data = _encode(photo, progressive=True)
    start = _segments(data)[0xDA]
    kept = data[: start + (len(data) - start) * percent // 100]
    with pytest.raises(InputError, match="damaged"):
        images.decode_image(kept)


def test_a_progressive_file_without_its_last_scans_is_refused(photo):
    data = _encode(photo, progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    for number, place in enumerate(scans[1:], 1):
        with pytest.raises(InputError, match=f"it ends in scan {number},"):
            images.decode_image(data[:place])


def test_a_file_whose_rest_was_never_written_is_refused(photo):
    data = _encode(photo)
    for end in (b"", b"\xff\xd9"):
        half = data[: len(data) // 2] + bytes(len(data) // 2) + end
        with pytest.raises(InputError, match="damaged"):
            images.decode_image(half)


def test_headers_without_a_scan_and_lost_segments_are_refused(photo):
    data = _encode(photo)
    place = _segments(data)
    lost = _patched(data, place[0xC4], b"\0\0")  # The head of a table is overwritten.
    for broken in (data[: place[0xDA]], data[: place[0xC0] + 5], lost, data[:2]):
        assert jpeg.mend(broken) is None
        with pytest.raises(InputError):
            images.decode_image(broken)
