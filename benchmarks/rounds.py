"""Times of contestants in interleaved rounds, so that all meet the same load."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping


def keep_to_one_core() -> None:
    """Keeps this process to one core, for which it starts anew if it has several.

    A BLAS that is loaded has counted them already: its threads would then wait for each
    other on the one, and a product of matrices take ten times as long.
    """
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, {min(cores)})
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a call: every contestant `calls` times in a row each round.

    One call of each goes before, unmeasured.

    Args:
      clock: `time.process_time` leaves out what others do on the core meanwhile, where
        a contestant neither waits nor has processes of its own.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            start = clock()
            for _ in range(calls):
                run()
            times[name].append((clock() - start) / calls)
    return times


def report(times: Mapping[str, list[float]], peer: str) -> None:
    """Prints medians, minima, and how many times faster than the peer each one is."""
    reference = statistics.median(times[peer])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"  {name:32s} median {median * 1e3:9.2f} ms   "
            f"min {min(seconds) * 1e3:9.2f} ms   {reference / median:7.2f}x"
        )
