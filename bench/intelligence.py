"""Measures failure intelligence on published data: `./dev bench intelligence [--part NAME]`.

Each part is a module of bench/intelligence_parts with `run(report, data)`. The data is in the folder that the variable
TESTHIDE_DATA names; nothing of it is in this repository.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.intelligence_parts import emerging, explanations, flake_rates, flaky, shared_causes, splitting, templates
from bench.intelligence_parts.flaky_windows import SEQUENCES
from bench.support.report import Report


class Part(NamedTuple):
    run: Callable[[Report, Path], None]
    needs: tuple[str, ...] = ()
    """Names of files and folders in the data folder."""


PARTS = {
    "flaky": Part(flaky.run, (SEQUENCES,)),
    "flake_rates": Part(flake_rates.run),
    "emerging": Part(emerging.run, (SEQUENCES,)),
    "explanations": Part(explanations.run, (explanations.FOLDER,)),
    "templates": Part(templates.run, (templates.FOLDER,)),
    "shared_causes": Part(shared_causes.run),
    "splitting": Part(splitting.run, (splitting.CYCLES,)),
}
SOURCES = {
    SEQUENCES: "4,000 runs of each flaky test: github.com/TestingResearchIllinois/rerunning-no-tests",
    explanations.FOLDER: "logs of failed builds with marked parts: LogChunks at zenodo.org",
    splitting.CYCLES: "results of tests by cycles (ABB, data set IOF/ROL): bitbucket.org/HelgeS/retecs",
    templates.FOLDER: "lines of logs with their templates: github.com/logpai/loghub, files *_structured.csv, gzipped",
}
"""Where the data is published."""


def find_data(names: list[str]) -> Path:
    """Returns the data folder. Ends the program if the variable is not set, or if parts need files that are missing."""
    folder = os.environ.get("TESTHIDE_DATA", "")
    needed = [name for part in names for name in PARTS[part].needs]
    missing = [name for name in needed if not folder or not Path(folder, name).exists()]
    if missing:
        found = f"{folder} does not have them" if folder else "it is not set"
        lines = [f"TESTHIDE_DATA must name a folder with these files, and {found}:"]
        lines += [f"  {name}: {SOURCES[name]}" for name in dict.fromkeys(missing)]
        sys.exit("\n".join(lines))
    return Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure failure intelligence.")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; can be repeated")
    names = parser.parse_args().part or list(PARTS)
    data = find_data(names)
    report = Report("intelligence")
    for name in names:
        PARTS[name].run(report, data)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
