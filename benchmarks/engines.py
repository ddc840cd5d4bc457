"""Time of extraction by JAX and by OpenVINO, and of the network alone.

    python benchmarks/engines.py [--height=768] [--width=1024] [--rounds=5]

One core, seconds of its processor. ResNet-50 in Keras' layout, random weights, seven
scales with local features and three of them with the global descriptor, and the bundled
model with its own settings. The peer of the network is OpenVINO itself: the same graph,
made for this one size. Needs the extra [openvino].
"""

import argparse
import sys
import time

import jax
import numpy as np
import rounds
from flax.traverse_util import unflatten_dict

from delf_jax.extraction import engines, extract, model_folder
from delf_jax.extraction.settings import ExtractionSettings, settings_for
from delf_jax.files import InputError
from delf_jax.models import architecture
from delf_jax.runtime import enable_compilation_cache

try:
    from delf_jax.extraction.openvino_graph import make_graph, ov
except InputError as error:
    print(error)
    sys.exit()  # `make bench` goes on.

ARCHITECTURE = {"name": "delg", "depth": 50, "layout": "keras"}


def draw_model() -> model_folder.Model:
    """A ResNet-50 whose branches add little, as those of a trained one."""
    module = architecture.build(ARCHITECTURE)
    rng = np.random.default_rng(0)
    drawn = {}
    for name, shape in architecture.expected_shapes(module).items():
        values = rng.normal(size=shape) * 0.05
        if name.endswith("/kernel"):
            values = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif name.endswith(("/var", "/scale")):
            values = rng.uniform(0.5, 1, shape) * (0.3 if "conv3/scale" in name else 1)
        drawn[name] = values.astype(np.float32)
    folded = architecture.fold_batch_norm(module, unflatten_dict(drawn, sep="/"))
    variables = jax.tree.map(jax.numpy.asarray, folded[1])
    return model_folder.Model(folded[0], variables, {}, "random", "ResNet-50")


def compare_network(model: model_folder.Model, image: np.ndarray, count: int) -> None:
    """One canvas of the image's size, to block3 and the local branch."""
    canvas = (image[None].astype(np.float32) - 128) / 128
    inputs = [canvas, np.array([image.shape[:2]], np.int32)]
    graph = make_graph(
        model.module, model.variables, 1, engines.LOCAL, global_branch=False
    )
    fixed = graph.clone()
    fixed.reshape({0: list(canvas.shape), 1: [1, 2]})
    for precision in ("f32", "bf16"):
        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
        contestants = {}
        for name, each in ((f"OpenVINO {precision}", fixed), ("ours", graph)):
            request = ov.Core().compile_model(each, "CPU", hints).create_infer_request()
            contestants[name] = lambda request=request: request.infer(inputs)
        times = rounds.interleave(contestants, count, clock=time.process_time)
        rounds.report(times, peer=f"OpenVINO {precision}")


def compare_extraction(
    model: model_folder.Model,
    settings: ExtractionSettings,
    image: np.ndarray,
    count: int,
) -> None:
    def run(**changes: str):
        changed = settings._replace(**changes)
        return lambda: next(extract.extract_features(model, [image], changed))

    contestants = {
        "JAX float32": run(),
        "OpenVINO float32": run(engine="openvino"),
        "OpenVINO bfloat16": run(engine="openvino", precision="bfloat16"),
    }
    ours, theirs, reduced = (
        contestant().global_descriptor for contestant in contestants.values()
    )
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    print(f"  bfloat16: cosine {float(reduced @ ours):.6f} of global descriptors")
    times = rounds.interleave(contestants, count, clock=time.process_time)
    rounds.report(times, peer="JAX float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds.keep_to_one_core()
    jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (options.height // 16, options.width // 16, 3))
    image = np.kron(coarse, np.ones((16, 16, 1))) + rng.normal(0, 8, (1, 1, 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    bundled = model_folder.load_model()
    for model, settings in (
        (draw_model(), ExtractionSettings(max_image_size=None)),
        (bundled, settings_for(bundled)),
    ):
        print(f"{model.name}, {options.width} x {options.height}: network alone")
        compare_network(model, image, options.rounds)
        print(f"{model.name}: extraction at {len(settings.image_scales)} scales")
        compare_extraction(model, settings, image, options.rounds)


if __name__ == "__main__":
    main()
