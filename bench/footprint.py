"""Measures the memory of a whole idle stack, including engines and local agent: `./dev bench footprint`.

Runs a few builds, waits a minute, and reads the proportional set size (PSS, which divides shared pages among their
users) of every process from /proc/PID/smaps_rollup.
"""

import argparse
import sys
import time
from pathlib import Path

import psutil

from bench.support.report import Report, print_table
from bench.support.stack import Stack, running_stack

BUILDS = 6
MAX_PSS_MB = 350


def run_builds(stack: Stack) -> None:
    job = stack.create_job("footprint", "seq 200; sleep 0.2")
    builds = [stack.call("POST", "/api/v3/builds/start", {"job_id": job})["id"] for _ in range(BUILDS)]
    deadline = time.monotonic() + 60
    for build in builds:
        while stack.call("GET", f"/api/v3/builds/{build}")["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, "the builds have not finished after 60 s"
            time.sleep(0.1)
    for path in ("/api/v3/builds", "/api/v3/nodes", f"/api/v3/builds/{builds[0]}/pipeline_logs"):
        stack.call("GET", path)


def read_memory(pid: int) -> tuple[int, int]:
    """Returns (PSS, RSS) of a process in KiB."""
    fields = dict.fromkeys(("Pss", "Rss"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in fields:
            fields[name] = int(rest.split()[0])
    return fields["Pss"], fields["Rss"]


def read_memory_by_name(stack: Stack) -> dict[str, list[tuple[int, int]]]:
    """Returns name -> (PSS, RSS) in KiB of each process. The name is the supervisor's name for the process or for its
    ancestor, or else `up`.
    """
    names = {pid: name for name, pid in stack.pids.items()}
    found: dict[str, list[tuple[int, int]]] = {}

    def walk(process: psutil.Process, name: str) -> None:
        name = names.get(process.pid, name)
        found.setdefault(name, []).append(read_memory(process.pid))
        for child in process.children():
            walk(child, name)

    walk(psutil.Process(stack.process.pid), "up")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the memory of the whole stack at rest.")
    parser.add_argument("--wait", type=float, default=60, help="seconds of rest after the builds")
    options = parser.parse_args()
    report = Report("footprint")
    with running_stack(agent=True) as stack:
        run_builds(stack)
        time.sleep(options.wait)
        found = read_memory_by_name(stack)
    rows = [
        (name, str(len(sizes)), *(f"{sum(size[which] for size in sizes) / 1024:.1f}" for which in (0, 1)))
        for name, sizes in sorted(found.items())
    ]
    print_table(("", "processes", "PSS MB", "RSS MB"), rows)
    every = [size for sizes in found.values() for size in sizes]
    report.add("all processes, RSS", sum(rss for _, rss in every) / 1024, "MB")
    report.add("all processes, PSS", sum(pss for pss, _ in every) / 1024, "MB", at_most=MAX_PSS_MB)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
