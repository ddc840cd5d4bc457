"""Text configs of the original, parsed: DelfConfig and AggregationConfig."""

import os
from typing import Any

from google.protobuf import text_format

from delf_jax.files import InputError, decode_text
from delf_jax.formats.delf import messages


def read_pbtxt(path: str | os.PathLike, kind: Any) -> Any:
    """The message of a class (DelfConfig, AggregationConfig) that a text file holds.

    InputError, naming the line, for a field that does not exist, that is repeated, or
    whose value is of another type.
    """
    try:
        return text_format.Parse(decode_text(messages.read_bytes(path), path), kind())
    except text_format.ParseError as error:
        # "3:7 : what is wrong": the place is spelled out below.
        reason = str(error).partition(" : ")[2] or str(error)
        reason = reason.replace("delf.protos.", "").rstrip(".")
        line = f", line {error.GetLine()}" if error.GetLine() else ""
        raise InputError(f"{path}{line}: {reason}") from None
