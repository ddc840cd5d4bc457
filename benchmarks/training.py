"""Time of one training step of DELG, beside TensorFlow's and PyTorch's.

    python benchmarks/training.py [--batch=4] [--size=321] [--rounds=3] [--device]
                                  [--tiny]

One core, float32: ResNet-50 in Keras' layout with batch statistics, GeM and whitening,
ArcFace, attention and autoencoder as [DELG] trains them, gradient clipping, SGD with
momentum; the same random weights on both sides, whose losses and gradient norms must
agree. TensorFlow (extra [tf]) and PyTorch (channels last) run where they are installed,
each in a process of its own: one that loads both crashes.
With --device the accelerator is timed in float32 and bfloat16, beside the compiled step
of PyTorch and a large matrix product there.
"""

import argparse
import contextlib
import functools
import importlib.util
import multiprocessing
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rounds
from flax.traverse_util import flatten_dict

from delf_jax.models import architecture
from delf_jax.models.resnet import LAYOUTS, UNITS
from delf_jax.runtime import enable_compilation_cache
from delf_jax.training import objective
from delf_jax.training.step import Static, TrainState, create_state, train_step

Arrays = dict[str, np.ndarray]
Step = Callable[[], object]
CLASSES, MARGIN, SCALE, CLIP = 1000, 0.1, 45.25, 10.0
RATE, MOMENTUM = 0.005, 0.9
ARCHITECTURE = {
    **{"name": "delg", "depth": 50, "layout": "keras"},
    "num_classes": CLASSES,
}
# To see that it runs.
TINY = ARCHITECTURE | {"depth": 18, "width": 8, "layout": "v1.5"}
LOSS = objective.LossSettings(
    **{"arcface": 1.0, "attention": 1.0, "reconstruction": 10.0},
    **{"margin": MARGIN, "scale": SCALE},
)


def make_static(precision: str | None = None, network: dict = ARCHITECTURE) -> Static:
    module = architecture.build(network)
    module = module.clone(backbone=module.backbone.clone(compute_dtype=precision))
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.trace(MOMENTUM),
        optax.scale_by_learning_rate(RATE),
    )
    grey = (128.0,) * 3
    return Static(
        module=module,
        optimizer=optimizer,
        loss=LOSS,
        ema_decay=0.0,
        pixel_mean=grey,
        pixel_std=grey,
    )


def flops_of(step, *arguments) -> float:
    """Floating-point operations of a step, as XLA counts them."""
    return step.lower(*arguments).compile().cost_analysis()["flops"]


def make_step(static: Static):
    step = functools.partial(train_step, static=static)
    return jax.jit(step, donate_argnums=(0,))


def make_batch(size: int, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch, 1, size, size, 3), np.uint8),
        "label": rng.integers(0, CLASSES, batch).astype(np.int32),
    }


class Peer:
    """The step as the original wrote it, in a TensorFlow graph."""

    def __init__(self, params: Arrays, stats: Arrays):
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.tf = tf
        self.params = {n: tf.Variable(x) for n, x in params.items()}
        self.stats = {n: tf.Variable(x) for n, x in stats.items()}
        self.slots = {n: tf.Variable(tf.zeros_like(x)) for n, x in self.params.items()}
        self.step = tf.function(self._step)

    def _convolve(self, x, scope: str, stride: int = 1, padding: str = "VALID"):
        tf = self.tf
        x = tf.nn.conv2d(x, self.params[f"{scope}/kernel"], stride, padding)
        if f"{scope}/bias" in self.params:
            x = tf.nn.bias_add(x, self.params[f"{scope}/bias"])
        if f"{scope}/scale" not in self.params:
            return x
        y, mean, var, *_ = tf.compat.v1.nn.fused_batch_norm(
            x,
            self.params[f"{scope}/scale"],
            self.params[f"{scope}/offset"],
            epsilon=LAYOUTS["keras"]["epsilon"],
            is_training=True,
        )
        keep = LAYOUTS["keras"]["momentum"]
        for name, value in (("mean", mean), ("var", var)):
            kept = self.stats[f"{scope}/{name}"]
            kept.assign(keep * kept + (1 - keep) * value)
        return y

    def _block(self, x, block: int):
        relu = self.tf.nn.relu
        for number in range(UNITS[50][block - 1]):
            scope = f"backbone/block{block}_unit{number + 1}"
            stride = 2 if block > 1 and number == 0 else 1
            y = relu(self._convolve(x, f"{scope}/conv1", stride))
            y = relu(self._convolve(y, f"{scope}/conv2", padding="SAME"))
            y = self._convolve(y, f"{scope}/conv3")
            if number == 0:
                x = self._convolve(x, f"{scope}/shortcut", stride)
            x = relu(x + y)
        return x

    def _dense(self, x, scope: str):
        return x @ self.params[f"{scope}/kernel"] + self.params[f"{scope}/bias"]

    def _losses(self, images, labels):
        tf = self.tf
        x = (tf.cast(images, tf.float32) - 128) / 128
        x = tf.nn.relu(self._convolve(x, "backbone/conv1", 2, "SAME"))
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        for block in (1, 2, 3):
            x = self._block(x, block)
        block3, block4 = tf.stop_gradient(x), self._block(x, 4)
        pooled = tf.reduce_mean(tf.maximum(block4, 1e-6) ** 3, [1, 2]) ** (1 / 3)
        descriptor = tf.math.l2_normalize(self._dense(pooled, "whitening"), axis=1)
        centres = tf.math.l2_normalize(self.params[self._centres()], axis=0)
        cosines = tf.clip_by_value(descriptor @ centres, -1 + 1e-7, 1 - 1e-7)
        own = tf.one_hot(labels, CLASSES)
        moved = tf.cos(tf.acos(cosines) + MARGIN)
        logits = SCALE * (own * moved + (1 - own) * cosines)
        y = tf.nn.relu(self._convolve(block3, "local/attention/conv1"))
        attention = tf.nn.softplus(self._convolve(y, "local/attention/conv2"))
        reduced = self._convolve(block3, "local/autoencoder/reduce")
        expanded = tf.nn.relu(self._convolve(reduced, "local/autoencoder/expand"))
        attended = tf.math.l2_normalize(expanded, axis=-1) * attention
        attended = tf.reduce_mean(attended, [1, 2])
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        scores = self._dense(attended, "local/attention_classifier")
        return (
            tf.reduce_mean(entropy(labels, logits))
            + tf.reduce_mean(entropy(labels, scores))
            + 10 * tf.reduce_mean((block3 - expanded) ** 2)
        )

    def _centres(self) -> str:
        (name,) = (n for n in self.params if n.startswith("classifier"))
        return name

    def _step(self, images, labels):
        tf = self.tf
        with tf.GradientTape() as tape:
            loss = self._losses(images, labels)
        names = list(self.params)
        gradients = tape.gradient(loss, [self.params[n] for n in names])
        clipped, norm = tf.clip_by_global_norm(gradients, CLIP)
        for name, gradient in zip(names, clipped, strict=True):
            slot = self.slots[name]
            slot.assign(MOMENTUM * slot + gradient)
            self.params[name].assign_sub(RATE * slot)
        return loss, norm


def tensorflow_step(params: Arrays, stats: Arrays, batch: Arrays) -> Step:
    """A function that takes a step in TensorFlow and gives loss and gradient norm."""
    peer, images = Peer(params, stats), batch["image"][:, 0]
    return lambda: [float(x) for x in peer.step(images, batch["label"])]


def torch_step(params: Arrays, stats: Arrays, batch: Arrays, **options: str) -> Step:
    """The same in PyTorch."""
    import torch
    from torch_step import TorchStep

    if "device" not in options:
        torch.set_num_threads(1)
    numbers = {"margin": MARGIN, "scale": SCALE, "clip": CLIP}
    numbers |= {"rate": RATE, "momentum": MOMENTUM}
    return TorchStep(params, stats, batch, numbers, **options).step


def apart(
    make: Callable[..., Step], state: TrainState, batch: Arrays, **options: str
) -> Step:
    """The step of a peer, which `make` makes in a process of its own."""
    given = (
        {name: np.asarray(x) for name, x in flatten_dict(tree, sep="/").items()}
        for tree in (state.params["model"], state.batch_stats, batch)
    )
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    made = functools.partial(make, *given, **options)
    context.Process(target=_serve, args=(made, theirs), daemon=True).start()
    theirs.close()

    def step() -> object:
        ours.send(None)
        return ours.recv()

    return step


def _serve(make: Callable[[], Step], connection) -> None:
    """Takes a step for each message, until the other end closes."""
    step = make()
    with contextlib.suppress(EOFError):
        while True:
            connection.recv()
            connection.send(step())


PEERS = {
    "TensorFlow": ("tensorflow", tensorflow_step),
    "PyTorch": ("torch", torch_step),
}


def installed(name: str) -> bool:
    """Whether a peer is installed; prints if it is not."""
    found = importlib.util.find_spec(PEERS[name][0]) is not None
    if not found:
        print(f"  {name} is not installed")
    return found


def on_cpu(options: argparse.Namespace) -> None:
    """Ours and the peer, on one core."""
    static, batch = make_static(), make_batch(options.size, options.batch)
    start = functools.partial(create_state, static, view_size=64)
    state = jax.jit(start)(jax.random.key(0))
    key, step = jax.random.key(1), make_step(static)
    print(f"R50 DELG, {options.batch} x {options.size} px, one core:")
    print(f"  {flops_of(step, state, batch, key) / 1e9:.0f} GFLOP a step (XLA's count)")
    contestants = {
        name: apart(make, state, batch)
        for name, (_, make) in PEERS.items()
        if installed(name)
    }
    held = [step(state, batch, key)]
    means = held[0][1].compute()
    ours = float(means["loss"]), float(means["gradient_norm"])
    for peer in contestants.values():
        np.testing.assert_allclose(ours, peer(), rtol=2e-3)
    if contestants:
        print("  the same loss and gradient norm from all")

    def run() -> None:
        held[0] = step(held[0][0], batch, key)
        jax.block_until_ready(held[0])

    contestants["ours"] = run
    times = rounds.interleave(contestants, options.rounds)
    rounds.report(times, peer=next(iter(times)))


@jax.jit
def _product(matrix: jax.Array) -> jax.Array:
    return matrix @ matrix


def multiply(matrix: jax.Array) -> None:
    _product(matrix).block_until_ready()


def on_device(options: argparse.Namespace) -> None:
    """Ours on the accelerator: images a second, and the share of its best product."""
    network, product = (TINY, 64) if options.tiny else (ARCHITECTURE, 8192)
    print(
        f"R{network['depth']} DELG, {options.batch} x {options.size} px, "
        f"{jax.devices()[0]}:"
    )
    precisions = ((None, jnp.float32), ("bfloat16", jnp.bfloat16))
    for precision, dtype in precisions[: 1 if options.tiny else 2]:
        static = make_static(precision, network)
        batch = make_batch(options.size, options.batch)
        batch = jax.device_put(batch)
        start = functools.partial(create_state, static, view_size=64)
        state, key = jax.jit(start)(jax.random.key(0)), jax.random.key(1)
        step = make_step(static)
        flops = flops_of(step, state, batch, key)
        given = jax.device_get((state, batch))
        device = {"device": "cuda", "precision": precision}
        peer = None
        if not options.tiny and installed("PyTorch"):
            peer = apart(torch_step, *given, **device)
        held = [step(state, batch, key)]

        def run(step=step, held=held, batch=batch, key=key) -> None:
            held[0] = step(held[0][0], batch, key)
            jax.block_until_ready(held[0])

        matrix = jnp.ones((product, product), dtype)
        contestants = {"step": run, "product": functools.partial(multiply, matrix)}
        if peer:
            contestants["PyTorch, compiled"] = peer
        times = rounds.interleave(contestants, options.rounds, calls=5)
        seconds = {name: statistics.median(found) for name, found in times.items()}
        best = 2 * product**3 / seconds["product"]
        print(
            f"  {jnp.dtype(dtype).name:9s} {options.batch / seconds['step']:8.1f} "
            f"images/s   {flops / seconds['step'] / 1e12:6.1f} TFLOP/s, "
            f"{flops / seconds['step'] / best:.2f} of a product of "
            f"{product} x {product}"
        )
        if peer:
            theirs = seconds["PyTorch, compiled"]
            print(
                f"  PyTorch, compiled {options.batch / theirs:8.1f} images/s, ours "
                f"{theirs / seconds['step']:.2f}x"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=321)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", action="store_true", help="the accelerator")
    parser.add_argument("--tiny", action="store_true", help="a small network, with it")
    options = parser.parse_args()
    if options.device:
        return on_device(options)
    # Before either of them looks at the machine.
    rounds.keep_to_one_core()
    jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()
    on_cpu(options)


if __name__ == "__main__":
    main()
