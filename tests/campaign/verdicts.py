"""What a command did, judged: as good as ever, refused in a sentence, or wrong."""

import enum
import re
from typing import NamedTuple

from tests.campaign.processes import Outcome

# Wrong, wherever they stand in an output.
TRACES = ("Traceback (most recent call last)", "Fatal Python error", "terminate called")
# What a terminal obeys, and lines that one name spreads over.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1a\x1b-\x1f\x7f\x80-\x9f]")
# The sentences of libraries that are no news to users of ours.
NOISE = re.compile(r"^(WARNING: All log messages|[WEIF]\d{4} |\d{4}-\d\d-\d\d .*\] )")


class Verdict(enum.StrEnum):
    """How a step ended."""

    EQUAL = "equal"  # The result of an undisturbed run.
    REFUSED = "refused"  # One sentence says what is wrong.
    SAID = "said"  # Done with what remains, and said so.
    OTHER = "other"  # Another result without a word, which nothing could have noticed.
    WRONG = "wrong"


class Judgement(NamedTuple):
    """A verdict, and what is wrong in words."""

    verdict: Verdict
    reason: str = ""


def wrong(reason: str) -> Judgement:
    return Judgement(Verdict.WRONG, reason)


def failure_of(found: Outcome) -> str:
    """What no input may do, in words; "" if a command did nothing of the kind."""
    if found.status is None:
        return f"hangs: stopped after {found.seconds:.0f} s"
    if found.status < 0:
        return f"died of signal {-found.status}"
    for trace in TRACES:
        if trace in found.out + found.err:
            return f"traceback: {last_line(found.err) or last_line(found.out)}"
    if control := CONTROLS.search(found.out + found.err):
        return f"prints the control character {control[0]!r}"
    if found.status and not sentences(found.err):
        return f"status {found.status} without an error message: {last_line(found.err)}"
    if found.status not in (0, 1, 2):
        return f"status {found.status}: {last_line(found.err)}"
    return ""


def sentences(err: str) -> list[str]:
    """The lines that say what is wrong."""
    wanted = ("error: ", "failed: ", "warning: ", "usage: ")
    return [line for line in err.splitlines() if line.startswith(wanted)]


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def judge(found: Outcome, equal: bool, *, has_checksum: bool = True) -> Judgement:
    """The verdict on a command that met damaged or forged input.

    Args:
      equal: whether its result is that of the input as it was.
      has_checksum: whether the format lets damage be noticed.
    """
    if failure := failure_of(found):
        return wrong(failure)
    if found.status:
        return Judgement(Verdict.REFUSED)
    if equal:
        return Judgement(Verdict.EQUAL)
    words = ("damaged", "failed", "skipped", "cannot be used", "left out", "warning")
    if any(word in found.out + found.err for word in words):
        return Judgement(Verdict.SAID)
    if not has_checksum:
        return Judgement(Verdict.OTHER)
    return wrong("another result, without a word")
