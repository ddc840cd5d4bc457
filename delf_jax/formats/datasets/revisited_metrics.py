"""metrics.txt: results on Revisited Oxford and Paris, as the original writes them.

Four lines for each protocol ("hard", "medium", "hard_after_gv", ...): its name, mAP,
mean precisions and mean recalls at the ranks k, in per cent.
"""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.files import InputError, read_text, write_bytes


class Summary(NamedTuple):
    """Results under one protocol, as shares of 1."""

    mean_average_precision: float
    mean_precisions: Float[np.ndarray, " K"]
    mean_recalls: Float[np.ndarray, " K"]


def write_metrics(
    path: str | os.PathLike, ranks: Sequence[int], summaries: Mapping[str, Summary]
) -> None:
    """Writes the results, by protocol, rounded to hundredths of a per cent."""
    lines = []
    for protocol, summary in sorted(summaries.items()):
        mean, precisions, recalls = (np.around(np.multiply(x, 100), 2) for x in summary)
        at = _printed(np.array(ranks))
        lines += [protocol, f"  mAP={mean}", f"  mP@k{at} {_printed(precisions)}"]
        lines.append(f"  mR@k{at} {_printed(recalls)}")
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def read_metrics(
    path: str | os.PathLike,
) -> tuple[tuple[int, ...], dict[str, Summary]]:
    """The ranks k, and the results of each protocol; InputError by line."""
    lines = read_text(path).splitlines()
    if not lines or len(lines) % 4:
        raise InputError(f"{path}: {len(lines)} lines, but each protocol takes four")
    ranks: set[tuple[int, ...]] = set()
    summaries: dict[str, Summary] = {}
    for first in range(0, len(lines), 4):
        protocol = lines[first]
        where = [f"{path}, line {number}" for number in range(first + 1, first + 5)]
        if protocol in summaries:
            raise InputError(f"{where[0]}: protocol {protocol!r} comes a second time")
        mean = _shares(lines[first + 1], r"  mAP=(\S+)", where[1])
        at, precisions = _scores(lines[first + 2], "P", where[2])
        also_at, recalls = _scores(lines[first + 3], "R", where[3])
        ranks |= {at, also_at}
        if len(mean) != 1 or len(ranks) > 1:
            raise InputError(
                f"{where[0]}: the ranks k of {protocol!r} differ from those before"
            )
        summaries[protocol] = Summary(float(mean[0]), precisions, recalls)
    return ranks.pop(), summaries


def _scores(
    line: str, name: str, where: str
) -> tuple[tuple[int, ...], Float[np.ndarray, " K"]]:
    """The ranks and shares of a line of precisions or recalls."""
    prefix = re.match(rf"  m{name}@k\[([\d ]+)\] ", line)
    if not prefix:
        raise InputError(f"{where}: does not begin with '  m{name}@k[', ranks and ']'")
    ranks = tuple(map(int, prefix[1].split()))
    scores = _shares(line[prefix.end() :], r"\[(.*)\]", where)
    if len(scores) != len(ranks):
        raise InputError(f"{where}: {len(scores)} scores for {len(ranks)} ranks")
    return ranks, scores


def _shares(text: str, pattern: str, where: str) -> Float[np.ndarray, " _"]:
    """The percentages in the pattern's group, as shares."""
    match = re.fullmatch(pattern, text)
    if match:
        with contextlib.suppress(ValueError):
            shares = np.array([float(word) / 100 for word in match[1].split()])
            if not np.isinf(shares).any():  # NaN is a mean without queries.
                return shares
    raise InputError(f"{where}: expected percentages, got {text!r:.80}")


def _printed(array: np.ndarray) -> str:
    """As numpy prints an array by default, but always on one line."""
    return np.array2string(
        array,
        max_line_width=1 << 30,
        threshold=1 << 30,
        precision=8,
        suppress_small=False,
        floatmode="maxprec",
        sign="-",
    )
