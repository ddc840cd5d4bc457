"""A training of seconds, for the tests of several files."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from delf_jax.config import read_config
from delf_jax.data.teacher import Targets, Teacher
from delf_jax.models.resnet import ResNet
from delf_jax.training import checkpoints
from delf_jax.training.build import make_static
from delf_jax.training.step import Constants, Static
from tests.helpers.random_models import random_variables

TINY = pathlib.Path(__file__).parents[2] / "configs" / "tiny.py"
STEPS = 4
# A learning rate is stated for 256 images.
PER_BATCH = 256 / 4


def draw_images(root, classes=("a", "b"), each=3):
    """Classes of blurred noise images."""
    rng = np.random.default_rng(0)
    for label in classes:
        (root / label).mkdir(parents=True)
        for number in range(each):
            noise = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            image = cv2.resize(noise, (96, 72), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / label / f"{number}.png"), image)
    return root


def make_config(images, prepared) -> ConfigDict:
    config = read_config(TINY)
    config.steps, config.log_every, config.checkpoint_every = STEPS, 1, 2
    config.data.sources.images.path = str(images)
    config.data.directory = str(prepared)
    config.data.threads = 1
    config.devices = 1
    return config


def plain_static(config, axis_name=None):
    """Plain SGD: Adam's division would enlarge the rounding of the first steps."""
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e-2 * PER_BATCH
    config.optimizer.warmup_steps = 0
    static, _ = make_static(config, 3, axis_name)
    return static


def make_batch(cells=4):
    """Four examples, the last without a label."""
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (4, 2, 64, 64, 3), dtype=np.uint8),
        "label": np.array([0, 1, 2, -1], np.int32),
        "coordinates": rng.uniform(0, 64, (4, 2, cells, cells, 2)).astype(np.float32),
    }


def with_teacher(static, **weights) -> tuple[Static, Constants]:
    """The same step, taught by a random network as large as the student; its arrays.

    weights: of the losses that need it.
    """
    backbone = ResNet(18, 8, "v1.5", "folded")
    names = {"name": "global", "global_dimension": 0, "depth": 18, "width": 8}
    architecture = names | {"layout": "v1.5", "normalization": "folded"}
    variables = {"params": random_variables(architecture)["params"]["backbone"]}
    pixels = ((120.0,) * 3, (60.0,) * 3)
    rng = np.random.default_rng(2)
    channels = {name: backbone.channels(name) for name in ("block3", "block4")}
    targets = Targets(
        {"block3": np.zeros(channels["block3"], np.float32)},
        {"block3": rng.uniform(0.5, 2, channels["block3"]).astype(np.float32)},
        rng.normal(0, 0.01, channels["block4"]).astype(np.float32),
        rng.normal(size=(channels["block4"], 32)).astype(np.float32),
    )
    taught = static._replace(
        teacher=Teacher(backbone, pixels, ("block3",), "0"),
        loss=static.loss._replace(**weights),
    )
    as_arrays = jax.tree.map(np.float32, variables)
    return taught, Constants(teacher=as_arrays, targets=targets)


def by_name(tree):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def final_state(workdir):
    return by_name(checkpoints.read_state(workdir / "checkpoints"))


def lines_of(workdir):
    """What metrics.jsonl holds, but for what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    timing = ("images_per_second",)
    return [
        {n: v for n, v in json.loads(line).items() if n not in timing} for line in lines
    ]


def train_in_process(config_fields, workdir, *, devices=1, multihost=""):
    """`main.py train` of configs/tiny.py, begun in a process of its own.

    A process that is killed loses nothing that this program needs.
    """
    root = TINY.parent.parent
    fields = [f"--config.{name}={value}" for name, value in config_fields.items()]
    command = [
        sys.executable,
        "main.py",
        "train",
        f"--config={TINY}",
        f"--workdir={workdir}",
        *fields,
    ]
    if multihost:
        command.append(f"--multihost={multihost}")
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags}
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
