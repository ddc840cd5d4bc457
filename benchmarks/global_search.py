"""Time of finding the most similar global descriptors, beside faiss.

    python benchmarks/global_search.py [--threads=1] [--images=200000]
    python benchmarks/global_search.py --disk=DIR --images=1000000

First: the descriptors in memory, 1, 16 and 70 queries, the 100 nearest, and what
reduced precision costs in recall. faiss takes part where it is installed (`pip install
faiss-cpu`). With --disk: an index that is written to a file in that folder and mapped,
in one precision after the other; a million images of 2048 dimensions take 8.2 GB, then
4.1, then 2.1, and nothing is left. Descriptors are drawn: places with photos about
them, as in a collection.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator

DIMENSION, NEAREST = 2048, 100
QUERIES = (1, 16, 70)
# Of a place; with this spread, two photos of it have a similarity of about two thirds.
PHOTOS, SPREAD = 25, 0.7
# Drawn at once.
PIECE = 320 * PHOTOS


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
    """Pieces of unit descriptors, the photos of a place one after the other."""
    import numpy as np

    for number in range(-(-images // PIECE)):
        rng, centres = _draw_places(number, dimension)
        rows = rng.standard_normal((PIECE, dimension), dtype=np.float32)
        rows *= np.float32(SPREAD)
        rows += np.repeat(centres, PHOTOS, axis=0)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield rows[: images - number * PIECE]


def _draw_places(number: int, dimension: int) -> tuple:
    """The generator of a piece, and the centres of its places."""
    import numpy as np

    rng = np.random.Generator(np.random.SFC64(number))
    return rng, rng.standard_normal((PIECE // PHOTOS, dimension), dtype=np.float32)


def draw_queries(images: int, dimension: int):
    """Further photos of places of the index."""
    import numpy as np

    rng = np.random.default_rng(2**31)
    chosen = rng.integers(0, max(images // PHOTOS, 1), max(QUERIES)) * PHOTOS
    places = [
        _draw_places(place // PIECE, dimension)[1][place % PIECE // PHOTOS]
        for place in chosen
    ]
    rows = rng.standard_normal((len(places), dimension), dtype=np.float32)
    rows = np.stack(places) + np.float32(SPREAD) * rows
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def compare_in_memory(options: argparse.Namespace) -> None:
    import numpy as np
    import rounds

    from delf_jax.index import global_search
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
    from delf_jax.index import global_search
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
    """The same from mapped files, one precision after the other."""
    from delf_jax.index import global_search
    from delf_jax.retrieval import nearest

    shape = options.images, options.dimension
    queries = draw_queries(*shape)
    exact = None
    for precision in nearest.PRECISIONS:
        with tempfile.TemporaryDirectory(dir=options.disk) as folder, watch() as most:
            start = time.perf_counter()
            index = _write(pathlib.Path(folder), precision, shape)
            seconds = time.perf_counter() - start
            size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())
            print(f"{precision}: {size / options.images:.0f} bytes an image", end="")
            print(f", drawn and written in {seconds:.0f} s")
            for count in QUERIES:
                times = []
                for _ in range(options.rounds):
                    start = time.perf_counter()
                    global_search.find_nearest(index, queries[:count], NEAREST)
                    times.append(time.perf_counter() - start)
                median = statistics.median(times)
                each = f"{median / count * 1e3:8.1f} ms a query"
                print(f"  {count:3d} queries: median {median:7.3f} s, {each}")
            found = [
                global_search.find_nearest(index, queries, factor * NEAREST).ids
                for factor in (1, global_search.AGAIN)
            ]
            exact = found[0] if exact is None else exact
            plain, again = (nearest.recall(ids, exact) for ids in found)
            print(f"  recall {plain:.4%}, among twice as many {again:.4%}")
        print(f"  {most['own']:.2f} GB of its own at most, besides the mapped file")
        # The last, of as many queries as there are.
        print_on_paper(size / options.images, median, options.images)


def _write(folder: pathlib.Path, precision: str, shape: tuple[int, int]):
    """An index that is mapped."""
    import numpy as np

    from delf_jax.index.global_search import GlobalIndex, largest_norm
    from delf_jax.retrieval import nearest
    from delf_jax.retrieval.nearest import Rows

    norm = 0.0
    with open(folder / "values", "wb") as values, open(folder / "scales", "wb") as file:
        for piece in draw(*shape):
            rows = nearest.quantize(piece, precision)
            norm = max(norm, largest_norm(rows))
            values.write(rows.values.view(np.uint8).data)
            if rows.scales is not None:
                file.write(rows.scales.data)
    values = np.asarray(np.memmap(folder / "values", np.uint8, "r"))
    values = values.view(nearest.PRECISIONS[precision]).reshape(shape)
    scales = None
    if precision == "int8":
        scales = np.asarray(np.memmap(folder / "scales", np.float32, "r"))
    return GlobalIndex(Rows(values, scales), norm)


@contextlib.contextmanager
def watch() -> Iterator[dict[str, float]]:
    """The most memory, in GB, that is not mapped from files while this is open."""
    most, done = {"own": 0.0}, threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            text = pathlib.Path("/proc/self/status").read_text()
            kilobytes = int(text.split("RssAnon:")[1].split()[0])
            most["own"] = max(most["own"], kilobytes / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def print_on_paper(size: float, seconds: float, images: int) -> None:
    """What a hundred million images would take: multiplied up, not measured."""
    size, seconds = 1e8 * size / 1e9, 1e8 * seconds / images
    print(
        f"  on paper, 100 million: {size:.0f} GB, and {seconds:.0f} s for "
        f"{max(QUERIES)} queries with all in memory; of 16 such machines each "
        f"{size / 16:.0f} GB and {seconds / 16:.0f} s"
    )


if __name__ == "__main__":
    main()
