"""Arrays in a file by name, each read on access."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
    """What is known of an array before it is read."""

    dtype: np.dtype  # object: text, or something that `read` refuses.
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class LazyArrays(Mapping):
    """Arrays by name, read on access; `entries` has their types and shapes."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def format_arrays(arrays: LazyArrays) -> str:
    """The first names with type and shape, for a message: "a float32 [2, 3], ..."."""
    parts = [
        f"{name} {'text' if entry.dtype.hasobject else entry.dtype} {list(entry.shape)}"
        for name, entry in arrays.entries.items()
    ]
    more = [f"and {len(parts) - 20} more"] if len(parts) > 20 else []
    return ", ".join(parts[:20] + more) or "nothing"
