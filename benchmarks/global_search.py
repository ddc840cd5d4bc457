"""Time of finding the most similar global descriptors, beside faiss.

    python benchmarks/global_search.py [--threads=1] [--images=200000]
    python benchmarks/global_search.py --disk=DIR --images=1000000

First: the descriptors in memory, 1, 16 and 70 queries, the 100 nearest, and what
reduced precision costs in recall. faiss takes part where it is installed (`pip install
faiss-cpu`). With --disk: an index that is written to files in that folder and mapped,
in all precisions; they take 14 KB an image at 2048 dimensions, and are deleted in the
end. Descriptors are drawn: places with photos about them, as in a collection.
"""

import argparse
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator

DIMENSION, NEAREST = 2048, 100
QUERIES = (1, 16, 70)
# Photos of a place; their spread makes neighbours of a place 0.6 to 0.8 similar.
PHOTOS, SPREAD = 25, 0.7
PIECE = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=DIMENSION)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--disk", metavar="DIR", help="write the index, and map it")
    options = parser.parse_args()
    # Before numpy and jax are imported: both count the cores then.
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(len(cores))
    print(
        f"the {NEAREST} nearest of {options.images} x {options.dimension}, "
        f"{len(cores)} threads"
    )
    run = search_on_disk if options.disk else compare_in_memory
    run(options)


def draw(images: int, dimension: int) -> Iterator:
    """Pieces of unit descriptors."""
    import numpy as np

    places = max(images // PHOTOS, 1)
    scale = np.float32(SPREAD)
    for start in range(0, images, PIECE):
        rng = np.random.default_rng(start)
        count = min(PIECE, images - start)
        rows = rng.standard_normal((count, dimension), dtype=np.float32)
        rows *= scale
        # Centres are drawn again wherever they are needed: they would not fit.
        chosen = rng.integers(0, places, count)
        for row, place in enumerate(chosen):
            rows[row] += _centre(place, dimension)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield rows


def _centre(place: int, dimension: int):
    import numpy as np

    rng = np.random.Generator(np.random.SFC64(int(place)))
    return rng.standard_normal(dimension, dtype=np.float32)


def draw_queries(images: int, dimension: int):
    """Further photos of places of the index."""
    import numpy as np

    rng = np.random.default_rng(2**31)
    places = rng.integers(0, max(images // PHOTOS, 1), max(QUERIES))
    rows = np.stack([_centre(place, dimension) for place in places])
    rows += np.float32(SPREAD) * rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def compare_in_memory(options: argparse.Namespace) -> None:
    import numpy as np
    import rounds

    from delf_jax import global_search
    from delf_jax.retrieval import nearest

    images = np.empty((options.images, options.dimension), np.float32)
    for number, piece in enumerate(draw(*images.shape)):
        images[number * PIECE :][: len(piece)] = piece
    indexes = {
        precision: global_search.from_array(images, precision)
        for precision in nearest.PRECISIONS
    }
    flat = _faiss(images, options.threads)
    queries = draw_queries(*images.shape)
    print_recall(indexes, queries, flat)
    for count in QUERIES:
        some = queries[:count]
        contestants = {
            precision: lambda index=index, some=some: global_search.find_nearest(
                index, some, NEAREST
            )
            for precision, index in indexes.items()
        }
        name = "float32"
        if flat is not None:
            name = "faiss IndexFlatIP"
            contestants[name] = lambda some=some: flat.search(some, NEAREST)
        print(f"{count} queries")
        rounds.report(rounds.interleave(contestants, options.rounds), peer=name)


def _faiss(images, threads: int):
    try:
        import faiss
    except ImportError:
        print("  faiss is not installed and does not take part")
        return None
    faiss.omp_set_num_threads(threads)
    flat = faiss.IndexFlatIP(images.shape[1])
    flat.add(images)
    return flat


def print_recall(indexes: dict, queries, flat=None) -> None:
    """What is found of what float32 finds, with and without comparing again."""
    from delf_jax import global_search
    from delf_jax.retrieval import nearest

    exact = global_search.find_nearest(indexes["float32"], queries, NEAREST)
    if flat is not None:
        found = nearest.recall(flat.search(queries, NEAREST)[1], exact.ids)
        print(f"  of ours in float32 faiss finds {found:.4%}")
    for precision, index in indexes.items():
        values = index.rows.values
        size = values.shape[1] * values.itemsize + 4 * (precision == "int8")
        alone = index._replace(originals=None)
        plain, again = (
            nearest.recall(
                global_search.find_nearest(each, queries, NEAREST).ids, exact.ids
            )
            for each in (alone, index)
        )
        print(
            f"  {precision:10s} {size:5d} bytes an image, recall {plain:.4%}, compared "
            f"again {again:.4%}"
        )


def search_on_disk(options: argparse.Namespace) -> None:
    """The same from mapped files, written piece by piece."""
    import numpy as np

    from delf_jax import global_search
    from delf_jax.global_search import Descriptors
    from delf_jax.retrieval import nearest
    from delf_jax.retrieval.nearest import Rows

    shape = options.images, options.dimension
    with tempfile.TemporaryDirectory(dir=options.disk) as folder:
        start = time.perf_counter()
        rows = {name: _write(pathlib.Path(folder), name, shape) for name in _PARTS}
        for number, piece in enumerate(draw(*shape)):
            part = slice(number * PIECE, number * PIECE + len(piece))
            for precision in nearest.PRECISIONS:
                kept = nearest.quantize(piece, precision)
                rows[precision][part] = kept.values.view(rows[precision].dtype)
                if kept.scales is not None:
                    rows["scales"][part] = kept.scales
        for each in rows.values():
            each.flush()
        print(f"  drawn and written in {time.perf_counter() - start:.0f} s")
        indexes = {}
        for precision, dtype in nearest.PRECISIONS.items():
            values = np.asarray(rows[precision]).view(dtype)
            scales = np.asarray(rows["scales"]) if precision == "int8" else None
            originals = None if precision == "float32" else rows["float32"].__getitem__
            # Unit vectors, as they are kept.
            indexes[precision] = Descriptors(
                Rows(values, scales), 1.02, originals=originals
            )
        queries = draw_queries(*shape)
        print_recall(indexes, queries)
        for precision, index in indexes.items():
            for count in QUERIES:
                times = []
                for _ in range(3):
                    start = time.perf_counter()
                    global_search.find_nearest(index, queries[:count], NEAREST)
                    times.append(time.perf_counter() - start)
                median = statistics.median(times)
                print(
                    f"  {precision:10s} {count:3d} queries: {median:7.3f} s, "
                    f"{median / count * 1e3:8.1f} ms a query"
                )
        print_memory()
    print_on_paper(options.dimension)


# Of numpy's memory maps; bfloat16 is kept as what it is two bytes of.
_PARTS = {"float32": "f4", "bfloat16": "u2", "int8": "i1", "scales": "f4"}


def _write(folder: pathlib.Path, name: str, shape: tuple[int, int]):
    import numpy as np

    shape = shape if name != "scales" else shape[:1]
    return np.memmap(folder / name, _PARTS[name], "w+", shape=shape)


def print_memory() -> None:
    """The most memory that was used: mapped files, and what is this process's own."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = dict(
        line.split(":", 1)
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
    )
    own = int(status["RssAnon"].split()[0]) / 2**20
    print(
        f"  {peak:.1f} GB at most with pages of mapped files, {own:.1f} GB its own now"
    )


def print_on_paper(dimension: int) -> None:
    """What a hundred million images take: bytes times images, nothing measured."""
    images = 10**8
    for precision, size in (
        ("float32", 4 * dimension),
        ("bfloat16", 2 * dimension),
        ("int8", dimension + 4),
    ):
        print(
            f"  100 million in {precision}: {images * size / 1e9:.0f} GB, which each "
            "block of queries passes over"
        )


if __name__ == "__main__":
    main()
