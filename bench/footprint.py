"""What a whole stack holds in memory, engines and local agent included: `python -m bench.footprint`.

A few builds, a minute of rest, then the proportional set size (PSS: shared pages by their share) of every process of
the stack, from /proc/PID/smaps_rollup.
"""

import argparse
import sys
import time
from pathlib import Path

import psutil

from bench.support.report import Report, table
from bench.support.stack import Stack, running_stack

BUILDS = 6
BOUND_MB = 350


def use(stack: Stack) -> None:
    job = stack.job("footprint", "seq 200; sleep 0.2")
    builds = [stack.call("POST", "/api/v3/builds/start", {"job_id": job})["id"] for _ in range(BUILDS)]
    deadline = time.monotonic() + 60
    for build in builds:
        while stack.call("GET", f"/api/v3/builds/{build}")["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, "the builds do not end"
            time.sleep(0.1)
    for path in ("/api/v3/builds", "/api/v3/nodes", f"/api/v3/builds/{builds[0]}/pipeline_logs"):
        stack.call("GET", path)


def kilobytes(pid: int) -> tuple[int, int]:
    """PSS and RSS."""
    fields = dict.fromkeys(("Pss", "Rss"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in fields:
            fields[name] = int(rest.split()[0])
    return fields["Pss"], fields["Rss"]


def by_name(stack: Stack) -> dict[str, list[tuple[int, int]]]:
    """(PSS, RSS) of all processes, under the name of what the supervisor started; the rest is `up`."""
    names = {pid: name for name, pid in stack.pids.items()}
    found: dict[str, list[tuple[int, int]]] = {}

    def walk(process: psutil.Process, name: str) -> None:
        name = names.get(process.pid, name)
        found.setdefault(name, []).append(kilobytes(process.pid))
        for child in process.children():
            walk(child, name)

    walk(psutil.Process(stack.process.pid), "up")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of the whole stack at rest.")
    parser.add_argument("--wait", type=float, default=60, help="seconds of rest after the builds")
    options = parser.parse_args()
    report = Report("footprint")
    with running_stack(agent=True) as stack:
        use(stack)
        time.sleep(options.wait)
        found = by_name(stack)
    rows = [
        (name, str(len(sizes)), *(f"{sum(size[which] for size in sizes) / 1024:.1f}" for which in (0, 1)))
        for name, sizes in sorted(found.items())
    ]
    table(("", "processes", "PSS MB", "RSS MB"), rows)
    every = [size for sizes in found.values() for size in sizes]
    report.add("all processes, RSS", sum(rss for _, rss in every) / 1024, "MB")
    report.add("all processes, PSS", sum(pss for pss, _ in every) / 1024, "MB", at_most=BOUND_MB)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
