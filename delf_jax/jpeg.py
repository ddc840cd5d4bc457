"""JPEG files whose every pixel is there, whatever decoders warn of; others are damaged.

libjpeg warns in the same way of a file that ends too soon and of bytes between two
segments that millions of telephones write, and only its first warning is seen. What is
known to be harmless is mended here, in a copy; what it still warns of is damage.
"""

import re
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from delf_jax.files import InputError

START, END = b"\xff\xd8", b"\xff\xd9"
# Some cameras pad before the end marker, or leave bytes between segments. Up to
# _PADDING bytes of any kind are harmless, more only if all are the same. If the decoder
# took more than _MARGIN of them for pixels, the rest of the file was never written.
_PADDING, _MARGIN = 32, 16
_APP0, _APP2, _APP14, _SCAN = 0xE0, 0xE2, 0xEE, 0xDA
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
# No segments with a length: what belongs into a scan, a second start, and the unknown.
_UNKNOWN = {*range(0x01, 0xC0), *range(0xD0, 0xD9), *range(0xF0, 0xFE)}
# What ends the data of a scan: no stuffed 0xff, restart marker or fill byte.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SEGMENT = re.compile(rb"\xff+([^\xff\0])")
# An undecoded block is of this grey.
_GREY = 128
_END_OF_SCAN = (
    "premature end of JPEG data: it ends in scan {}, and all its rows lack what was to "
    "follow"
)


class _Frame(NamedTuple):
    """What a frame header says of the scans that follow."""

    code: int
    missing: dict[int, set[int]]
    """component -> the coefficients that no scan has brought in full"""


class Mended(NamedTuple):
    """A JPEG with an end, and without what decoders only warn of."""

    data: bytes
    tail: bytes
    """the data of the last scan"""
    scans: int
    progressive: bool
    complete: bool
    """Whether all scans are there; the last may still be cut off"""


def decode_jpeg(data: bytes, colours: str = "RGB") -> UInt8[np.ndarray, "H W C"] | None:
    """The pixels of a file of which nothing is missing, as Pillow has them.

    2.5 times as fast as Pillow; None if its colours are sampled as simplejpeg does not
    know. InputError or ValueError for damage; of a file that ends too soon it says how
    much is missing.

    Args:
      colours: "RGB" or "CMYK".
    """
    try:
        return simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        if "subsampling" in str(error):
            return None
        mended = mend(data)
        if mended is None:
            raise
    if not mended.complete:
        raise InputError(f"damaged image ({_END_OF_SCAN.format(mended.scans)})")
    try:
        return simplejpeg.decode_jpeg(mended.data, colours, strict=True)
    except ValueError as error:
        warning = str(error)
    if not _is_padding(warning, mended.tail):
        raise InputError(f"damaged image ({_explain(warning, mended, colours)})")
    return simplejpeg.decode_jpeg(mended.data, colours, strict=False)


def mend(data: bytes) -> Mended | None:
    """The file without bytes between its segments, and with sound headers and an end.

    None if a segment is broken, or there is no scan.
    """
    parts: list[bytes | bytearray] = [START]
    tail, scans = b"", 0
    frame, colours = _Frame(0, {}), None
    place, ended = len(START), False
    while match := _SEGMENT.search(data, place):
        stray, code = data[place : match.start()], match[1][0]
        if len(stray) > max(_PADDING, _count_alike(stray)):
            return None
        if ended := code == END[1]:
            break
        place = match.end()
        size = int.from_bytes(data[place : place + 2])
        segment = bytearray(b"\xff" + match[1] + data[place : place + size])
        if code in _UNKNOWN or size < 2 or len(segment) < size + 2:
            return None
        place += size
        if code == _APP0 and segment[4:9] == b"JFIF\0" and size >= 9:
            segment[9] = 1  # Decoders know this revision.
        elif code == _APP14 and segment[4:9] == b"Adobe" and size >= 14:
            colours = segment
        elif code == _APP2 and segment[4:15] == b"ICC_PROFILE":
            continue  # May be broken, and changes no pixel here.
        elif code in _SEQUENTIAL + _PROGRESSIVE:
            frame = _Frame(code, {i: set(range(64)) for i in segment[10::3]})
        parts.append(segment)
        if code == _SCAN:
            _mend_scan(segment, frame)
            end = _MARKER.search(data, place)
            tail = data[place : end.start() if end else len(data)]
            place, scans = place + len(tail), scans + 1
            parts.append(tail)
    if not scans:
        return None
    if colours is not None:
        _mend_colours(colours, len(frame.missing))
    whole = not any(frame.missing.values()) and _count_alike(tail) <= _MARGIN
    progressive = frame.code in _PROGRESSIVE
    return Mended(b"".join([*parts, END]), tail, scans, progressive, ended or whole)


def _mend_scan(header: bytearray, frame: _Frame) -> None:
    """Notes what a scan brings; of a sequential one it is all, whatever is written."""
    count = header[4] if len(header) > 4 else 255
    if len(header) < 8 + 2 * count:
        return
    if frame.code in _SEQUENTIAL:
        header[5 + 2 * count : 8 + 2 * count] = bytes([0, 63, 0])
    first, last, bits = header[5 + 2 * count : 8 + 2 * count]
    if bits & 0x0F == 0:  # No lower bits are left for a later scan.
        for component in header[5 : 5 + 2 * count : 2]:
            frame.missing.get(component, set()).difference_update(
                range(first, last + 1)
            )


def _mend_colours(adobe: bytearray, components: int) -> None:
    """Puts what decoders assume in place of an unknown transform of colours."""
    known = {3: (0, 1), 4: (0, 2)}.get(components)
    if known and adobe[15] not in known:
        adobe[15] = known[1]


def _is_padding(warning: str, tail: bytes) -> bool:
    """Whether the decoder warns only of bytes that follow the last pixel."""
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", warning)
    if found is None:
        return False
    count, alike = int(found[1]), _count_alike(tail.rstrip(b"\xff"))
    return count <= _PADDING or count <= alike <= count + _MARGIN


def _count_alike(data: bytes) -> int:
    """How many bytes at the end are the same."""
    return len(data) - len(data.rstrip(data[-1:]))


def _explain(warning: str, mended: Mended, colours: str) -> str:
    """What is wrong with the scans, and how much is missing."""
    if "premature end" not in warning:
        return warning
    if mended.progressive:
        return _END_OF_SCAN.format(mended.scans)
    pixels = simplejpeg.decode_jpeg(mended.data, colours, strict=False)
    missing = (pixels[:, -8:] == _GREY).all(axis=(1, 2))
    rows = int(np.argmin(missing[::-1])) if not missing.all() else len(missing)
    share = f"about {max(1, round(100 * rows / len(missing)))} %" if rows else "some"
    return f"premature end of JPEG data: {share} of its rows are missing"
