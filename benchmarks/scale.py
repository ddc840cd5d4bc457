"""What a million, a hundred million and a billion photos take: sums, not measured.

    python benchmarks/scale.py [--model=delg_r50] [--FIELD=NUMBER ...]

What one photo takes was measured (docs/benchmarks.md), what a GPU does is assumed; here
it is multiplied. Each number of `Costs` is an option, so that those of
your model and machines can take its place. What the list of photos takes in memory is
measured in this call.
"""

import argparse
import tracemalloc
from typing import NamedTuple

COUNTS = (1_000_000, 100_000_000, 1_000_000_000)
NAMES = ("1 million", "100 million", "1 billion")
# Photos of which the list is made to see what it takes.
_LISTED = 20_000


class Costs(NamedTuple):
    """What one photo, or one query, takes."""

    seconds: float
    """of a core, to extract a photo"""
    gpu: float
    """photos that a GPU extracts in a second; assumed, not measured"""
    features: int
    dimension: int
    """of local descriptors"""
    global_dimension: int
    exact: float
    """seconds of a core to compare a query with a million, of many asked at once"""
    table: float
    """bytes of a photo in a table of LanceDB, index and all (benchmarks/vectors.py)"""
    words: float = 9_971
    """bytes of a photo in an inverted file of ASMK*"""
    verification: float = 0.43
    """seconds of a core, for the hundred candidates of a query"""
    photo: int = 300_000
    """bytes of a JPEG of 1024 pixels"""
    cores: int = 64
    """of a machine"""
    memory: float = 256
    """of a machine, in GB"""
    index: int = 10_000_000
    """photos of one index"""


MODELS = {
    "bundled": Costs(0.6, 500, 1000, 64, 256, 0.005, 1500),
    "delg_r50": Costs(5.7, 50, 1000, 128, 2048, 0.04, 10_300),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="bundled")
    for name in Costs._fields:
        parser.add_argument(f"--{name}", type=float)
    options = vars(parser.parse_args())
    costs = MODELS[options.pop("model")]
    given = {name: value for name, value in options.items() if value is not None}
    costs = costs._replace(**given)
    print("one photo:", ", ".join(f"{k} {v:g}" for k, v in costs._asdict().items()))
    listed = measure_list()
    rows = {"photos": NAMES}
    for name, number in sums(costs, listed).items():
        rows[name] = [number(count) for count in COUNTS]
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
        if name == "photos":
            print("|---|---|---|---|")
    print("one query, however many photos there are:")
    for line in of_a_query(costs):
        print(f"- {line}")


def sums(costs: Costs, listed: float) -> dict:
    """What is in each row of the table, as functions of how many photos there are."""
    local = costs.features * (4 * costs.dimension + 16)
    whole = 4 * costs.global_dimension
    day = 86_400 * 10 * costs.cores

    def machines(count: int) -> str:
        held = count * (listed + whole) / 1e9
        return f"{max(1, -(-held // (0.75 * costs.memory))):.0f}"

    return {
        "extraction, hours of one core": lambda n: f"{n * costs.seconds / 3600:,.0f}",
        f"... days of 10 machines of {costs.cores:g} cores": lambda n: (
            f"{n * costs.seconds / day:,.2f}"
        ),
        f"... hours of one GPU (assumed: {costs.gpu:g} photos a second)": lambda n: (
            f"{n / costs.gpu / 3600:,.0f}"
        ),
        "the photos themselves": lambda n: size(n * costs.photo),
        f"local features ({costs.features:g} x {costs.dimension:g})": lambda n: size(
            n * local
        ),
        f"global descriptors ({costs.global_dimension:g}), float32": lambda n: size(
            n * whole
        ),
        "... int8": lambda n: size(n * (whole / 4 + 4)),
        "... in tables of LanceDB": lambda n: size(n * costs.table),
        "inverted file of ASMK*": lambda n: size(n * costs.words),
        f"lists of photos in memory ({listed:.0f} bytes each)": lambda n: size(
            n * listed
        ),
        f"indexes of {costs.index:,.0f} photos": lambda n: (
            f"{max(1, -(-n // costs.index)):g}"
        ),
        "exact search, core seconds a query": lambda n: f"{n / 1e6 * costs.exact:,.3g}",
        f"machines of {costs.memory:g} GB that hold lists and descriptors": machines,
    }


def of_a_query(costs: Costs) -> list[str]:
    """What a query touches beside the table or the descriptors."""
    local = costs.features * (4 * costs.dimension + 16)
    return [
        f"its own extraction: {costs.seconds:g} s of a core",
        f"100 candidates' global descriptors: {size(400 * costs.global_dimension)}",
        f"their local features: {size(100 * local)} in 100 places of the shards",
        f"verification: {costs.verification:g} s of a core",
    ]


def measure_list() -> float:
    """Bytes of memory that a store takes for each of its photos, features not read."""
    import pathlib

    import numpy as np

    from delf_jax.features import Features
    from delf_jax.store.feature_store import FeatureStore
    from delf_jax.store.shards import Record, hold_shard
    from delf_jax.store.writer import current_records

    features = Features(None, np.zeros(1, np.float32), (1, 1))
    tracemalloc.start()
    records = [
        Record(f"folder_{n % 100}/photo_{n}.jpg", 1, "extracted", "", n, n, f"{n:064x}")
        for n in range(_LISTED)
    ]
    shard = hold_shard(pathlib.Path("x"), "x", records, [features] * _LISTED)
    store = FeatureStore(pathlib.Path("x"), {}, current_records([shard]))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / len(store)


def size(number: float) -> str:
    """Bytes, in words."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


if __name__ == "__main__":
    main()
