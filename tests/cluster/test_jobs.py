"""Jobs on clusters: what keeps one from starting; and real workers that die."""

import collections
import functools
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import pytest

from delf_jax.cluster import jobs
from delf_jax.cluster.shares import Answer, Done
from delf_jax.files import InputError
from tests.campaign.contents import contents
from tests.helpers.clusters import (
    ENVIRONMENT,
    MARK,
    begin,
    open_doubling,
    processes_with,
    program,
    started_cluster,
    wait_for_shards,
    write_photo,
)


@pytest.mark.parametrize(
    ("machines", "accelerated", "count", "needs"),
    [
        ([{"CPU": 2}], True, 1, {"num_cpus": 2}),
        ([{"CPU": 1}, {"CPU": 1}], True, 2, {"num_cpus": 1}),
        ([{"CPU": 64}], True, 16, {"num_cpus": 4}),
        ([{"CPU": 0}, {"CPU": 8}, {"CPU": 9}], True, 4, {"num_cpus": 4}),
        ([{}, {"CPU": 16, "GPU": 8}], True, 8, {"num_cpus": 0, "num_gpus": 1}),
        ([{"CPU": 16, "GPU": 8}], False, 4, {"num_cpus": 4}),
        (
            [{"CPU": 4, "TPU": 4}] * 2,
            True,
            8,
            {"num_cpus": 0, "resources": {"TPU": 1}},
        ),
    ],
)
def test_a_worker_has_an_accelerator_or_a_few_cores(
    machines, accelerated, count, needs
):
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 32, "GPU": 8, "TPU": 8}})
    ray = types.SimpleNamespace(nodes=lambda: nodes)
    assert jobs._workers(ray, "", accelerated) == (count, needs)


def test_a_cluster_without_cores_is_refused():
    ray = types.SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {}}])
    with pytest.raises(InputError, match="^--ray=a:1: no machine"):
        jobs._workers(ray, "a:1", True)


def test_a_worker_says_what_keeps_its_machine_from_the_job(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=lambda job: job))
    known, host = jobs._versions(), socket.gethostname()
    ready = functools.partial(jobs._Actor().make_ready, folder=str(tmp_path))
    other = ready(known | {"jax": "0.1"}, seen=[], mirrors=[], job=[])
    assert f"{host} has jax {known['jax']}, not 0.1;" in other.refusal
    unseen = ready(known, seen=[str(tmp_path), "/nowhere/a.jpg"], mirrors=[], job=[])
    assert unseen.refusal.startswith(f"/nowhere/a.jpg: machine {host} does not see it")
    assert ready(known, seen=[], mirrors=[], job=[lambda: len]) == Answer()


def test_what_a_worker_raises_is_told():
    actor = jobs._Actor()

    def work(share):
        raise share[0]

    actor._work = work
    assert actor.work([InputError("a: broken")]) == Answer(refusal="a: broken")
    failure = actor.work([OSError(5, "I/O error")]).failure
    assert failure == "OSError: [Errno 5] I/O error"


def test_an_address_at_which_nobody_answers_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        jobs._check_answers(f"127.0.0.1:{port}")
        jobs._check_answers("auto")
    for address in (f"127.0.0.1:{port}", "nohost.invalid:6379", "127.0.0.1:99999"):
        with pytest.raises(InputError, match=f"^--ray={address}: no cluster answers"):
            jobs._check_answers(address)
    for address in ("head", "head:", ":6379", "head:port", "ray://head:10001"):
        with pytest.raises(InputError, match="expected HOST:PORT"):
            jobs._check_answers(address)


def test_a_cluster_of_other_versions_is_told():
    error = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n"
        "    Python: 3.10.1\nThis process on node 10.0.0.1 was started with:\n"
        "    Ray: 2.60.0\n    Python: 3.11.0\n"
    )
    told = jobs._why_not("head:6379", error)
    assert "(Ray: 2.9.0 Python: 3.10.1)" in told and "\n" not in told


def test_without_ray_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'delf_jax\[ray\]'"):
        list(jobs.run("", open_doubling, [1], "."))
    assert list(jobs.run("", open_doubling, [], ".")) == []


# From here on with Ray itself: not of the development install, for its 250 MB.
real = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'delf_jax[ray]'",
)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A cluster with room for two workers."""
    with started_cluster(tmp_path_factory.mktemp("ray")) as started:
        yield started


JOB = """
import functools, json, sys
from delf_jax.cluster import jobs
from delf_jax.files import InputError
from tests.helpers.clusters import open_doubling
address, folder, *numbers = sys.argv[1:]
work = functools.partial(open_doubling, folder)
for done in jobs.run(address, work, [*map(int, numbers)], folder, most=2):
    print(json.dumps(done), flush=True)
"""


def run_job(address, folder, numbers):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", JOB, address, str(folder), *map(str, numbers)]
    job = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True
    )
    assert job.returncode == 0, job.stderr
    return [Done(*json.loads(line)) for line in job.stdout.splitlines()]


@real
@pytest.mark.slow
def test_two_workers_do_all_and_go(two_workers, tmp_path):
    found = run_job(two_workers.address, tmp_path / "out", range(20))
    results = {n: r for d in found for n, r in zip(d.share, d.result, strict=True)}
    assert results == {n: 2 * n for n in range(20)}
    assert two_workers.wait_for_workers(0) == []
    # Nor is the sign left by which workers knew the folder.
    assert not [path for path in (tmp_path / "out").iterdir() if path.name[0] == "."]


@real
@pytest.mark.slow
def test_what_kills_three_workers_or_raises_thrice_is_given_up(two_workers, tmp_path):
    numbers = [*range(1, 10), -1, 2000]
    found = run_job(two_workers.address, tmp_path / "out", numbers)
    reasons = {d.share[0]: d.reason for d in found if d.reason}
    assert len(reasons) == 2
    assert sum("the worker died" in reason for reason in reasons.values()) == 1
    assert sum("ArithmeticError: too large" in r for r in reasons.values()) == 1
    tries = collections.Counter(
        path.name.partition(".")[0] for path in (tmp_path / "out").iterdir()
    )
    assert sorted(tries.values())[-2:] == [3, 3]


@real
@pytest.mark.slow
def test_extraction_survives_its_workers_and_its_driver(
    two_workers, tmp_path, tiny_model
):
    photos = tmp_path / "photos"
    for number in range(24):
        write_photo(photos / f"{number:02}.jpg", number)
    (photos / "broken.jpg").write_bytes(b"no photo")
    command = ["extract", str(photos), f"--model={tiny_model}"]
    program(*command, f"--out={tmp_path / 'one' / 'store'}")
    on_cluster = (
        *command,
        f"--out={tmp_path / 'many' / 'store'}",
        f"--ray={two_workers.address}",
    )

    driver = begin(*on_cluster)
    first, *_ = two_workers.wait_for_workers(2)
    wait_for_shards(tmp_path / "many" / "store", 1)
    os.kill(first, signal.SIGKILL)
    wait_for_shards(tmp_path / "many" / "store", 3)
    driver.kill()
    driver.communicate()
    assert two_workers.wait_for_workers(0) == []

    again = program(*on_cluster)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert "24 images extracted" not in again and "1 failed" in again
    third = program(*on_cluster)
    assert "0 extracted, 24 unchanged, 1 failed" in third


@real
@pytest.mark.slow
def test_without_an_address_workers_start_here_and_end_with_the_job(tmp_path):
    for number in range(6):
        write_photo(tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg", number)
    environment = {MARK: str(tmp_path)}
    command = f"prepare --dataset={tmp_path / 'photos'} --max_side=32 --data="
    program(*f"{command}{tmp_path / 'one'}".split())
    done = program(*f"{command}{tmp_path / 'many'} --ray".split(), **environment)
    assert "6 of 6 images ready" in done
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    deadline = time.monotonic() + 30
    while processes_with(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_with(str(tmp_path)) == []
