"""Text that COLMAP imports: the keypoints of an image, and the matches of two.

Its conventions: (x, y) with the centre of the first pixel at (0.5, 0.5); descriptors
are 128 bytes, those of SIFT, which a network does not give: zeros are written, and
COLMAP imports the matches instead of computing them.
"""

import numpy as np
from jaxtyping import Int

from delf_jax.features import LocalFeatures
from delf_jax.files import encode_name

_DIMENSION = 128
_ZEROS = " 0" * _DIMENSION


def encode_keypoints(local: LocalFeatures) -> bytes:
    """The file of an image, NAME.txt: x, y, scale, orientation 0, zeros."""
    locations_xy = np.asarray(local.locations, np.float64)[:, ::-1] + 0.5
    numbers = np.column_stack([locations_xy, np.asarray(local.scales, np.float64)])
    rows = (f"{x:.9g} {y:.9g} {s:.9g} 0{_ZEROS}" for x, y, s in numbers.tolist())
    return "\n".join([f"{len(numbers)} {_DIMENSION}", *rows, ""]).encode()


def encode_matches(a: str, b: str, matches: Int[np.ndarray, "P 2"]) -> bytes:
    """Two images in a list of matches: their names, pairs of numbers, an empty line."""
    rows = (f"{of_a} {of_b}" for of_a, of_b in matches.tolist())
    return encode_name("\n".join([f"{a} {b}", *rows, "", ""]))
