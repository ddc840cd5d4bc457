"""What a training prints and writes while it runs: metrics, costs, pictures.

`TrainingLog` collects and checks the metrics of steps; `MetricWriter` has the files,
`metrics.jsonl` and TensorBoard's events, and the run of Weights & Biases; `look` makes
the pictures, and `watch` the numbers that tell early of a network that dies.
"""

import contextlib
import functools
import importlib.util
import json
import pathlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import cv2
import jax
import numpy as np
import optax
from clu import metrics as clu_metrics
from clu import parameter_overview
from flax import linen as nn
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from delf_jax import ops
from delf_jax.config import as_json
from delf_jax.files import InputError, atomic_write, read_text
from delf_jax.progress import format_duration, format_rate
from delf_jax.training import step as training_step
from delf_jax.training.step import (
    NO_CONSTANTS,
    Batch,
    Constants,
    Static,
    TrainState,
    with_views,
    without_axis,
)

RUN_AHEAD = 2  # steps handed to the device before an earlier one must have ended.
SHOWN = 8  # examples of a picture; more are too small to look at.


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
            run = open_wandb(config, folder) if config.get("wandb_project") else None
            self._writer = MetricWriter(folder, last_step=first_step, run=run)
            self._writer.write_hparams(as_json(config))

    def print_model(
        self, static: Static, state: TrainState, batch: Batch, constants: Constants
    ) -> None:
        """Prints the table of parameters and what a step on the batch costs."""
        if self._writer is None:
            return
        overview = parameter_overview.get_parameter_overview
        print(overview(state.params["model"], include_stats=False))
        flops = flops_of_example(static, batch, constants)
        print(
            f"{flops / 1e9:.3g} GFLOP an image, {flops * self._batch_size / 1e9:.3g} "
            "GFLOP a step",
            flush=True,
        )

    def add_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures for TensorBoard, by name."""
        if self._writer is not None:
            self._writer.write_images(step, images)

    def add_validation(self, step: int, validated: Mapping[str, float]) -> None:
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

    def flush(self, watched: Callable[[], Mapping[str, float]] = dict) -> None:
        """Prints and writes the means since the last flush.

        InputError, naming the step and the images, if a loss is not a finite number.

        Args:
          watched: what else is written, asked for only once all losses are finite.
        """
        if not self._pending:
            return
        merged: Any = None
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
        self._pending.clear()
        means = {n: float(v) for n, v in merged.compute().items()}
        means["learning_rate"] = float(self._schedule(step - 1))
        self.means |= means
        self._report(step, means, watched())

    def _report(
        self, step: int, means: Mapping[str, float], watched: Mapping[str, float]
    ) -> None:
        now = time.monotonic()
        self._speeds.append((now - self._since) / (step - self._flushed))
        self._flushed, self._since = step, now
        # The first flush contains the compilation: the median soon forgets it.
        seconds = float(np.median(self._speeds))
        if self._writer is None:
            return
        rate = self._batch_size / self._speeds[-1]
        scalars = {**means, "images_per_second": rate, **watched}
        self._writer.write_scalars(step, scalars)
        self._writer.flush()
        parts = " ".join(f"{name} {value:.4g}" for name, value in means.items())
        speed = format_rate(self._batch_size, self._speeds[-1], "image")
        left = format_duration((self._steps - step) * seconds)
        print(f"step {step}/{self._steps} {parts} | {speed}, {left} left", flush=True)

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None:
            self._writer.close()


def flops_of_example(
    static: Static, batch: Batch, constants: Constants = NO_CONSTANTS
) -> float:
    """Floating point operations of a training step for each example.

    As XLA counts them before it optimises, of forward and backward pass: the update
    may know its devices, and takes next to nothing.
    """
    alone = static._replace(
        module=without_axis(static.module), accumulate=1, optimizer=optax.identity()
    )
    given = jax.eval_shape(lambda *x: x, batch, constants)
    views = jax.eval_shape(functools.partial(with_views, static), *given)
    start = functools.partial(
        training_step.create_state, alone, view_size=views["image"].shape[-2]
    )
    key = jax.eval_shape(jax.random.key, 0)
    step = jax.jit(functools.partial(training_step.train_step, static=alone))
    lowered = step.lower(jax.eval_shape(start, key), given[0], key, given[1])
    cost: Any = lowered.cost_analysis()
    return cost.get("flops", 0.0) / len(batch["label"])


class MetricWriter:
    """Writes `metrics.jsonl` and an event file into a folder.

    Steps after `last_step` that an earlier, interrupted run has left are dropped, so
    that a resumed training reads as one that never stopped.

    Args:
      run: of Weights & Biases, which gets the scalars, too; it keeps what it has got.
    """

    def __init__(
        self, folder: str | pathlib.Path, *, last_step: int = 0, run: Any = None
    ):
        self._run = run
        path = pathlib.Path(folder) / "metrics.jsonl"
        _truncate(path, last_step)
        self._lines = path.open("a", encoding="utf-8")
        purge = {"purge_step": last_step + 1} if last_step else {}
        self._events = SummaryWriter(str(pathlib.Path(folder) / "events"), **purge)

    def write_scalars(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Appends one line and one event for each scalar."""
        values = {name: float(value) for name, value in scalars.items()}
        finite = {n: v if np.isfinite(v) else None for n, v in values.items()}
        self._lines.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(values, step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds RGB images, uint8 [H, W, 3], to the events."""
        for name, image in images.items():
            self._events.add_image(name, image, step, dataformats="HWC")

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Adds the settings of the run to the events, as one indented JSON text."""
        text = json.dumps(dict(hparams), indent=1, default=str)
        self._events.add_text("config", f"```\n{text}\n```", 0)

    def flush(self) -> None:
        """Hands everything written so far to the system."""
        self._lines.flush()
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes both files, and ends the run."""
        self._lines.close()
        self._events.close()
        if self._run is not None:
            self._run.finish()


def check_wandb(config: ConfigDict) -> None:
    """InputError if metrics should go to Weights & Biases, and it is not there."""
    if config.wandb_project and importlib.util.find_spec("wandb") is None:
        raise InputError(
            f"wandb_project is {config.wandb_project!r}, and wandb is not installed: "
            "pip install 'delf_jax[wandb]', or set it to ''"
        )


def open_wandb(config: ConfigDict, folder: pathlib.Path) -> Any:
    """The run of a workdir in the project `config.wandb_project`, begun or resumed.

    Its number lies in the workdir. WANDB_MODE=offline keeps the run there until
    `wandb sync` sends it.
    """
    import wandb

    number = folder / "wandb_run"
    if not number.is_file():
        with atomic_write(number, "w") as file:
            file.write(secrets.token_hex(8))
    try:
        return wandb.init(
            project=config.wandb_project,
            name=folder.resolve().name,
            id=read_text(number).strip(),
            resume="allow",
            dir=folder,
            config=as_json(config),
            settings=wandb.Settings(console="off"),
        )
    except wandb.errors.Error as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"wandb_project: {reason}; run `wandb login`, or set WANDB_MODE=offline"
        ) from None


def _truncate(path: pathlib.Path, last_step: int) -> None:
    """Keeps the whole lines of steps up to `last_step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        # A killed run may have cut a line short, and a disk have changed a byte.
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if json.loads(line)["step"] <= last_step:
                kept.append(line + b"\n")
    with atomic_write(path) as file:
        file.writelines(kept)


def look(static: Static, averages: Any, batch: Batch) -> dict[str, np.ndarray]:
    """A sheet of the batch's views and, with a local branch, one of its attention."""
    views = np.asarray(batch["image"][:SHOWN])
    pictures = {"batch": sheet(views)}
    if hasattr(static.module, "reduced_dimension"):
        first, variables = views[:, 0], jax.tree.map(np.asarray, averages)
        module = without_axis(static.module)
        maps = np.asarray(_attention(module, static.pixels, variables, first))
        overlays = np.stack(list(map(overlay, first, maps)))
        pictures["attention"] = sheet(np.stack([first, overlays], 1))
    return pictures


def watch(static: Static, averages: Any, batch: Batch) -> dict[str, float]:
    """What first views of the batch show of the network, in the original's names.

    Of attention the largest, smallest and mean value and the quartiles, of each block
    the share of zeros, of pixels as the network has them the range. Of a network that
    learns GeM's power also that.
    """
    views = np.asarray(batch["image"][:SHOWN])[:, 0]
    module, variables = without_axis(static.module), jax.tree.map(np.asarray, averages)
    seen = jax.device_get(_see(module, static.pixels, variables, views))
    found = seen["scalars"]
    if "attention" in seen:
        attention = seen["attention"]
        for name in ("max", "min", "mean"):
            found[f"attention/{name}"] = getattr(attention, name)()
        for share in (25, 50, 75):
            # A value that is there, as in the original.
            value = np.percentile(attention, share, method="nearest")
            found[f"attention/percent_{share}"] = value
    if "gem_power" in averages["params"]:
        found["gem_power"] = averages["params"]["gem_power"]
    return {name: float(value) for name, value in found.items()}


def _attention(
    module: nn.Module, pixels: tuple, variables: Mapping, images: np.ndarray
) -> jax.Array:
    return _see(module, pixels, variables, images)["attention"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _see(
    module: nn.Module, pixels: tuple, variables: Mapping, images: jax.Array
) -> dict[str, Any]:
    """{"scalars": {...}}, and the "attention" of a module that has it."""
    normalized = ops.normalize_pixels(images, *pixels)
    outputs, kept = module.apply(
        variables,
        normalized,
        capture_intermediates=lambda each, method: (
            (each.name, method) == ("backbone", "__call__")
        ),
        mutable=["intermediates"],
    )
    (stages,) = kept["intermediates"]["backbone"]["__call__"]
    scalars = {
        "image_range/max": normalized.max(),
        "image_range/min": normalized.min(),
    }
    for name, block in stages.items():
        if name.startswith("block"):  # Others are between the layers of a block.
            scalars[f"sparsity/{name}"] = (block == 0).mean()
    seen: dict[str, Any] = {"scalars": scalars}
    if "attention" in outputs:
        seen["attention"] = outputs["attention"]
    return seen


def sheet(views: UInt8[np.ndarray, "B V S S 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Examples side by side, the views of each below one another."""
    return np.concatenate([np.concatenate(row, 1) for row in views.swapaxes(0, 1)], 0)


def overlay(
    image: UInt8[np.ndarray, "S S 3"], attention: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "S S 3"]:
    """The image, dark where attention is low; brightest at the map's maximum."""
    peak = max(float(attention.max()), 1e-12)
    size_xy = image.shape[1], image.shape[0]
    share = cv2.resize(attention / peak, size_xy, interpolation=cv2.INTER_LINEAR)
    heat = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(image, 0.35, heat[..., ::-1], 0.65, 0)
