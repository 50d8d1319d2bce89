"""Measures one report of 100,000 tests (about 50 MB) from upload to readable results: `./dev bench results`.

Also measures the bytes per result in the tables and indexes of the read model, for passed results of ten builds with
the same tests, and the processor time that Python takes for a result: of the projector, for all read models, and of
the statistics of tests alone.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain

import psycopg
import requests

from bench.history.large_project import LargeProject
from bench.rebuild import fetch_head, fetch_projected
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from domain.core.events import EventMetadata, Recorded
from projections.results import PROJECTION
from projections.results_blocks import BlockRow
from projections.time_travel.historical_tables import HistoricalTables
from store.clock import utcnow

CASES = 100_000
BUILDS = 10
READS = 200


def write_junit(cases: int, *, failing: bool) -> Iterator[bytes]:
    """Yields a JUnit report of `cases` tests in parts. With `failing`, every 20th test fails and the others have
    output.
    """
    yield b'<testsuites><testsuite name="pytest">'
    for number in range(cases):
        name = f'<testcase classname="tests.test_area{number // 500}" name="test_{number}" time="0.012"'
        if failing and number % 20 == 0:
            trace = f"tests/test_area.py:{number}: in test\n    assert value == {number}\n" * 12
            yield f'{name}><failure message="assert {number} == 1">{trace}</failure></testcase>\n'.encode()
        elif failing:
            yield f"{name}><system-out>{'a line that a test prints ' * 15}{number}</system-out></testcase>\n".encode()
        else:
            yield f"{name}/>\n".encode()
    yield b"</testsuite></testsuites>"


def upload(stack: Stack, build: int, content: bytes) -> None:
    answer = requests.post(
        f"{stack.url}/api/v3/artifacts/upload",
        headers={"Authorization": f"Bearer {stack.token}"},
        data={"build_id": build},
        files={"file": ("report.xml", content)},
        timeout=120,
    )
    answer.raise_for_status()
    assert answer.json()["report"] is not None, "the upload was not recognised as a report"


def start_external_build(stack: Stack, job: int) -> int:
    build: int = stack.call("POST", "/api/v3/builds/start", {"job_id": job, "external": True})["id"]
    return build


def read_memory_mb(pid: int) -> tuple[float, float]:
    """Returns a process's resident memory now, and its peak so far, in MB."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def read_projector_cpu_s(stack: Stack) -> float:
    """Waits until the read models have caught up. Returns the processor time that the projector has taken so far."""
    head = fetch_head(stack)
    while fetch_projected(stack) < head:
        time.sleep(0.05)
    with open(f"/proc/{stack.pids['project']}/stat") as status:
        fields = status.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(stack: Stack, report: Report) -> None:
    job = stack.create_job("large", "true")
    processes = {name: stack.pids[name] for name in ("serve", "project")}
    before = {name: read_memory_mb(pid)[0] for name, pid in processes.items()}
    content = b"".join(write_junit(CASES, failing=True))
    report.add("report", len(content) / 2**20, "MiB")
    build = start_external_build(stack, job)
    cpu_s = read_projector_cpu_s(stack)
    begun = time.monotonic()
    upload(stack, build, content)
    failed = CASES // 20
    while stack.call("GET", f"/api/v3/tests?build_id={build}&status=failed&limit=1")["total"] < failed:
        time.sleep(0.05)
    report.add("stored, classified and readable", time.monotonic() - begun, "s", at_most=10)
    cpu_s, before_s = read_projector_cpu_s(stack), cpu_s
    report.add("CPU of project, new tests, 5 % failing", (cpu_s - before_s) / CASES * 1e6, "µs/result")
    for name, pid in processes.items():
        report.add(
            f"memory of {name} at its peak, above before", read_memory_mb(pid)[1] - before[name], "MB", at_most=300
        )
    for path in (f"tests?build_id={build}&status=failed", f"report/{build}"):
        times = []
        for _ in range(READS):
            asked = time.monotonic()
            stack.call("GET", f"/api/v3/{path}")
            times.append(time.monotonic() - asked)
        report.add(
            f"GET {path.partition('?')[0].partition('/')[0]}, p99", percentile(times, 99) * 1000, "ms", at_most=50
        )
    before_size = fetch_size(stack)
    cpu_s = read_projector_cpu_s(stack)
    passing = b"".join(write_junit(CASES, failing=False))
    for _ in range(BUILDS):
        upload(stack, start_external_build(stack, job), passing)
    cpu = (read_projector_cpu_s(stack) - cpu_s) / (CASES * BUILDS)
    report.add("CPU of project, all passing", cpu * 1e6, "µs/result", at_most=20)
    report.add(
        "read tables and indexes", (fetch_size(stack) - before_size) / (CASES * BUILDS), "bytes/result", at_most=20
    )


def fetch_size(stack: Stack) -> int:
    """Returns the bytes of the table of results, with its indexes."""
    with psycopg.connect(stack.settings.database_url, autocommit=True) as connection:
        row = connection.execute(f"SELECT pg_total_relation_size('{BlockRow.table}')".encode()).fetchone()
    assert row is not None
    return int(row[0])


def measure_statistics(report: Report) -> None:
    """Measures what the counters, runs and days of tests cost in memory, for a history in which 0.4 % fail."""
    project = LargeProject(jobs=2, cases=5_000, builds=40, seed=1, first_id=1_000)
    tables = HistoricalTables(PROJECTION.rows, (PROJECTION,))
    metadata = EventMetadata(utcnow(), "user:1", "request-1")
    spent_s = 0.0
    for position, event in enumerate(chain.from_iterable(project.commits()), start=1):
        recorded = Recorded("stream", 1, position, metadata.on(event))
        begun = time.process_time()
        tables.apply(recorded)
        spent_s += time.process_time() - begun
    report.add("CPU of the statistics of tests", spent_s / project.results * 1e6, "µs/result", at_most=20)


def main() -> int:
    argparse.ArgumentParser(description="Measure one report of 100,000 tests.").parse_args()
    report = Report("results")
    measure_statistics(report)
    with running_stack(agent=False) as stack:
        measure(stack, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
