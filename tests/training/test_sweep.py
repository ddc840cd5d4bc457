"""Sweeps: trials from a config, run side by side, skipped when done, in one table."""

import json
import pathlib
import shlex
import subprocess
import sys
import time

import pytest

from delf_jax import cli
from delf_jax.files import InputError
from delf_jax.training import sweep, workdir

ROOT = pathlib.Path(__file__).parents[2]
SWEEP = """
from configs import tiny

def get_config():
    return tiny.get_config()

def sweep(add):
    for margin in (0.1, 0.2):
        add(**{"loss.margin": margin, "views.resolutions": (64.0, 96.0)})
    add(**{"loss.margin": 0.1, "model.normalization": "frozen"})
"""
# Stands for main.py: a trial that leaves what a training does, or fails.
FAKE = """
import json, pathlib, sys
fields = dict(x.removeprefix("--").split("=", 1) for x in sys.argv[2:])
workdir, margin = pathlib.Path(fields["workdir"]), float(fields["config.loss.margin"])
print("training", flush=True)
if margin == 0.2 and not (workdir / "again").exists():
    (workdir / "again").touch()
    sys.exit("error: no luck")
with (workdir / "metrics.jsonl").open("a") as file:
    for step in (1, 2):
        file.write(json.dumps({"step": step, "loss": margin / step}) + "\\n")
        file.write(json.dumps({"step": step, "validation/mAP": margin * step}) + "\\n")
(workdir / "model").mkdir()
config = json.loads((workdir / "wanted.json").read_text())
provenance = {"provenance": {"config": config}}
(workdir / "model" / "config.json").write_text(json.dumps(provenance))
"""


@pytest.fixture
def config(tmp_path):
    # Beside a link to configs/, as its neighbours are imported.
    folder = tmp_path / "project" / "mine"
    folder.mkdir(parents=True)
    (folder.parent / "configs").symlink_to(ROOT / "configs")
    (folder / "sweep.py").write_text(SWEEP)
    return folder / "sweep.py"


def test_a_trial_is_a_command_with_its_fields_in_a_folder_of_their_names(
    config, tmp_path
):
    trials = sweep.plan(config, tmp_path / "out", ["--config.seed=3"])
    assert [trial.name for trial in trials] == [
        "margin=0.1,resolutions=64.0,96.0",
        "margin=0.2,resolutions=64.0,96.0",
        "margin=0.1,normalization=frozen",
    ]
    assert trials[1].command[-3:] == [
        "--config.seed=3",
        "--config.loss.margin=0.2",
        "--config.views.resolutions=64.0,96.0",
    ]
    whole = json.loads(trials[1].config)
    assert (whole["seed"], whole["loss"]["margin"]) == (3, 0.2)
    assert whole["views"]["resolutions"] == [64.0, 96.0]


def test_a_second_sweep_in_the_workdir_is_refused(config, tmp_path):
    trials = sweep.plan(config, tmp_path / "out")
    with workdir.locked(tmp_path / "out", "sweep"):
        with pytest.raises(InputError, match="out: another sweep is running in it"):
            sweep.run(trials, tmp_path / "out")


def test_a_trial_that_a_killed_sweep_left_running_is_said_to_run(
    trials, tmp_path, capsys
):
    with workdir.locked(trials[0].workdir):
        assert sweep.run(trials[:1], tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert f"{trials[0].name}: not started: {trials[0].workdir}: another" in printed
    assert "trials go on when their sweep is killed" in printed
    assert not (trials[0].workdir / "log.txt").exists()
    assert sweep.run(trials[:1], tmp_path / "out") == 1


def test_a_model_from_elsewhere_is_no_trial_that_has_finished(trials):
    (trials[0].workdir / "model").mkdir()
    for content in ("{}", '{"provenance": 1}', "[]"):
        (trials[0].workdir / "model" / "config.json").write_text(content)
        assert not sweep.is_finished(trials[0])


def test_a_dry_run_prints_a_command_on_each_line(config, tmp_path, capsys):
    arguments = ["sweep", f"--config={config}", f"--workdir={tmp_path}", "--dry_run"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    words = shlex.split(lines[0])
    assert words[:4] == ["python", "-m", "delf_jax", "train"]
    assert f"--workdir={tmp_path}/margin=0.1,resolutions=64.0,96.0" in words


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('add(**{"loss.margn": 1})', "there is no field loss.margn|no field margn"),
        ('add(**{"loss.margin": "x"})', "loss.margin=x"),
        ("add(seed=1); add(seed=1)", "adds the trial seed=1 twice"),
        ("pass", "adds no trial"),
        ("add(1)", "TypeError"),
    ],
)
def test_a_wrong_sweep_is_named_before_anything_runs(config, tmp_path, line, message):
    config.write_text(SWEEP.split("def sweep")[0] + f"def sweep(add):\n    {line}\n")
    with pytest.raises(InputError, match=message):
        sweep.plan(config, tmp_path)


def test_a_config_without_a_sweep_is_named(tmp_path):
    with pytest.raises(InputError, match=r"tiny.py: has no sweep\(add\)"):
        sweep.plan(ROOT / "configs" / "tiny.py", tmp_path)


@pytest.fixture
def trials(config, tmp_path, monkeypatch):
    """The trials, trained by a program that only leaves what a training does."""
    program = tmp_path / "main.py"
    program.write_text(FAKE)
    monkeypatch.setattr(sys, "argv", [str(program)])
    planned = sweep.plan(config, tmp_path / "out")
    for trial in planned:
        trial.workdir.mkdir(parents=True)
        (trial.workdir / "wanted.json").write_text(trial.config)
    return planned


def test_a_failing_trial_is_reported_the_others_go_on_and_all_is_taken_up_again(
    trials, tmp_path, capsys
):
    out = tmp_path / "out"
    assert sweep.run(trials, out, jobs=2) == 2
    printed = capsys.readouterr().out
    assert "3 trials, 0 finished before" in printed
    assert "margin=0.2,resolutions=64.0,96.0: FAILED: error: no luck" in printed
    assert "margin=0.1,normalization=frozen: finished" in printed
    assert len(list(sweep.commands(trials))) == 1
    assert (out / "curves.png").exists()

    assert sweep.run(trials, out) == 3
    printed = capsys.readouterr().out
    assert "3 trials, 2 finished before" in printed
    assert "validation/mAP 0.4" in printed
    table = (out / "table.md").read_text().splitlines()
    rows = [line.split() for line in table]
    assert rows[0][1::2] == [
        "loss.margin",
        "views.resolutions",
        "model.normalization",
        "state",
        "validation/mAP",
        "loss",
    ]
    cells = ["0.2", "64.0,96.0", "batch", "finished", "**0.4**", "0.1"]
    assert rows[3][1::2] == cells
    assert rows[4][1:6:2] == ["0.1", "64.0,96.0", "frozen"]
    assert "**0.05**" not in table[2]  # losses of other margins are not compared.
    assert (trials[0].workdir / "log.txt").read_text() == "training\n"


def test_an_interrupted_sweep_tells_its_trials_to_stop_and_waits(
    trials, tmp_path, monkeypatch
):
    program = tmp_path / "main.py"
    program.write_text(
        "import pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[3].removeprefix('--workdir='))\n"
        "def stop(*_):\n"
        "    (folder / 'stopped').touch()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "(folder / 'started').touch()\n"
        "time.sleep(60)\n"
    )

    def interrupted(futures):
        while not (trials[0].workdir / "started").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep.concurrent.futures, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(trials, tmp_path / "out")
    assert (trials[0].workdir / "stopped").exists()
    assert not (trials[1].workdir / "log.txt").exists()


def test_a_trial_of_another_config_has_not_finished(trials, tmp_path):
    sweep.run(trials[:1], tmp_path / "out")
    assert sweep.is_finished(trials[0])
    other = trials[0]._replace(config=trials[1].config)
    assert not sweep.is_finished(other)


@pytest.mark.slow
def test_a_sweep_trains(tmp_path):
    from tests.helpers.tiny_training import draw_images

    (tmp_path / "c" / "mine").mkdir(parents=True)
    (tmp_path / "c" / "configs").symlink_to(ROOT / "configs")
    config = tmp_path / "c" / "mine" / "sweep.py"
    config.write_text(SWEEP)
    images = draw_images(tmp_path / "images")
    arguments = [
        f"--config={config}",
        f"--workdir={tmp_path}/out",
        "--config.steps=2",
        f"--config.data.sources.images.path={images}",
        "--config.devices=1",
        f"--config.data.directory={tmp_path}/data",
    ]
    command = [sys.executable, "main.py", "sweep", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("finished after") == 3
    again = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "3 trials, 3 finished before" in again.stdout
