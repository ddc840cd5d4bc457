"""Time of extracting one image, beside a TensorFlow graph of the same layers.

    python benchmarks/extraction.py [--height=768] [--width=1024] [--rounds=5]

One core; ResNet-50 in Keras' layout with the same random weights on both sides; seven
scales with local features, three of them with the global descriptor (the original
computes it at all seven and throws four away; the peer here does not). Both must find
the same features. Needs the extra [tf].
"""

import argparse

import jax
import numpy as np
import rounds
import tensorflow as tf
from flax.traverse_util import flatten_dict, unflatten_dict

from delf_jax.extraction import extract, model_folder
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.models import architecture
from delf_jax.models.resnet import LAYOUTS, UNITS
from delf_jax.runtime import enable_compilation_cache

ARCHITECTURE = {"name": "delg", "depth": 50, "layout": "keras"}
SETTINGS = ExtractionSettings(max_image_size=None, locations="delf")
EPSILON = LAYOUTS["keras"]["epsilon"]


def draw_variables(module, seed: int = 0) -> dict:
    """Random variables of plausible sizes, statistics of BatchNorm included."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    shapes = flatten_dict(jax.eval_shape(module.init, key, image), sep="/")
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, x in shapes.items():
        values = rng.normal(size=x.shape)
        if name.endswith("/kernel"):
            values *= np.sqrt(2 / np.prod(x.shape[:-1]))
        elif name.endswith("/var") or name.endswith("/scale"):
            values = rng.uniform(0.5, 1, x.shape)
            # Residual branches that add little keep the values in range.
            values *= 0.3 if "conv3/scale" in name else 1
        else:
            values *= 0.05
        drawn[name] = values.astype(np.float32)
    return unflatten_dict(drawn, sep="/")


class TensorFlowGraph:
    """The original's graph: BatchNorm kept, one level after another, NMS at the end."""

    def __init__(self, variables: dict):
        named = flatten_dict(variables, sep="/")
        self.variables = {name: tf.constant(x) for name, x in named.items()}
        self.extract = tf.function(
            self._extract, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)]
        )

    def _convolve(self, x, scope: str, stride: int = 1, padding: str = "VALID"):
        x = tf.nn.conv2d(x, self.variables[f"params/{scope}/kernel"], stride, padding)
        x = tf.nn.bias_add(x, self.variables[f"params/{scope}/bias"])
        if f"params/{scope}/scale" not in self.variables:
            return x
        return tf.compat.v1.nn.fused_batch_norm(
            x,
            self.variables[f"params/{scope}/scale"],
            self.variables[f"params/{scope}/offset"],
            self.variables[f"batch_stats/{scope}/mean"],
            self.variables[f"batch_stats/{scope}/var"],
            epsilon=EPSILON,
            is_training=False,
        )[0]

    def _block(self, x, block: int):
        for number in range(UNITS[50][block - 1]):
            scope = f"backbone/block{block}_unit{number + 1}"
            stride = 2 if block > 1 and number == 0 else 1
            y = tf.nn.relu(self._convolve(x, f"{scope}/conv1", stride))
            y = tf.nn.relu(self._convolve(y, f"{scope}/conv2", padding="SAME"))
            y = self._convolve(y, f"{scope}/conv3")
            if number == 0:
                x = self._convolve(x, f"{scope}/shortcut", stride)
            x = tf.nn.relu(x + y)
        return x

    def _whiten(self, block4):
        pooled = tf.reduce_mean(tf.maximum(block4, 1e-6) ** 3, [1, 2]) ** (1 / 3)
        kernel = self.variables["params/whitening/kernel"]
        return pooled @ kernel + self.variables["params/whitening/bias"]

    def _extract(self, image):
        image = (tf.cast(image, tf.float32) - 128) / 128
        boxes, scores, descriptors, scales, whole = [], [], [], [], []
        for scale, image_scale in enumerate(SETTINGS.image_scales):
            size = tf.cast(tf.shape(image)[:2], tf.float32) * image_scale
            size = tf.cast(tf.round(size), tf.int32)
            x = tf.image.resize(image[None], size)
            x = tf.nn.relu(self._convolve(x, "backbone/conv1", 2, "SAME"))
            x = tf.nn.max_pool2d(x, 3, 2, "VALID")
            for block in (1, 2, 3):
                x = self._block(x, block)
            if scale in SETTINGS.global_scales:
                whole.append(self._whiten(self._block(x, 4)))
            y = tf.nn.relu(self._convolve(x, "local/attention/conv1"))
            y = tf.nn.softplus(self._convolve(y, "local/attention/conv2"))
            reduced = self._convolve(x, "local/autoencoder/reduce")
            rows, columns = tf.meshgrid(
                tf.range(tf.shape(x)[1]), tf.range(tf.shape(x)[2]), indexing="ij"
            )
            centres = tf.cast(tf.stack([rows, columns], -1), tf.float32) * 16
            box = tf.concat([centres - 145, centres + 145], -1) / image_scale
            boxes.append(tf.reshape(box, [-1, 4]))
            scores.append(tf.reshape(y, [-1]))
            descriptors.append(tf.reshape(reduced, [-1, reduced.shape[-1]]))
            scales.append(tf.fill([tf.size(y)], 1 / image_scale))
        boxes, scores = tf.concat(boxes, 0), tf.concat(scores, 0)
        kept = tf.image.non_max_suppression(boxes, scores, SETTINGS.max_features, 1.0)
        descriptors = tf.gather(tf.concat(descriptors, 0), kept)
        whole = tf.math.l2_normalize(tf.concat(whole, 0), axis=1)
        return {
            "locations": tf.gather((boxes[:, :2] + boxes[:, 2:]) / 2, kept),
            "scales": tf.gather(tf.concat(scales, 0), kept),
            "attention": tf.gather(scores, kept),
            "descriptors": tf.math.l2_normalize(descriptors, axis=1),
            "global_descriptor": tf.math.l2_normalize(tf.reduce_sum(whole, 0), axis=0),
        }


def check_equal(ours, theirs: dict) -> None:
    """Both found the same: descriptors within rounding, nearly the same selection."""
    found = np.asarray(theirs["global_descriptor"])
    np.testing.assert_allclose(ours.global_descriptor, found, atol=1e-5)
    found = np.asarray(theirs["attention"])
    np.testing.assert_allclose(ours.local.attention, found, rtol=1e-3)
    places = [
        {tuple(row) for row in np.round(np.c_[locations, scales], 1).tolist()}
        for locations, scales in (
            (ours.local.locations, ours.local.scales),
            (np.asarray(theirs["locations"]), np.asarray(theirs["scales"])),
        )
    ]
    assert len(places[0] & places[1]) >= 0.99 * len(places[0]), "other features"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # Before either of them looks at the machine.
    rounds.keep_to_one_core()
    jax.config.update("jax_platforms", "cpu")
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    enable_compilation_cache()
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (options.height // 16, options.width // 16, 3))
    size = (options.height, options.width)
    image = tf.image.resize(coarse, size).numpy() + rng.normal(0, 8, (*size, 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    module = architecture.build(ARCHITECTURE)
    variables = draw_variables(module)
    graph = TensorFlowGraph(variables)
    contestants = {"TensorFlow": lambda: jax.tree.map(np.asarray, graph.extract(image))}
    theirs = contestants["TensorFlow"]()
    network, folded = architecture.fold_batch_norm(module, variables)
    on_device = jax.tree.map(jax.numpy.asarray, folded)
    model = model_folder.Model(network, on_device, {}, "random", "ours")

    def run():
        return next(extract.extract_features(model, [image], SETTINGS))

    check_equal(run(), theirs)
    contestants["ours"] = run
    print(f"{options.width} x {options.height}, ResNet-50, 7 local + 3 global scales:")
    print("the same features from both")
    times = rounds.interleave(contestants, options.rounds)
    rounds.report(times, peer="TensorFlow")


if __name__ == "__main__":
    main()
