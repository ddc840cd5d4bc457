"""Commands are killed; the same again must finish what an undisturbed run makes."""

import os
import random
import time

from tests.campaign import commands
from tests.campaign.contents import LEFT, differences
from tests.campaign.lab import LIMIT, Lab
from tests.campaign.verdicts import Judgement, Verdict, failure_of, last_line, wrong

OLD = 2 * 24 * 3600.0  # seconds: then what a dead process left is nobody's.


def names(*, slow: bool) -> list[str]:
    """The recipes that are killed."""
    recipes = commands.RECIPES.items()
    return [n.replace(" ", "_") for n, r in recipes if slow or not r.slow]


def step(lab: Lab, rng: random.Random, name: str) -> tuple[str, Judgement]:
    """Kills a command once or twice, at a change of its folder or at a moment."""
    recipe, reference = commands.find(name), lab.reference(name)
    lab.fill(recipe.needs)
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.6:
            place = rng.randint(1, max(reference.outcome.changes, 1))
            lab.start(recipe, kill_at=place).wait(LIMIT, kill=True)
            done.append(f"before change {place} of {reference.outcome.changes}")
        else:
            moment = rng.uniform(0.1, 1.05) * reference.outcome.seconds
            lab.start(recipe).wait(moment, kill=True)
            done.append(f"after {moment:.2f} of {reference.outcome.seconds:.2f} s")
    age(lab)
    return f"killed {', then '.join(done)}", run_again(lab, name)


def run_again(lab: Lab, name: str) -> Judgement:
    """The verdict on the same command, run again."""
    recipe, reference = commands.find(name), lab.reference(name)
    finished = not any(_differences(lab, reference.contents))
    outcome = lab.start(recipe).wait(LIMIT)
    if failure := failure_of(outcome):
        return wrong(f"run again: {failure}")
    if outcome.status and not finished:
        return wrong(f"refuses to finish: {last_line(outcome.err)}")
    if different := list(_differences(lab, reference.contents)):
        return wrong(f"run again, {'; '.join(different[:4])}")
    return Judgement(Verdict.EQUAL)


def _differences(lab: Lab, expected: dict[str, str]) -> list[str]:
    try:
        return list(differences(expected, lab.contents()))
    except RuntimeError as error:
        return [f"cannot be read: {last_line(str(error))}"]


def age(lab: Lab) -> None:
    """What is left over looks as if it had lain there for days."""
    then = time.time() - OLD
    for path in lab.work.rglob("*"):
        if LEFT.search(path.relative_to(lab.work).as_posix()):
            os.utime(path, (then, then), follow_symlinks=False)
