"""Serving global descriptors: LanceDB's tables beside our exact search and faiss.

    python benchmarks/vectors.py [--images=200000] [--dimension=256] [--folder=DIR]

The 100 nearest of one query and of 100, with the share of those that an exact search
finds; the time to build, bytes on disk, and memory taken. Each looks only as hard as
it takes to find 95 %. On a machine with other work the processor's time is what counts.
LanceDB and faiss take part where they are installed, by `pip install 'delf_jax[lance]'
faiss-cpu`. Descriptors are drawn: places with 200 photos about them, whose differences
lie along 32 directions.
"""

import argparse
import gc
import os
import pathlib
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

NEAREST, ENOUGH = 100, 0.95
EFFORTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUERIES = (1, 100)
PHOTOS, DIRECTIONS, SPREAD, NOISE = 200, 32, 0.7, 0.2
PIECE = 50 * PHOTOS

# Queries and an effort to the ids of the nearest.
Search = Callable[..., list]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", metavar="DIR", help="where the table is written")
    names = ["exact", "lancedb", "faiss HNSW", "faiss IVF-PQ"]
    parser.add_argument("--only", choices=names, action="append", default=[])
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:1]
    os.sched_setaffinity(0, cores)  # Before threads are made, of numpy and others.
    os.environ |= {"OMP_NUM_THREADS": "1", "LANCE_CPU_THREADS": "1"}
    import numpy as np

    shape = options.images, options.dimension
    images = np.empty(shape, np.float32)
    for number, piece in enumerate(draw(*shape)):
        images[number * PIECE :][: len(piece)] = piece
    queries = draw_queries(*shape)
    print(f"the {NEAREST} nearest of {shape[0]} x {shape[1]}, one core", flush=True)
    exact = build_exact(images)(queries, 1)
    builders = {
        "exact": lambda: build_exact(images),
        "lancedb": lambda: build_lance(images, options.folder),
        "faiss HNSW": lambda: build_hnsw(images),
        "faiss IVF-PQ": lambda: build_ivf_pq(images),
    }
    for name in options.only or names:
        report(name, builders[name], queries, exact, options.rounds)


def draw(images: int, dimension: int) -> Iterator:
    """Pieces of unit descriptors, the photos of a place one after the other."""
    import numpy as np

    for number in range(-(-images // PIECE)):
        rng = np.random.Generator(np.random.SFC64(number))
        rows = _about(rng, np.repeat(_places(number, dimension), PHOTOS, axis=0))
        yield rows[: images - number * PIECE]


def draw_queries(images: int, dimension: int):
    """Further photos of places of the index."""
    import numpy as np

    rng = np.random.default_rng(2**31)
    chosen = rng.integers(0, max(images // PHOTOS, 1), max(QUERIES)).tolist()
    size = PIECE // PHOTOS
    places = [_places(each // size, dimension)[each % size] for each in chosen]
    return _about(rng, np.stack(places))


def _places(number: int, dimension: int):
    import numpy as np

    rng = np.random.Generator(np.random.SFC64(10**9 + number))
    return rng.standard_normal((PIECE // PHOTOS, dimension), dtype=np.float32)


def _about(rng, centres):
    """Photos of places: they differ along few directions, and by some noise."""
    import numpy as np

    dimension = centres.shape[1]
    axes = np.random.default_rng(0).standard_normal((DIRECTIONS, dimension))
    axes = axes.astype(np.float32) / np.float32(DIRECTIONS**0.5)
    along = rng.standard_normal((len(centres), DIRECTIONS), dtype=np.float32)
    rows = centres + np.float32(SPREAD) * along @ axes
    rows += np.float32(NOISE) * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def report(name: str, build: Callable, queries, exact, rounds: int) -> None:
    """Prints what it takes to build, and to search with the least effort that does."""
    from delf_jax.retrieval import nearest

    gc.collect()
    before, start, busy = _memory(), time.perf_counter(), time.process_time()
    try:
        search = build()
    except ImportError as error:
        print(f"{name}: does not take part ({error})")
        return
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{name}: built in {seconds:.1f} s ({busy:.1f} s of processor)", end="")
    print(f", memory grew by {_memory() - before:.2f} GB", flush=True)
    for effort in EFFORTS:
        found = nearest.recall(search(queries, effort), exact)
        if found >= ENOUGH:
            break
    search(queries[:1], effort)  # Programs for one query are compiled.
    for count in QUERIES:
        times, worked = list[float](), list[float]()
        for number in range(rounds):
            some = queries[number:][:1] if count == 1 else queries
            start = time.perf_counter(), time.process_time()
            search(some, effort)
            times.append(time.perf_counter() - start[0])
            worked.append(time.process_time() - start[1])
        middle, busy = (statistics.median(each) * 1e3 for each in (times, worked))
        print(f"  {count} queries: {middle:.1f} ms ({busy:.1f} of processor)", end="")
    print(f"; recall {found:.2%} (effort {effort})", flush=True)


def build_exact(images) -> Search:
    """Our exact search."""
    from delf_jax.index import global_search

    index = global_search.from_array(images, "float32")
    return lambda some, _: global_search.find_nearest(index, some, NEAREST).ids


def build_lance(images, folder: str | None) -> Search:
    """A table of LanceDB, as an index has it."""
    import atexit

    import lancedb  # noqa: F401
    import numpy as np

    from delf_jax.index.vectors import lance
    from delf_jax.index.vectors.seam import COLUMNS, Owner, Photos

    place = pathlib.Path(tempfile.mkdtemp(dir=folder))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    table = lance.open_table(str(place), Owner("", "", "", images.shape[1]))

    def photos() -> Iterator[Photos]:
        for start in range(0, len(images), PIECE):
            part = images[start : start + PIECE]
            ids = [str(id) for id in range(start, start + len(part))]
            columns = {name: [kind()] * len(part) for name, kind in COLUMNS.items()}
            yield Photos(ids, columns, part)

    table.add(photos())
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    print(f"  {size / len(images):.0f} bytes an image on disk")
    return lambda some, effort: [
        np.array(ids, int) for ids in table.nearest(some, NEAREST, effort=effort)
    ]


def build_hnsw(images) -> Search:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(images.shape[1], 20, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 300
    index.add(images)

    def search(some, effort: int):
        index.hnsw.efSearch = NEAREST * effort
        return index.search(some, NEAREST)[1]

    return search


def build_ivf_pq(images) -> Search:
    """The best four hundred by a byte for eight numbers, compared again."""
    import faiss

    faiss.omp_set_num_threads(1)
    cells, dimension = int(4 * len(images) ** 0.5), images.shape[1]
    coarse = f"IVF{cells},PQ{dimension // 8}x8,RFlat"
    index = faiss.index_factory(dimension, coarse, faiss.METRIC_INNER_PRODUCT)
    index.train(images[:: max(1, len(images) // (40 * cells))])
    index.add(images)
    index.k_factor = 4

    def search(some, effort: int):
        faiss.extract_index_ivf(index.base_index).nprobe = effort
        return index.search(some, NEAREST)[1]

    return search


def _memory() -> float:
    """What this process holds, in GB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


if __name__ == "__main__":
    main()
