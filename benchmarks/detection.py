"""Time of detectors and of suppression, ours beside torchvision's, each by itself.

    python benchmarks/detection.py [--rounds=5] [--only=ssd,faster_rcnn,suppression]

One core, seconds of its processor, random weights, one photo of 640x480 from pixels to
boxes: SSD on MobileNetV2 at 320 pixels beside ssdlite320_mobilenet_v3_large, whose
backbone is a third as dear; Faster R-CNN on ResNet-50, one map of stride 16 and 100
proposals, beside fasterrcnn_resnet50_fpn, five maps and 1000 proposals, both at 640
pixels; and the best 100 of 1917 boxes. Every contestant has a process of its own.
"""

import argparse
import concurrent.futures
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rounds

PROPOSED, KEPT, IOU = 1917, 100, 0.6
Run = Callable[[], Any]


def draw_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)


def draw_boxes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    low, sides = (
        rng.uniform(0, 0.8, (PROPOSED, 2)),
        rng.uniform(0.02, 0.4, (PROPOSED, 2)),
    )
    boxes = np.concatenate([low, low + sides], 1).astype(np.float32)
    return boxes, rng.random(PROPOSED).astype(np.float32)


def ours(**architecture: Any) -> Run:
    """Our detector, its weights drawn so that no map explodes."""
    from flax.traverse_util import unflatten_dict

    import delf_jax
    from delf_jax.extraction import model_folder
    from delf_jax.models import architecture as networks

    module, rng = networks.build(architecture), np.random.default_rng(0)
    drawn = {}
    for name, shape in networks.expected_shapes(module).items():
        values = (
            np.ones(shape) if name.endswith(("/var", "/scale")) else np.zeros(shape)
        )
        if name.endswith("/kernel"):
            values = rng.normal(size=shape) * np.sqrt(1 / np.prod(shape[:-1]))
        drawn[name] = values.astype(np.float32)
    folded = networks.fold_batch_norm(module, unflatten_dict(drawn, sep="/"))
    config = {"architecture": architecture, "extraction": {}}
    model, image = model_folder.Model(*folded, config, "", "random"), draw_image()
    return lambda: delf_jax.detect(image, model, threshold=0.0)


def theirs(name: str, **settings: Any) -> Run:
    """A detector of torchvision."""
    import torch
    import torchvision

    torch.set_num_threads(1)
    make = getattr(torchvision.models.detection, name)
    model = make(weights=None, weights_backbone=None, num_classes=2, **settings).eval()
    image = draw_image()

    def run() -> Any:
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            return model([pixels])

    return run


def our_suppression() -> Run:
    import jax

    from delf_jax.models.detectors.anchors import suppress

    boxes, scores = map(jax.numpy.asarray, draw_boxes())
    run = jax.jit(lambda boxes, scores: suppress(boxes, scores, KEPT, IOU))
    return lambda: jax.block_until_ready(run(boxes, scores))


def their_suppression() -> Run:
    import torch
    import torchvision

    torch.set_num_threads(1)
    boxes, scores = map(torch.from_numpy, draw_boxes())
    return lambda: torchvision.ops.nms(boxes, scores, IOU)[:KEPT]


def our_ssd() -> Run:
    return ours(name="ssd", backbone="mobilenet_v2", image_size=320)


def our_faster_rcnn() -> Run:
    return ours(name="faster_rcnn", depth=50, image_size=640)


def their_ssd() -> Run:
    return theirs("ssdlite320_mobilenet_v3_large")


def their_faster_rcnn() -> Run:
    return theirs("fasterrcnn_resnet50_fpn", min_size=640, max_size=640)


# By what is done: ours and the peer's.
CONTESTS = {
    "ssd": {"ours": our_ssd, "torchvision": their_ssd},
    "faster_rcnn": {"ours": our_faster_rcnn, "torchvision": their_faster_rcnn},
    "suppression": {"ours": our_suppression, "torchvision": their_suppression},
}
_here: dict[str, Run] = {}  # Of a contestant's process.


def prepare(make: Callable[[], Run]) -> None:
    """In the process of a contestant: makes it, and runs it once."""
    _here["run"] = make()
    _here["run"]()


def measure(calls: int) -> float:
    """Seconds of the processor that a call takes."""
    start = time.process_time()
    for _ in range(calls):
        _here["run"]()
    return (time.process_time() - start) / calls


def compare(contest: dict[str, Callable[[], Run]], count: int, calls: int) -> None:
    context = multiprocessing.get_context("spawn")
    processes, times = {}, {}
    for name, make in contest.items():
        process = concurrent.futures.ProcessPoolExecutor(1, context)
        try:
            process.submit(prepare, make).result()
        except ImportError as error:
            print(f"  {name} is left out: {error}; pip install torch torchvision")
            continue
        processes[name], times[name] = process, []
    for _ in range(count):
        for name, process in processes.items():
            times[name].append(process.submit(measure, calls).result())
    rounds.report(times, peer=list(times)[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CONTESTS))
    options = parser.parse_args()
    rounds.keep_to_one_core()
    for name in options.only.split(","):
        print(name)
        compare(CONTESTS[name], options.rounds, 20 if name == "suppression" else 1)


if __name__ == "__main__":
    main()
