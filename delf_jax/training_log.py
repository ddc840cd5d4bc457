"""What a training says while it runs, and the check that its numbers are numbers."""

import functools
import pathlib
import time
from collections import deque
from collections.abc import Mapping

import jax
import numpy as np
import optax
from clu import metrics as clu_metrics
from clu import parameter_overview
from ml_collections import ConfigDict

from delf_jax import sharded_classifier
from delf_jax.configuration import as_json
from delf_jax.files import InputError
from delf_jax.metric_writers import MetricWriter
from delf_jax.train_step import (
    Batch,
    Static,
    TrainState,
    create_state,
    train_step,
)

RUN_AHEAD = 2  # steps handed to the device before an earlier one must have ended.


class TrainingLog:
    """Collects the metrics of steps; prints and writes their means at each flush."""

    def __init__(
        self,
        config: ConfigDict,
        folder: pathlib.Path,
        schedule: optax.Schedule,
        first_step: int,
    ):
        self.means: dict[str, float] = {}
        self._steps, self._schedule = config.steps, schedule
        self._batch_size = config.batch_size
        self._pending: list[tuple[int, np.ndarray, clu_metrics.Collection]] = []
        self._flushed, self._since = first_step, time.monotonic()
        self._speeds: deque[float] = deque(maxlen=20)  # recent seconds a step.
        # One host writes; the metrics are the same on all.
        self._writer = None
        if jax.process_index() == 0:
            self._writer = MetricWriter(folder, last_step=first_step)
            self._writer.write_hparams(as_json(config))

    def describe(self, static: Static, state: TrainState, batch: Batch) -> None:
        """Prints the table of parameters and what a step on the batch costs."""
        if self._writer is None:
            return
        overview = parameter_overview.get_parameter_overview
        print(overview(state.params["model"], include_stats=False))
        flops = flops_of_example(static, batch)
        print(
            f"{flops / 1e9:.3g} GFLOP an image, {flops * self._batch_size / 1e9:.3g} "
            "GFLOP a step",
            flush=True,
        )

    def show(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures for TensorBoard, by name."""
        if self._writer is not None:
            self._writer.write_images(step, images)

    def tell(self, step: int, validated: Mapping[str, float]) -> None:
        """Prints and writes the metrics of a validation."""
        named = {f"validation/{name}": value for name, value in validated.items()}
        self.means |= named
        if self._writer is None:
            return
        self._writer.write_scalars(step, named)
        self._writer.flush()
        parts = " ".join(f"{name} {value:.4g}" for name, value in validated.items())
        print(f"step {step}/{self._steps} validation: {parts}", flush=True)

    def add(self, step: int, ids: np.ndarray, metrics: clu_metrics.Collection) -> None:
        """Keeps a step's metrics, still on the device; waits for an earlier step's."""
        self._pending.append((step, ids, metrics))
        if len(self._pending) > RUN_AHEAD:
            jax.block_until_ready(self._pending[-1 - RUN_AHEAD][2])

    def flush(self) -> None:
        """Prints and writes the means since the last flush.

        InputError, naming the step and the images, if a loss is not a finite number.
        """
        if not self._pending:
            return
        merged = None
        for step, ids, on_device in self._pending:
            metrics = jax.device_get(on_device)
            for name, value in metrics.compute().items():
                if not np.isfinite(value):
                    raise InputError(
                        f"step {step}: the {name.replace('_', ' ')} is not a finite "
                        f"number, on the images {', '.join(ids)}; look at them or "
                        "lower optimizer.learning_rate"
                    )
            merged = metrics if merged is None else merged.merge(metrics)
        step = self._pending[-1][0]
        self._pending.clear()
        means = {n: float(v) for n, v in merged.compute().items()}
        means["learning_rate"] = float(self._schedule(step - 1))
        self.means |= means
        self._report(step, means)

    def _report(self, step: int, means: Mapping[str, float]) -> None:
        now = time.monotonic()
        self._speeds.append((now - self._since) / (step - self._flushed))
        self._flushed, self._since = step, now
        # The first flush contains the compilation: the median soon forgets it.
        seconds = float(np.median(self._speeds))
        rate = self._batch_size / self._speeds[-1]
        if self._writer is None:
            return
        self._writer.write_scalars(step, {**means, "images_per_second": rate})
        self._writer.flush()
        parts = " ".join(f"{name} {value:.4g}" for name, value in means.items())
        left = _spoken((self._steps - step) * seconds)
        print(
            f"step {step}/{self._steps} {parts} | {rate:.1f} images/s, {left} left",
            flush=True,
        )

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None:
            self._writer.close()


def flops_of_example(static: Static, batch: Batch) -> float:
    """Floating point operations of a training step for each example.

    As XLA counts them before it optimises, of forward and backward pass: the update
    may know its devices, and takes next to nothing.
    """
    module = sharded_classifier.undivided(static.module)
    module = module.clone(backbone=module.backbone.clone(axis_name=None))
    alone = static._replace(module=module, accumulate=1, optimizer=optax.identity())
    start = functools.partial(create_state, alone, view_size=batch["image"].shape[-2])
    key = jax.eval_shape(jax.random.key, 0)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    step = jax.jit(functools.partial(train_step, static=alone))
    cost = step.lower(jax.eval_shape(start, key), shapes, key).cost_analysis()
    return cost.get("flops", 0.0) / len(batch["image"])


def _spoken(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
