"""Two processes at once on one store, index or workdir."""

import random
import time

from tests.campaign import commands, kills
from tests.campaign.lab import LIMIT, Lab
from tests.campaign.verdicts import Judgement, Verdict, failure_of, wrong

# The second command of a pair works on what the first one changes.
PAIRS = {
    "index --add": ("index --add", "search", "index --remove", "search --precision"),
    "index --remove": ("index --remove", "search", "search --codebook"),
    "index": ("index",),
    "extract": ("extract", "extract --part"),
    "search --codebook": ("search --codebook", "index --add", "index --remove"),
    "search --precision": ("search --precision", "index --add"),
    "fit codebook": ("fit codebook",),
    "fit pca": ("fit pca",),
    "aggregate": ("aggregate",),
    "aggregate --to=vlad": ("aggregate --to=vlad",),
    "features --to=delf": ("features --to=delf",),
    "features --from=delf": ("features --from=delf",),
    "evaluate": ("evaluate", "evaluate --codebook"),
    "prepare": ("prepare", "prepare --to=array_record --part"),
    "convert": ("convert",),
    "download": ("download",),
    "rerank": ("rerank", "index --add"),
    "train": ("train",),
    "sweep": ("sweep",),
    "export --format=stablehlo": ("export --format=stablehlo",),
    "gldv2 retrieve": ("gldv2 retrieve", "gldv2 recognize"),
}


def names(*, slow: bool) -> list[str]:
    """Commands that meet another one."""
    recipes = commands.RECIPES
    return [n.replace(" ", "_") for n in PAIRS if slow or not recipes[n].slow]


def step(lab: Lab, rng: random.Random, name: str) -> tuple[str, Judgement]:
    """Starts two commands, the second one some time after the first."""
    first = commands.find(name)
    (others,) = (o for n, o in PAIRS.items() if n.replace(" ", "_") == name)
    other = rng.choice(others)
    second = commands.RECIPES[other]
    reference = lab.reference(name)
    lab.fill(dict.fromkeys([*first.needs, *second.needs]))
    delay = rng.choice((0.0, rng.uniform(0, reference.outcome.seconds)))
    one = lab.start(first)
    time.sleep(delay)
    two = lab.start(second)
    found = one.wait(LIMIT), two.wait(LIMIT)
    what = f"{other} {delay:.2f} s after it"
    for which, outcome in zip(("the first", "the second"), found, strict=True):
        if failure := failure_of(outcome):
            return what, wrong(f"{which}: {failure}")
    if all(outcome.status for outcome in found):
        return what, wrong(f"both refuse: {found[0].err[-200:]}, {found[1].err[-200:]}")
    if other.replace(" ", "_") == name:
        return what, kills.run_again(lab, name)
    left = [n for n in lab.contents() if n.startswith("LEFT")]
    return what, wrong("; ".join(left)) if left else Judgement(Verdict.EQUAL)
