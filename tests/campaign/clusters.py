"""A cluster's workers, and the commands that use them, are killed twenty times.

A job that ends is compared with an undisturbed run by one process, and begun anew.
"""

import importlib.util
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

from tests.campaign import commands
from tests.campaign.contents import differences
from tests.campaign.kills import age
from tests.campaign.lab import LIMIT, Lab
from tests.campaign.verdicts import Judgement, Verdict, wrong
from tests.helpers.clusters import Cluster, begin, started_cluster

KILLS = 20
JOBS = (
    *("extract", "extract_--boxes", "extract_--detect", "index", "prepare"),
    *("prepare_--to=tfrecord", "detect_--format=coco"),
    *("aggregate", "aggregate_--to=vlad"),
)


def names(*, slow: bool) -> list[str]:
    """The recipes that a cluster takes; none without Ray, which is no small package."""
    return [*JOBS] if slow and importlib.util.find_spec("ray") else []


def step(lab: Lab, rng: random.Random, name: str) -> tuple[str, Judgement]:
    """Kills workers and commands at moments until twenty were killed."""
    reference, log = lab.reference(name), pathlib.Path(tempfile.mkdtemp())
    killed, jobs = {"worker": 0, "command": 0}, 0
    try:
        with started_cluster(log) as cluster:
            began = time.monotonic()
            judgement = _finish(lab, name, cluster, reference.contents)
            usual = time.monotonic() - began
            while judgement.verdict == Verdict.EQUAL and sum(killed.values()) < KILLS:
                _empty(lab)
                jobs += 1
                _disturb(lab, rng, name, cluster, usual, killed)
                age(lab)
                judgement = _finish(lab, name, cluster, reference.contents)
    finally:
        shutil.rmtree(log, ignore_errors=True)
    return f"{killed} killed in {jobs} jobs", judgement


def _disturb(
    lab: Lab,
    rng: random.Random,
    name: str,
    cluster: Cluster,
    usual: float,
    killed: dict[str, int],
) -> None:
    """Kills now and then, until the job has ended or enough was killed."""
    lab.fill(commands.find(name).needs)
    job = _begin(lab, name, cluster)
    try:
        while job.poll() is None and sum(killed.values()) < KILLS:
            # The work itself is the last part of what a command does.
            time.sleep(rng.uniform(0, usual) * rng.choice((0.1, 1)))
            workers = cluster.workers()
            if workers and rng.random() < 0.7:
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed["worker"] += 1
            elif job.poll() is None:
                job.kill()
                job.communicate()
                killed["command"] += 1
                job = _begin(lab, name, cluster)
    finally:
        job.kill()
        job.communicate()


def _finish(
    lab: Lab, name: str, cluster: Cluster, expected: dict[str, str]
) -> Judgement:
    """Whether the same command ends, and with what one process makes."""
    if not any(lab.work.iterdir()):
        lab.fill(commands.find(name).needs)
    job = _begin(lab, name, cluster)
    try:
        _, err = job.communicate(timeout=2 * LIMIT)
    finally:
        job.kill()
    if job.returncode:
        return wrong(f"status {job.returncode}: {err[-500:]}")
    if different := list(differences(expected, lab.contents())):
        return wrong("; ".join(different[:4]))
    return Judgement(Verdict.EQUAL)


def _begin(lab: Lab, name: str, cluster: Cluster) -> subprocess.Popen:
    arguments = lab.arguments(commands.find(name).arguments)
    return begin(*arguments, f"--ray={cluster.address}", cwd=lab.work)


def _empty(lab: Lab) -> None:
    shutil.rmtree(lab.work)
    lab.work.mkdir()
