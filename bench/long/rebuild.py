"""The rebuild at its full size: `python -m bench.long.rebuild` (1,000,000 events that carry 20,000,000 results).

What serves is built from the log too, since the live projector takes long for it; its equality with what the projector
keeps up is bench/rebuild.py's. With a smaller log (`--events`, `--results`) only what is right or wrong counts, not how
fast it was: most of a short build is its start and its end. Writes results/rebuild_full.json.
"""

import argparse
import sys

from bench.rebuild import NAMES, Writer, fill, measure, projections, standing_still, vacuum
from bench.support.report import Report
from bench.support.stack import running_stack

EVENTS, RESULTS = 1_000_000, 20_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description="Rebuild a million events and twenty million results.")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--results", type=int, default=RESULTS)
    options = parser.parse_args()
    is_whole = options.events >= EVENTS and options.results >= RESULTS
    report = Report("rebuild_full")
    with running_stack(agent=False) as stack:
        writer = Writer(stack)
        with standing_still(stack):
            written = fill(stack, options.events, options.results, report)
            projections(stack, "rebuild", *NAMES, "--switch")
        projections(stack, "drop", *NAMES)
        vacuum(stack)
        measure(stack, writer, written, report, bounds=is_whole)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
