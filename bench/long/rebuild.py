"""The rebuild at its full size: `python -m bench.long.rebuild` (1,000,000 events that carry 20,000,000 results).

What serves is built from the log too, since the live projector takes long for it; its equality with what the projector
keeps up is bench/rebuild.py's. Writes results/rebuild_full.json.
"""

import argparse
import sys

from bench.rebuild import NAMES, fill, measure, projections, standing_still
from bench.report import Report
from bench.stack import running_stack


def main() -> int:
    parser = argparse.ArgumentParser(description="Rebuild a million events and twenty million results.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--results", type=int, default=20_000_000)
    options = parser.parse_args()
    report = Report("rebuild_full")
    with running_stack(agent=False) as stack:
        build = stack.call("POST", "/api/v3/builds/start", {"job_id": stack.job("commented", "true")})["id"]
        with standing_still(stack):
            written = fill(stack, options.events, options.results, report)
            projections(stack, "rebuild", *NAMES, "--switch")
        projections(stack, "drop", *NAMES)
        measure(stack, build, written, report, bounds=True)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
