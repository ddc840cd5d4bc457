"""What a training says while it runs, and the check that its numbers are numbers."""

import json
import pathlib
import time
from collections import deque
from typing import Any

import jax
import numpy as np
import optax
from clu import metrics as clu_metrics
from clu import parameter_overview
from ml_collections import ConfigDict

from delf_jax.files import InputError
from delf_jax.metric_writers import MetricWriter

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
            self._writer.write_hparams(json.loads(config.to_json_best_effort()))

    def describe(self, params: Any) -> None:
        """Prints the table of parameters."""
        if self._writer is not None:
            overview = parameter_overview.get_parameter_overview
            print(overview(params, include_stats=False), flush=True)

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
            if not np.isfinite(metrics.loss.compute()):
                raise InputError(
                    f"step {step}: the loss is not a finite number, on the images "
                    f"{', '.join(ids)}; look at them or lower optimizer.learning_rate"
                )
            merged = metrics if merged is None else merged.merge(metrics)
        step = self._pending[-1][0]
        self._pending.clear()
        self.means = {n: float(v) for n, v in merged.compute().items()}
        self.means["learning_rate"] = float(self._schedule(step - 1))
        self._report(step)

    def _report(self, step: int) -> None:
        now = time.monotonic()
        self._speeds.append((now - self._since) / (step - self._flushed))
        self._flushed, self._since = step, now
        # The first flush contains the compilation: the median soon forgets it.
        seconds = float(np.median(self._speeds))
        rate = self._batch_size / self._speeds[-1]
        if self._writer is None:
            return
        self._writer.write_scalars(step, {**self.means, "examples_per_second": rate})
        self._writer.flush()
        parts = " ".join(f"{name} {value:.4g}" for name, value in self.means.items())
        left = _spoken((self._steps - step) * seconds)
        print(
            f"step {step}/{self._steps} {parts} | {rate:.1f} examples/s, {left} left",
            flush=True,
        )

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None:
            self._writer.close()


def _spoken(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
