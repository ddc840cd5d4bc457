"""The folder that a finished training leaves for every other command."""

import functools
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from delf_jax import checkpoints, weights
from delf_jax.configuration import as_json
from delf_jax.train_step import TrainState


def write_model(
    config: ConfigDict,
    state: TrainState,
    best: int | None,
    folder: pathlib.Path,
    whiten: Callable[[Any, pathlib.Path], dict[str, Any]] | None,
) -> None:
    """Writes the averaged model as the folder that every other command reads.

    Where a validation chooses, that of the best checkpoint, else that of the last step.
    """
    step, averages = int(state.step), state.ema
    if best is not None and best != step:
        step = best
        averages = checkpoints.read_state(folder / "checkpoints", best)["ema"]
    provenance = {"config": as_json(config), "steps": step, "revision": revision()}
    averages, extraction = jax.tree.map(np.asarray, averages), config.extraction
    extraction = extraction.to_dict()
    if whiten is not None:
        extraction["global_pca"] = whiten(averages, folder / "model")
    rest = averages, extraction, provenance
    weights.save_model(folder / "model", config.model.to_dict(), *rest)
    print(f"model of step {step} written to {folder / 'model'}", flush=True)


@functools.cache
def revision() -> str:
    """The git revision of this code, empty where it is not a checkout."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()
