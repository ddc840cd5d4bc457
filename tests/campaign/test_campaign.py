"""The campaign covers what there is, judges rightly, and finds nothing."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.campaign import (
    clusters,
    commands,
    forgeries,
    kills,
    mutations,
    odd_input,
    races,
    runner,
)
from tests.campaign.contents import contents, differences
from tests.campaign.lab import random_of
from tests.campaign.processes import Outcome
from tests.campaign.verdicts import Verdict, failure_of, judge

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = os.environ.get("DELF_JAX_CAMPAIGN_SECONDS", "180")
SEED = os.environ.get("DELF_JAX_CAMPAIGN_SEED", "0")
# A process computes nothing before it forks, as this one may have.
CAMPAIGN = [sys.executable, "-m", "tests.campaign", f"--seed={SEED}"]


def run_campaign(tmp_path, *options):
    command = [*CAMPAIGN, *options, f"--keep={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_command_that_writes_is_killed():
    """A new one needs a recipe: `commands.RECIPES`."""
    recipes = [*commands.RECIPES, *commands.WRITE_NOTHING, *commands.NOT_INSTALLED]
    for written in commands.written_by_the_program():
        assert any(f"{name} ".startswith(f"{written} ") for name in recipes), written


def test_every_option_that_names_what_is_written_is_used():
    used = {
        (recipe.arguments[0], argument.partition("=")[0])
        for recipe in commands.RECIPES.values()
        for argument in recipe.arguments
    }
    assert {*commands.outputs_of_the_program()} <= used


def test_recipes_need_recipes():
    for recipe in commands.RECIPES.values():
        assert all(commands.find(name) for name in recipe.needs)
    for kind in mutations.KINDS.values():
        assert all(commands.find(name) for name in kind.needs.split())
    assert all(mutations.find(name) for name in forgeries.names(slow=True))
    for name, others in races.PAIRS.items():
        assert {name, *others} <= {*commands.RECIPES}


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (Outcome(0, "done", "", 1.0), ""),
        (Outcome(2, "", "error: a.jpg: no such file\n", 1.0), ""),
        (Outcome(None, "", "", 60.0), "hangs"),
        (Outcome(-11, "", "", 1.0), "signal 11"),
        (Outcome(1, "", "Traceback (most recent call last):\nKeyError", 1.0), "Key"),
        (Outcome(0, "", "Traceback (most recent call last):\nKeyError", 1.0), "Key"),
        (Outcome(2, "", "", 1.0), "without an error message"),
        (Outcome(0, "\x1b[31mred.jpg", "", 1.0), "control character"),
    ],
)
def test_what_no_input_may_do_is_wrong(outcome, failure):
    assert failure in failure_of(outcome)
    assert bool(failure_of(outcome)) == bool(failure)


def test_another_result_is_wrong_where_a_checksum_could_tell():
    done = Outcome(0, "1 extracted", "", 1.0)
    assert judge(done, equal=True).verdict == Verdict.EQUAL
    assert judge(done, equal=False).verdict == Verdict.WRONG
    assert judge(done, equal=False, has_checksum=False).verdict == Verdict.OTHER
    said = Outcome(0, "1 damaged shard replaced", "", 1.0)
    assert judge(said, equal=False).verdict == Verdict.SAID
    refused = Outcome(2, "", "error: a: damaged", 1.0)
    assert judge(refused, equal=False).verdict == Verdict.REFUSED


def test_a_step_is_the_same_from_its_seed(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    whole = bytes(range(256)) * 4

    def damaged(number):
        for each in (path, other):
            if each.is_dir():
                each.rmdir()
            each.write_bytes(whole)
        what = mutations.damage(path, random_of(number))
        return what, path.read_bytes() if path.is_file() else None

    found = [damaged(number) for number in range(200)]
    assert found == [damaged(number) for number in range(200)]
    assert sum(data != whole for _, data in found) > 150


def test_what_is_left_over_is_seen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text("1")
    (tmp_path / "two.json").write_text('{"found": 2, "seconds": 3}')
    before = contents(tmp_path)
    (tmp_path / "two.json").write_text('{"seconds": 4, "found": 2}')
    assert list(differences(before, contents(tmp_path))) == []
    (tmp_path / "a" / "one.txt").write_text("2")
    (tmp_path / "a" / ".one.txt.77.abcd").write_text("")
    (tmp_path / "incomplete.QX_1.0.0").mkdir()
    found = list(differences(before, contents(tmp_path)))
    left = ["LEFT: a/.one.txt.77.abcd", "LEFT: incomplete.QX_1.0.0"]
    assert found == [*left, "a/one.txt differs"]


def test_what_is_kept_of_a_step_does_not_fill_the_disk(tmp_path):
    (tmp_path / "small").write_text("1")
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(1 << 36)
    os.mkfifo(tmp_path / "pipe")
    found = runner._not_kept(str(tmp_path), ["small", "holes", "pipe"])
    assert found == ["holes", "pipe"]


def test_all_kinds_have_steps():
    for kind in (kills, mutations, odd_input, forgeries, races):
        assert kind.names(slow=False) and set(kind.names(slow=False)) <= set(
            kind.names(slow=True)
        )


def test_a_command_that_is_killed_can_be_run_again(tmp_path):
    assert "equal" in run_campaign(tmp_path, "--step=kills/fit_pca/0")


@pytest.mark.slow
@pytest.mark.skipif(
    not clusters.names(slow=True),
    reason="Ray is not installed: pip install 'delf_jax[ray]'",
)
@pytest.mark.parametrize("name", ["extract", "aggregate", "prepare"])
def test_a_cluster_job_that_is_killed_twenty_times_ends_equal(tmp_path, name):
    assert "equal" in run_campaign(tmp_path, f"--step=clusters/{name}/0")


@pytest.mark.slow
def test_the_campaign_finds_nothing(tmp_path):
    """For DELF_JAX_CAMPAIGN_SECONDS, from DELF_JAX_CAMPAIGN_SEED."""
    print(run_campaign(tmp_path, f"--seconds={SECONDS}"))
