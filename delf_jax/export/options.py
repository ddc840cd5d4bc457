"""The options of an export, and the summary of what it has written."""

from collections.abc import Mapping
from typing import Any, NamedTuple

PLATFORMS = ("cpu", "cuda", "tpu")


class ExportOptions(NamedTuple):
    """Options beyond the format."""

    what: str = "both"
    """"local", "global" or "both" """
    scales: tuple[float, ...] | None = None
    """image scales in place of the model's own; in a SavedModel they are inputs else"""
    pool: str = "none"
    """of a global SavedModel: raw descriptors "none", "average" or "sum" over scales"""
    normalize: bool = False
    """of the same: normalise what is left"""
    iou: float | None = None
    """overlap above which the weaker of two features goes, in place of the model's"""
    size: tuple[int, int] | None = None
    """of ONNX: (height, width) of the largest image"""


class ExportSummary(NamedTuple):
    """What was written: the content of export.json that depends on the format."""

    file: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    """of the packages that wrote it"""
    beside: tuple[str, ...] = ()
    """files that have to stay beside the first"""


def signature(array: Any) -> str:
    """ "float32[n,4]" of anything with a shape and a dtype."""
    dtype = getattr(array.dtype, "name", array.dtype)
    return f"{dtype}[{','.join('n' if d is None else str(d) for d in array.shape)}]"
