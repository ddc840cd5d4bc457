"""Lines of the tables of results: columns aligned, numbers as they are printed."""

from collections.abc import Iterator, Sequence

from delf_jax.retrieval.bootstrap import Interval


def align(rows: Sequence[Sequence[str]], left: int = 2) -> Iterator[str]:
    """Lines of a table whose first columns are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        aligned = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(aligned).rstrip()


def format_interval(interval: Interval | None, sign: str = "-") -> str:
    """Both ends in per cent, with a sign if that is "+"; empty if there is none."""
    if interval is None:
        return ""
    low, high = (format(100 * end, f"{sign}.1f") for end in interval)
    return f"{low} to {high}"
