"""Numbers of a training as lines of JSON and as TensorBoard events.

The methods carry the names of clu's writers, which need TensorFlow; these do not.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
from tensorboardX import SummaryWriter

from delf_jax.files import atomic_write


class MetricWriter:
    """Writes `metrics.jsonl` and an event file into a folder.

    Steps after `last_step` that an earlier, interrupted run has left are dropped, so
    that a resumed training reads as one that never stopped.
    """

    def __init__(self, folder: str | pathlib.Path, *, last_step: int = 0):
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

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds RGB images, uint8 [H, W, 3], to the events."""
        for name, image in images.items():
            self._events.add_image(name, image, step, dataformats="HWC")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Adds texts, which TensorBoard shows as Markdown, to the events."""
        for name, text in texts.items():
            self._events.add_text(name, text, step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Adds the settings of the run to the events, as one indented JSON text."""
        text = json.dumps(dict(hparams), indent=1, default=str)
        self.write_texts(0, {"config": f"```\n{text}\n```"})

    def flush(self) -> None:
        """Hands everything written so far to the system."""
        self._lines.flush()
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes both files."""
        self._lines.close()
        self._events.close()


def _truncate(path: pathlib.Path, last_step: int) -> None:
    """Keeps the whole lines of steps up to `last_step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # a line that a killed run has cut short.
    with atomic_write(path, "w") as file:
        file.writelines(kept)
