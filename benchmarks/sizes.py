"""Programs, time and memory of extracting photos of as many sizes as there are photos.

    python benchmarks/sizes.py [--photos=200] [--longest=1024] [--depth=50]

Photos are drawn, with sides in the proportions that cameras and crops give, upright and
lying. Prints how many different programs there were and how often one was needed that
was not, or no longer, in memory; how many a grid of this kind has at most for such
photos; the time to compile or load them; and the peak memory of the process.
"""

import argparse
import resource
import time

import jax
import numpy as np

from delf_jax.extraction import canvases, extract, model_folder
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.models.architecture import build, fold_batch_norm
from delf_jax.runtime import enable_compilation_cache


def draw_sizes(count: int, longest: int, seed: int = 0) -> list[tuple[int, int]]:
    """Different (height, width): longer sides up to 1.5 times the longest extracted."""
    rng = np.random.default_rng(seed)
    sizes: dict[tuple[int, int], None] = {}
    while len(sizes) < count:
        long = int(rng.uniform(0.5, 1.5) * longest)
        short = int(long * rng.uniform(0.5, 1))
        sizes[(long, short) if rng.random() < 0.5 else (short, long)] = None
    return list(sizes)


def draw_photo(size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(size[0] * 10_000 + size[1])
    return rng.integers(0, 256, (*size, 3), np.uint8)


def all_buckets(settings: ExtractionSettings) -> int:
    """Programs that photos of these proportions can need, whatever their number."""
    longest = settings.max_image_size
    buckets: set[tuple[int, int, bool]] = set()
    for index, scale in enumerate(settings.image_scales):
        sides = np.arange(longest // 4, longest + 1)
        scaled = np.round(np.float32(scale) * sides.astype(np.float32)).astype(int)
        buckets_of = np.array(
            [canvases.bucket_side(int(s + s % 2), settings.grid) for s in scaled]
        )
        for long, canvas in zip(sides, buckets_of, strict=True):
            if long < longest // 2:
                continue
            for other in np.unique(buckets_of[(sides >= long // 2) & (sides <= long)]):
                with_global = index in settings.global_scales
                buckets |= {(canvas, other, with_global), (other, canvas, with_global)}
    return len(buckets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=50)
    options = parser.parse_args()
    enable_compilation_cache()
    architecture = {"name": "delg", "depth": options.depth, "layout": "keras"}
    module = build(architecture)
    image = np.zeros((1, 64, 64, 3), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), image)
    module, variables = fold_batch_norm(module, variables)
    model = model_folder.Model(module, variables, {}, "random", "random")
    settings = ExtractionSettings(max_image_size=options.longest)
    sizes = draw_sizes(options.photos, options.longest)
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compiled.append(seconds) if "backend_compile" in event else None
        )
    )
    programs: set[tuple] = set()
    load = canvases.program

    def counted(module, *key):
        programs.add(key)
        return load(module, *key)

    canvases.program = counted
    start = time.perf_counter()
    photos = (draw_photo(size) for size in sizes)
    for number, _ in enumerate(extract.extract_features(model, photos, settings), 1):
        if number in (1, 2, 5, 10, 20, 50, 100) or number == len(sizes):
            passed = time.perf_counter() - start
            print(
                f"{number:4d} photos: {len(programs):4d} programs, loaded "
                f"{load.cache_info().misses} times, {passed:7.1f} s "
                f"({sum(compiled):.1f} s compiling or loading), "
                f"peak memory {peak_gigabytes():.2f} GB",
                flush=True,
            )
    print(f"at most {all_buckets(settings)} programs, whatever the number of photos")


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
