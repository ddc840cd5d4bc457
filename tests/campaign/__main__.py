"""Runs the campaign from a shell."""

import argparse
import contextlib
import pathlib
import shutil
import sys
import tempfile
import time

from tests.campaign import processes


def main() -> int:
    """Exit status: 1 if a step was wrong."""
    from tests.campaign import runner
    from tests.campaign.lab import Lab

    options = _options(list(runner.KINDS))
    print(f"seed {options.seed}, {options.seconds:.0f} s", flush=True)
    began = time.monotonic()
    base = pathlib.Path(tempfile.mkdtemp(prefix="campaign-"))
    kept = pathlib.Path(options.keep or tempfile.mkdtemp(prefix="campaign-kept-"))
    processes.import_all()
    lab = Lab(base)
    campaign = runner.Campaign(lab, kept, options.seed)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            if options.step:
                kind, name, number = options.step.split("/")
                judgement = campaign.step(kind, name, int(number))
                print(judgement.verdict, ascii(judgement.reason))
            else:
                seconds = options.seconds - (time.monotonic() - began)
                campaign.run(options.kinds, seconds, slow=options.slow)
    finally:
        lab.worker.stop()
        shutil.rmtree(base, ignore_errors=True)
    print(*campaign.lines(), sep="\n")
    if not campaign.failures:
        shutil.rmtree(kept, ignore_errors=True)
    return int(bool(campaign.failures))


def _options(kinds: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign", description="Kills, damages and races."
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(kinds))
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="slow commands, too")
    parser.add_argument("--step", help="one step only: KIND/NAME/NUMBER")
    parser.add_argument("--keep", metavar="DIR", help="for what was wrong")
    options = parser.parse_args()
    options.kinds = options.kinds or kinds
    for kind in options.kinds:
        if kind not in kinds:
            parser.error(f"no kind {kind}; there are {', '.join(kinds)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
