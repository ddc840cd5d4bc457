"""Trains the bundled model for some minutes; benchmarks/device_train.sh calls this.

A short first leg measures how fast the machine is. Then the number of steps is set so
that the schedule ends with the time. Every checkpoint becomes a model in $OUT, so that
a machine that goes away early has left one.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from delf_jax.config import override_fields
from delf_jax.files import write_json
from delf_jax.runtime import enable_compilation_cache
from delf_jax.training import checkpoints, inputs, train
from delf_jax.training.config import read_training_config
from delf_jax.training.step import TrainState

PACK, HERE = pathlib.Path(".device"), pathlib.Path("runs/device")
WORKDIR, REPORT = HERE / "run", HERE / "report.json"
TO_END = 25.0  # seconds for the last checkpoint and the model.
BETWEEN_MODELS = 40.0  # seconds.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float)
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps")
    parser.add_argument("--started", type=float, default=time.time())
    options, overrides = parser.parse_known_args()
    deadline = options.started + 60 * options.minutes
    enable_compilation_cache()
    out = pathlib.Path(os.environ["OUT"])
    config = make_config(options.smoke)
    override_fields(config, overrides)
    print(f"{len(jax.devices())} x {jax.devices()[0].device_kind}", flush=True)
    with bringing_home(config, out), ending(deadline - TO_END / 2):
        if not REPORT.exists():
            write_json(REPORT, first_leg(config))
        report = json.loads(REPORT.read_text())
        steps = 3 if options.smoke else steps_until(deadline, config, report)
        if steps < config.log_every:
            print("too little time is left to go on: call it again", flush=True)
        else:
            plan(config, newest_step() + steps, report)
            outcome = train.train(config, str(WORKDIR))
            report |= {"steps": outcome.step, "finished": outcome.finished}
    report |= {
        "batch_size": config.batch_size,
        "seconds": time.time() - options.started,
    }
    report["device"] = jax.devices()[0].device_kind
    write_json(out / REPORT.name, report)


def make_config(smoke: bool) -> ConfigDict:
    """The config of the bundled model, on what is packed and for a large GPU."""
    config = read_training_config("configs/delg_tiny.py")
    with config.unlocked():
        for name, source in config.data.sources.items():
            packed = {"path": str(PACK / "photos" / name / "labels.csv")}
            kept = {n: source[n] for n in ("unlabelled", "weight") if n in source}
            config.data.sources[name] = ConfigDict(packed | kept)
    config.teacher.model = str(PACK / "teacher")
    config.data.directory = str(HERE / "data")
    config.data.threads = os.cpu_count() or 1
    config.batch_size = 128
    # 4e-3 at this batch: Adam's grows far less than the batch does.
    config.optimizer.learning_rate = 8e-3
    config.precision = "bfloat16"
    config.images_every, config.log_every = 0, 20
    if (PACK / "start").is_dir():
        config.init_from = str(PACK / "start")
        config.teacher.forced_steps = 0
    if smoke:
        config.batch_size, config.log_every = 4, 1
        config.views.size, config.views.resolutions = 64, (64.0, 96.0)
        config.teacher.fit_on = config.teacher.dimension = 8
        config.model.global_dimension = 8
        config.optimizer.warmup_steps = 1
    return config


def first_leg(config: ConfigDict) -> dict[str, float]:
    """How many examples a second are trained on, and seconds until the first is.

    What is prepared once is prepared before the clock starts; the last third of the
    steps is timed.
    """
    inputs.open_constants(config, inputs.open_sources(config))
    since = time.time()
    config.steps = 3 * config.log_every
    if not train.train(config, str(WORKDIR)).finished:
        raise SystemExit("too little time to measure the speed: call it again")
    lines = (WORKDIR / "metrics.jsonl").read_text().splitlines()
    speed = json.loads(lines[-1])["images_per_second"]
    trained = config.steps * config.batch_size / speed
    start = max(time.time() - since - trained, 0.0)
    print(f"{speed:.0f} examples a second, {start:.0f} s to start", flush=True)
    return {"examples_per_second": speed, "seconds_to_start": start}


def steps_until(deadline: float, config: ConfigDict, report: dict[str, Any]) -> int:
    """How many steps fit in the time that is left."""
    left = deadline - time.time() - report["seconds_to_start"] - TO_END
    return int(left * report["examples_per_second"] / config.batch_size)


def plan(config: ConfigDict, steps: int, report: dict[str, Any]) -> None:
    """Sets how long to train, and how often to save."""
    second = report["examples_per_second"] / config.batch_size
    config.steps = steps
    config.checkpoint_every = max(int(BETWEEN_MODELS * second), 1)
    print(f"until step {steps}, a checkpoint every {config.checkpoint_every}")


def newest_step() -> int:
    """Of the checkpoints on disk; 0 without one."""
    names = [path.name for path in WORKDIR.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


@contextlib.contextmanager
def ending(when: float) -> Iterator[None]:
    """Stops a training that still runs at a time, after a checkpoint.

    What is done before or after one is not interrupted.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)
    seconds = max(when - time.time(), 0.0)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def bringing_home(config: ConfigDict, out: pathlib.Path) -> Iterator[None]:
    """Writes each new checkpoint as a model to `out`, and the last one in the end."""
    over = threading.Event()

    def watch() -> None:
        last = 0
        while not over.wait(5.0):
            if (step := newest_step()) != last and bring(config, out):
                last = step

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        bring(config, out)


def bring(config: ConfigDict, out: pathlib.Path) -> bool:
    """Writes the model of the newest checkpoint, and what was measured, to `out`."""
    try:
        state = checkpoints.read_state(WORKDIR / "checkpoints")
        checkpoints.write_model(config, TrainState(**state), None, out, None)
        shutil.copyfile(WORKDIR / "metrics.jsonl", out / "metrics.jsonl")
    except Exception as error:  # of a checkpoint that is just being replaced, any.
        print(f"not brought home yet: {error}", flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
