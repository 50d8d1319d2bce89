"""Measures a rebuild at full size, 1,000,000 events with 20,000,000 results: `./dev long rebuild`.

The live tables are bulk loaded as well, since the live projector would take long, and the workers do not follow the
history; bench/rebuild.py compares a rebuild with the live projector's rows, and lets the workers follow. With a smaller
log (`--events`, `--results`) there are bounds only for correctness, none for speed: a short rebuild spends most of its
time on its start and its end. Writes results/rebuild_full.json.
"""

import argparse
import sys

from bench.rebuild import Writer, built_read_models, fill_log, measure, skip_reactions
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
        with built_read_models(stack):
            written = fill_log(stack, options.events, options.results, report)
            skip_reactions(stack)
        measure(stack, writer, written, report, bounds=is_whole)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
