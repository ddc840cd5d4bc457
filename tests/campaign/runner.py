"""Steps of all kinds, by time; failures kept and printed, one line of counts a kind."""

import collections
import pathlib
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType

from tests.campaign import clusters, forgeries, kills, mutations, odd_input, races
from tests.campaign.lab import Lab, random_of
from tests.campaign.verdicts import Judgement, Verdict, wrong

LARGEST_KEPT = 1 << 24  # bytes of a file.
# Kinds, and their shares of the time.
KINDS: dict[str, tuple[ModuleType, float]] = {
    "kills": (kills, 0.4),
    "mutations": (mutations, 0.25),
    "odd_input": (odd_input, 0.15),
    "forgeries": (forgeries, 0.1),
    "races": (races, 0.1),
    "clusters": (clusters, 0.1),
}


class Campaign:
    """Steps in a lab, counted."""

    def __init__(self, lab: Lab, kept: pathlib.Path, seed: int):
        self.lab, self.kept, self.seed = lab, kept, seed
        self.counts: dict[str, collections.Counter] = {}
        self.failures: list[str] = []
        self._number = 0

    def run(self, kinds: Sequence[str], seconds: float, *, slow: bool) -> None:
        """Steps of each kind in turn, for its share of the time."""
        began, total = time.monotonic(), sum(KINDS[kind][1] for kind in kinds)
        end = began
        for kind in kinds:
            end += seconds * KINDS[kind][1] / total
            for name, number in _order(kind, self.seed, slow):
                if time.monotonic() >= end:
                    break
                self.step(kind, name, number)

    def step(self, kind: str, name: str, number: int) -> Judgement:
        """One step; what it shows is printed if it is wrong."""
        self._number += 1
        self.lab.begin(self._number)
        rng = random_of(self.seed, kind, name, number)
        what = ""
        try:
            what, judgement = KINDS[kind][0].step(self.lab, rng, name)
        except Exception as error:  # The campaign's own, or a result not to be read.
            judgement = wrong(f"the step failed: {error!r:.300}")
            (self.lab.folder / "step.txt").write_text(traceback.format_exc())
        else:
            if touched := self.lab.end():
                judgement = wrong(touched)
        self.counts.setdefault(kind, collections.Counter())[judgement.verdict] += 1
        if judgement.verdict == Verdict.WRONG:
            self._keep(f"{kind}/{name}/{number}", f"{what}: {judgement.reason}")
        shutil.rmtree(self.lab.folder, ignore_errors=True)
        return judgement

    def lines(self) -> Iterator[str]:
        """Counts, a line for each kind."""
        for kind, counts in self.counts.items():
            known = (f"{counts[verdict]} {verdict}" for verdict in Verdict)
            yield f"{kind}: {counts.total()} steps: {', '.join(known)}"

    def _keep(self, step: str, text: str) -> None:
        """Prints what was wrong, and keeps its folder."""
        folder = self.kept / step.replace("/", "_")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.lab.folder, folder, symlinks=True, ignore=_not_kept)
        again = f"python -m tests.campaign --seed={self.seed} --step='{step}'"
        (folder / "why.txt").write_text(f"{text!a}\n{again}\n")
        self.failures.append(f"{step}: {text}")
        print(f"WRONG {step}: {text!a}\n      {again}\n      {folder}", flush=True)


def _order(kind: str, seed: int, slow: bool) -> Iterator[tuple[str, int]]:
    """Names and numbers without end: all names, in another order each time."""
    number = 0
    while names := KINDS[kind][0].names(slow=slow):
        random_of(seed, kind, number).shuffle(names)
        for name in names:
            yield name, number
        number += 1


def _not_kept(folder: str, names: list[str]) -> list[str]:
    """Pipes cannot be copied; files with holes would fill the disk."""

    def is_kept(path: pathlib.Path) -> bool:
        if path.is_symlink() or path.is_dir():
            return True
        return path.is_file() and path.stat().st_size <= LARGEST_KEPT

    return [name for name in names if not is_kept(pathlib.Path(folder, name))]
