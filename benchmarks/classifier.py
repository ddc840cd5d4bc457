"""Bytes and time of a classifier of many landmarks, dense and in pieces.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python benchmarks/classifier.py [--classes=203094] [--dimension=2048]

Only the classifier: descriptors in, ArcFace, gradients, one step of SGD with momentum.
Bytes of a device are those of weights, momentum and gradient, and of the logits that
are kept for the gradient; XLA's own account of the compiled step stands beside them.
--run also times it (on a CPU, give it fewer --classes).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from delf_jax.losses import classification
from delf_jax.models.global_net import CosineClassifier

MIB = 2**20


def estimate(classes: int, dimension: int, batch: int, devices: int) -> dict[str, int]:
    """Bytes a device needs, by part; devices 1: dense, whatever their number."""
    columns = -(-classes // devices)
    weights = 4 * dimension * columns
    return {
        "weights": weights,
        "momentum": weights,
        "gradient": weights,
        "logits": 4 * batch * columns,
    }


def make_step(classes: int, sharded: bool, dtype: str):
    """One step of this device: (kernel, momentum, descriptors, labels) -> the same."""
    axis = "device" if sharded else None
    module = CosineClassifier(classes, 1, axis, dtype)

    def loss_of(kernel, descriptors, labels):
        cosines = module.apply({"params": {"kernel": kernel}}, descriptors)
        if not sharded:
            logits = classification.arcface_logits(cosines, labels, 0.1, 45.25)
            return classification.softmax_cross_entropy(logits, labels).mean()
        labels = jax.lax.all_gather(labels, axis, tiled=True)
        columns = labels - cosines.shape[1] * jax.lax.axis_index(axis)
        logits = classification.arcface_logits(cosines, columns, 0.1, 45.25)
        return classification.sharded_cross_entropy(
            logits, labels, classes, axis
        ).mean()

    def step(kernel, momentum, descriptors, labels):
        gradients = jax.grad(loss_of, (0, 1))(kernel, descriptors, labels)
        gradient = gradients[0]
        if sharded:
            gradient = gradient / jax.lax.axis_size(axis)
        else:
            gradient = jax.lax.pmean(gradient, "device")
        momentum = 0.9 * momentum + gradient
        return kernel - 1e-3 * momentum, momentum, gradients[1]

    return step


def measure(options: argparse.Namespace, sharded: bool) -> None:
    devices, dimension = jax.local_device_count(), options.dimension
    pieces = devices if sharded else 1
    kernel = (dimension, -(-options.classes // pieces))
    each = options.batch // devices
    shapes = [(devices, *kernel)] * 2 if sharded else [kernel] * 2
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    shapes += [
        jax.ShapeDtypeStruct((devices, each, dimension), np.float32),
        jax.ShapeDtypeStruct((devices, each), np.int32),
    ]
    axis = 0 if sharded else None
    step = jax.pmap(
        make_step(options.classes, sharded, options.dtype),
        axis_name="device",
        in_axes=(axis, axis, 0, 0),
        out_axes=(axis, axis, 0),
        donate_argnums=(0, 1),
    )
    name = "sharded" if sharded else "dense"
    parts = estimate(
        options.classes, dimension, options.batch if sharded else each, pieces
    )
    told = ", ".join(f"{n} {x / MIB:.0f}" for n, x in parts.items())
    print(f"{name}: {sum(parts.values()) / MIB:.0f} MiB a device by count: {told}")
    compiled = step.lower(*shapes).compile()
    memory = compiled.memory_analysis()
    if memory is not None:
        given, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        print(f"  as compiled: {given / MIB:.0f} MiB given, {temporary / MIB:.0f} more")
    if options.run:
        rng = np.random.default_rng(0)
        arrays = [
            jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in shapes[:3]
        ]
        labels = rng.integers(options.classes, size=shapes[3].shape).astype(np.int32)
        kernel, momentum, seconds = *arrays[:2], []
        for _ in range(5):
            start = time.perf_counter()
            kernel, momentum, last = step(kernel, momentum, arrays[2], labels)
            jax.block_until_ready(last)
            seconds.append(time.perf_counter() - start)
        print(f"  {1e3 * np.median(seconds[1:]):.1f} ms a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=203_094)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256, help="over all devices")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--run", action="store_true")
    options = parser.parse_args()
    print(
        f"{options.classes} classes of {options.dimension} dimensions, "
        f"{jax.local_device_count()} devices, batch {options.batch}, {options.dtype}"
    )
    for sharded in (False, True):
        measure(options, sharded)


if __name__ == "__main__":
    main()
