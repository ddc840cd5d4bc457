"""Whether what was found is more than chance: numbers of inliers, judged.

Unrelated photos share inliers, too, and the best of a hundred share more than a single
one: `verification.most_by_chance` says how many, and with a model that was calibrated
`ranking.most_by_chance`, which looks at what the other candidates share. A verdict
changes neither results nor their order. Where nothing is verified there is none: how
similar the descriptors of unrelated photos are depends on the model and on what else is
in the index.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from delf_jax.progress import format_count
from delf_jax.retrieval import ranking
from delf_jax.retrieval.verification import (
    VERIFICATION,
    VerificationSettings,
    most_by_chance,
)


class Verdict(NamedTuple):
    """Whether the results of one query can be trusted."""

    most: int = 0
    """inliers of the best photo, apart from the query's own"""
    by_chance: int | None = None
    """inliers that the best of unrelated photos may have; None: nothing verified"""
    has_own: bool = False
    """the query's own photo is among the results"""

    @property
    def confident(self) -> bool | None:
        """Whether a photo shares more inliers than by chance; None: none verified."""
        return None if self.by_chance is None else self.most > self.by_chance

    def of(self, inliers: int | None) -> bool | None:
        """The same of one result."""
        if inliers is None or self.by_chance is None:
            return None
        return inliers > self.by_chance

    def __str__(self) -> str:
        """The warning to print above the results; empty if none is needed."""
        if self.confident is not False:
            return ""
        but = " but the photo itself" if self.has_own else ""
        most = format_count(self.most, "inlier")
        chance = f"unrelated photos share up to {self.by_chance}"
        return f"no confident match{but}: {most} at most, and {chance}"


def judge(
    inliers: Sequence[int | None],
    features: float,
    own: int | None = None,
    settings: VerificationSettings = VERIFICATION["default"],
) -> Verdict:
    """The verdict on the results of a query.

    Args:
      inliers: of each result; None: it was not verified.
      features: of a photo, as of `most_by_chance`.
      own: place of the query's own photo among the results, if it is there.
    """
    others = [n for place, n in enumerate(inliers) if place != own and n is not None]
    if not others:
        return Verdict(has_own=own is not None)
    if settings.calibration is not None:
        known = np.array(others, np.float64)
        by_chance = ranking.most_by_chance(known, settings.calibration, ranking.FEWEST)
    else:
        by_chance = most_by_chance(settings, features, len(others))
    return Verdict(max(others), by_chance, own is not None)
