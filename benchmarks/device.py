"""What an accelerator makes of extraction, training and search, in one table.

    bash benchmarks/device.sh [--smoke] [--minutes=8]

Each part is a process of its own, so that one that fails, or finds no time left, costs
its own rows alone:

- agreement: features and training steps there and on the CPU, in float32;
- extraction: photos a second, JPEG files included, beside what the processors decode;
- training: a step of DELG R50, beside PyTorch's compiled one and a large product;
- search: global descriptors held by the accelerator; visual words for ASMK;
- bundled: the training of the bundled model, if .device/ has its photos.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import cv2
import jax
import numpy as np

from delf_jax import images
from delf_jax.extraction import extract, model_folder
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.files import write_bytes
from delf_jax.index import global_search
from delf_jax.models.architecture import build, fold_batch_norm
from delf_jax.retrieval import aggregation
from delf_jax.runtime import enable_compilation_cache
from delf_jax.training import parallel, step

SMALL = {"name": "delg", "depth": 18, "width": 8, "layout": "v1.5"}
Row = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--started", type=float, default=time.time())
    parser.add_argument("--part", help="one alone; prints its rows as JSON")
    parser.add_argument("--values", help="file for what the agreement compares")
    options = parser.parse_args()
    if options.part or options.values:
        enable_compilation_cache()
    if options.values:
        return write_values(options.values, options.smoke)
    if options.part:
        for row in PARTS[options.part](options.smoke):
            print(json.dumps(row), flush=True)
        return
    deadline = options.started + 60 * options.minutes
    table = ["| what | measured |", "|---|---|"]
    for part in PARTS:
        for what, measured in run_part(part, options.smoke, deadline):
            table.append(f"| {what} | {measured} |")
            print(table[-1], flush=True)
        out = pathlib.Path(os.environ.get("OUT", "runs/device/out")) / "device.md"
        write_bytes(out, "\n".join([*table, ""]).encode())
    print(f"the table: {out}")


def run_part(part: str, smoke: bool, deadline: float) -> Iterator[Row]:
    """The rows of a part, from a process of its own; last why there are no more."""
    command = [sys.executable, __file__, f"--part={part}", *["--smoke"][: int(smoke)]]
    start, end = time.time(), max(deadline - time.time(), 1)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=end)
        printed, failed = done.stdout, done.returncode and done.stderr.strip()
    except subprocess.TimeoutExpired as error:
        printed, failed = (error.stdout or b"").decode(), "no time left"
    for line in printed.splitlines():
        if line.startswith("["):
            yield tuple(json.loads(line))
    if failed:
        print(failed, file=sys.stderr)
        yield part, f"**failed**: {failed.splitlines()[-1]:.100}"
    else:
        yield f"{part}: seconds in all", f"{time.time() - start:.0f}"


def measure_agreement(smoke: bool) -> Iterator[Row]:
    """The same features and losses from this device and from the CPU.

    Each in a process of its own: one that has looked at a GPU keeps its memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for platform in ({}, {"JAX_PLATFORMS": "cpu"}):
            path = pathlib.Path(folder) / f"{len(found)}.npz"
            given = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
            command = [sys.executable, __file__, f"--values={path}"]
            command += ["--smoke"][: int(smoke)]
            subprocess.run(command, env=os.environ | given | platform, check=True)
            with np.load(path) as file:
                found.append(dict(file))
    here, there = found
    yield "device", str(here.pop("device"))
    cosines = (here["descriptors"] * there["descriptors"]).sum(axis=1)
    yield "global descriptors there and on the CPU, cosine", f"{cosines.min():.7f}"
    places = [set(map(tuple, each["locations"].tolist())) for each in found]
    same = len(places[0] & places[1]) / max(len(places[1]), 1)
    yield "local features in the same place", f"{same:.1%}"
    for name in filter(here.__contains__, parallel.PARALLEL):
        difference = np.abs(here[name] / there[name] - 1).max()
        yield f"loss and gradient norm of a step, {name}", f"{difference:.1e} apart"


def write_values(path: str, smoke: bool) -> None:
    """Writes features of a small model, and what steps of it give, to a .npz file.

    Compiling the steps is most of it: in a smoke test there are none.
    """
    model = draw_model(SMALL)
    settings = ExtractionSettings(max_image_size=256)
    rng = np.random.default_rng(0)
    photos = [draw_photo(rng, size) for size in ((180, 256), (256, 200))]
    found = list(extract.extract_features(model, photos, settings))
    values: dict[str, Any] = {
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "descriptors": np.stack([x.global_descriptor for x in usable(found)]),
        "locations": np.concatenate([x.local.locations for x in usable(found)]),
    }
    for name in () if smoke else parallel.PARALLEL:
        values[name] = step_of(name)
    np.savez(path, **values)


def usable(found: list) -> list[Features]:
    """The features; raises what stands in the place of some."""
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


def step_of(name: str) -> np.ndarray:
    """(loss, gradient norm) of a training step over all devices."""
    import training

    devices = jax.devices()
    of_step = training.make_static()
    module = build(
        SMALL | {"num_classes": training.CLASSES},
        axis_name=parallel.axis_of(name, "replicated"),
    )
    static = of_step._replace(module=module)
    state = step.create_state(static, jax.random.key(0), view_size=64)
    over = parallel.PARALLEL[name](static, devices)
    batch = training.make_batch(64, 4 * len(devices))
    constants = over.place_constants(step.NO_CONSTANTS)
    given = over.place_state(state), over.place_batch(batch), jax.random.key(1)
    _, metrics = over.step(*given, constants)
    means = metrics.compute()
    return np.array([float(means["loss"]), float(means["gradient_norm"])])


def measure_extraction(smoke: bool) -> Iterator[Row]:
    """Photos a second from JPEG files, with their network and without."""
    size, count = ((96, 128), 4) if smoke else ((768, 1024), 192)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(count):
            paths.append(os.path.join(folder, f"{number}.jpg"))
            cv2.imwrite(paths[-1], draw_photo(rng, size))
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            rate = count / seconds(lambda: list(pool.map(images.open_image, paths)))
        what = f"photos a second of {size[1]} x {size[0]}"
        yield f"{what}: decoded by {os.cpu_count()} threads", f"{rate:.0f}"
        for depth in (SMALL["depth"],) if smoke else (50, 101):
            model = draw_model(
                SMALL if smoke else SMALL | {"depth": depth, "width": 64}
            )
            for precision in ("float32", "bfloat16"):
                settings = ExtractionSettings(
                    max_image_size=max(size), precision=precision
                )

                def run(
                    some: list[str],
                    model: model_folder.Model = model,
                    settings: ExtractionSettings = settings,
                ) -> None:
                    usable(list(extract.extract_features(model, some, settings)))

                run(paths[: count // 2])  # compiles
                rate = count / seconds(lambda run=run: run(paths))
                yield f"{what}: DELG R{depth}, {precision}", f"{rate:.1f}"


def measure_training(smoke: bool) -> Iterator[Row]:
    """What training.py prints of the accelerator."""
    sizes = ["--tiny", "--batch=2", "--size=64", "--rounds=1"]
    given = sizes if smoke else ["--batch=64"]
    script = pathlib.Path(__file__).with_name("training.py")
    command = [sys.executable, str(script), "--device", *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    title, *lines = done.stdout.splitlines()
    for line in lines:
        yield f"training step, {title.rstrip(':')}", " ".join(line.split())


def measure_search(smoke: bool) -> Iterator[Row]:
    """The nearest global descriptors, and visual words."""
    count, dimension, words = (1000, 64, 256) if smoke else (1_000_000, 2048, 65536)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, dimension), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for precision in ("float32", "bfloat16"):
        index = global_search.hold(global_search.from_array(rows, precision))
        for queries in (1, 70):

            def search(
                index: global_search.GlobalIndex = index, queries: int = queries
            ) -> None:
                global_search.find_nearest(index, rows[:queries], 100)

            search()
            spent = min(seconds(search) for _ in range(5))
            yield (
                f"100 nearest of {count} x {dimension}, {precision}, {queries} queries",
                f"{spent * 1e3:.1f} ms",
            )
    codebook = rng.standard_normal((words, 128), dtype=np.float32)
    descriptors = rng.standard_normal((1000, 128), dtype=np.float32)
    placed = jax.device_put(codebook)

    def aggregate() -> None:
        found = aggregation.assign_words(descriptors, placed)
        aggregation.aggregate_asmk(descriptors, found, codebook)

    aggregate()
    spent = min(seconds(aggregate) for _ in range(5))
    yield f"ASMK of 1000 x 128 among {words} words", f"{spent * 1e3:.1f} ms"


def measure_bundled(smoke: bool) -> Iterator[Row]:
    """Steps of the bundled model's training, as device_train.sh takes them."""
    if not pathlib.Path(".device/photos").is_dir():
        yield "training of the bundled model", "not run: no .device/ (device_pack.py)"
        return
    script = pathlib.Path(__file__).with_name("device_train.sh")
    with tempfile.TemporaryDirectory() as folder:
        given = ["30", "--smoke"] if smoke else ["2"]
        environment = os.environ | {"OUT": folder}
        command = ["bash", str(script), *given]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        report = json.loads((pathlib.Path(folder) / "report.json").read_text())
    rate = report["examples_per_second"]
    yield "training of the bundled model, pairs of views a second", f"{rate:.0f}"
    yield "the same, steps a second", f"{rate / report['batch_size']:.2f}"


def draw_model(architecture: dict[str, Any]) -> model_folder.Model:
    """A model of random weights."""
    module = build(architecture)
    image = np.zeros((1, 64, 64, 3), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), image)
    module, variables = fold_batch_norm(module, variables)
    return model_folder.Model(module, variables, {}, "random", "random")


def draw_photo(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise of some pixels' grain."""
    coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
    return cv2.resize(coarse, size[::-1])


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "agreement": measure_agreement,
    "extraction": measure_extraction,
    "training": measure_training,
    "search": measure_search,
    "bundled": measure_bundled,
}

if __name__ == "__main__":
    main()
