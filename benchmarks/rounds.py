"""Times of contestants in interleaved rounds, so that all meet the same load."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(
    contestants: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call: every contestant once per round, after one unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def report(times: Mapping[str, list[float]], peer: str) -> None:
    """Prints medians, minima, and how many times faster than the peer each one is."""
    reference = statistics.median(times[peer])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"  {name:32s} median {median * 1e3:9.2f} ms   "
            f"min {min(seconds) * 1e3:9.2f} ms   {reference / median:7.1f}x"
        )
