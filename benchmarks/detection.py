"""Time of detectors and of suppression, ours beside TensorFlow and torchvision.

    python benchmarks/detection.py [--rounds=5] [--only=ssd,faster_rcnn,suppression]

One core, seconds of its processor, random weights, one photo of 640x480 from pixels to
boxes: SSD on MobileNetV2 at 320 pixels beside the same layers in TensorFlow, a graph of
constants, and beside ssdlite320_mobilenet_v3_large, whose backbone is a third as dear;
Faster R-CNN on ResNet-50, one map of stride 16 and 100 proposals, beside
fasterrcnn_resnet50_fpn, five maps and 1000 proposals, both at 640 pixels; and the best
100 of 1917 boxes. Every contestant has a process of its own.
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


def tensorflow_ssd() -> Run:
    """The layers of models/detectors/ssd.py, of Keras."""
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    from delf_jax.models.detectors import anchors, ssd

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    layers = tf.keras.layers

    def active(layer: Any, x: Any) -> Any:
        return layers.ReLU(6)(layers.BatchNormalization()(layer(x)))

    def conv(channels: int) -> Any:
        return layers.Conv2D(channels, 1, use_bias=False)

    def depthwise(stride: int = 1) -> Any:
        return layers.DepthwiseConv2D(3, stride, "same", use_bias=False)

    net = tf.keras.applications.MobileNetV2((320, 320, 3), weights=None)
    maps = [net.get_layer(n).output for n in ("block_13_expand_relu", "out_relu")]
    for channels in ssd.EXTRA:
        x = active(depthwise(2), active(conv(channels // 2), maps[-1]))
        maps.append(active(conv(channels), x))
    logits, offsets, places = [], [], []
    for x, shapes in zip(maps, anchors.ssd_shapes(len(maps)), strict=True):
        for found, size in ((logits, 1), (offsets, 4)):
            last = layers.Conv2D(size * len(shapes), 1)
            found.append(layers.Reshape((-1, size))(last(active(depthwise(), x))))
        places.append(anchors.grid_anchors(x.shape[1:3], shapes))
    outputs = [tf.keras.ops.concatenate(x, axis=1) for x in (logits, offsets)]
    module = tf.keras.Model(net.inputs, outputs)
    low, high = np.split(np.concatenate(places), 2, axis=1)
    middle, sides = (low + high) / 2, high - low

    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    def detect(pixels: Any) -> Any:
        squeezed = tf.image.resize(pixels, (320, 320))[None] / 127.5 - 1
        logits, offsets = (x[0] for x in module(squeezed, training=False))
        moved = offsets[:, :2] / anchors.CENTRE_SCALE * sides
        half = sides * tf.exp(offsets[:, 2:] / anchors.SIDE_SCALE) / 2
        boxes = tf.concat([middle + moved - half, middle + moved + half], 1)
        scores = tf.sigmoid(logits[:, 0] + ssd.PRIOR)
        boxes = tf.clip_by_value(boxes, 0, 1)
        rows = tf.image.non_max_suppression(boxes, scores, KEPT, IOU)
        return tf.gather(boxes, rows), tf.gather(scores, rows)

    whole = detect.get_concrete_function()
    frozen = convert_to_constants.convert_variables_to_constants_v2(whole)
    image = tf.constant(draw_image())
    return lambda: [x.numpy() for x in frozen(image)]


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


# By what is done: ours and the peers'.
CONTESTS = {
    "ssd": {
        "ours": our_ssd,
        "TensorFlow": tensorflow_ssd,
        "torchvision": their_ssd,
    },
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
            print(f"  {name} is left out: {error}: install torchvision or tensorflow")
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
