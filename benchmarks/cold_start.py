"""Seconds from the start of Python to the first result, as a command would take them.

    python benchmarks/cold_start.py [--model=DIR] [--longest=1024] [--rounds=3]

Each round is a process of its own that reads one photo and extracts it with the bundled
model: first with an empty compilation cache, then with the cache that this one filled.
Then `match` of two photos of different sizes, with a cache, processor time.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

FIRST_RESULT = """
import sys
from delf_jax.extraction import extract, model_folder, settings
from delf_jax.runtime import enable_compilation_cache
enable_compilation_cache()
model = model_folder.load_model(sys.argv[2] or None)
chosen = settings.settings_for(model)
features = next(extract.extract_features(model, [sys.argv[1]], chosen))
print(len(features.local.scales))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="folder (default: the bundled one)")
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = os.path.join(folder, "photo.jpg")
        shape = (options.longest * 3 // 4, options.longest, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        Image.fromarray(noise).save(photo)
        environment = os.environ | {"DELF_JAX_CACHE": os.path.join(folder, "cache")}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, "-c", FIRST_RESULT, photo, options.model]
        other = os.path.join(folder, "other.jpg")
        Image.fromarray(noise[: len(noise) * 8 // 9]).save(other)
        figure = f"--out={folder}/matches.png"
        match = [sys.executable, "-m", "delf_jax", "match", photo, other, figure]
        times, spent = [], []
        for _ in range(1 + options.rounds):
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        for _ in range(1 + options.rounds):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(match, env=environment, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(
                after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            )
    print(f"first result, empty cache: {times[0]:6.1f} s")
    print(f"first result, warm cache:  {statistics.median(times[1:]):6.1f} s (median)")
    print(f"match, processor time:     {statistics.median(spent[1:]):6.1f} s (median)")


if __name__ == "__main__":
    main()
