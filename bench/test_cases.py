"""Measures lists of test cases and trends of a project with 50,000 tests and 20,000,000 results:
`./dev bench test_cases`.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import get_args
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import psycopg

from bench.history.large_project import COMMITS_A_BUILD, LargeProject
from bench.history.write import FIRST_ID, write_commits
from bench.rebuild import built_read_models
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from domain.case_activity import Only, Sort
from projections.results_cases import TestCaseRow
from store.clock import utcnow
from store.key_ring.ring import load_secrets

JOBS, CASES, BUILDS = 10, 5_000, 4_000
"""Numbers of jobs, of tests of each job, and of builds, each of which runs all tests of its job."""
DAYS = 90
"""Number of days of the history: the longest look-back window of a list."""
ROUNDS = 4
PAGES = 3
"""Number of pages of each list that are read one after the other."""
TRENDS = 150


def fill_project(stack: Stack, builds: int, report: Report) -> LargeProject:
    settings = stack.settings
    secrets = asyncio.run(load_secrets(settings.database_url, settings.secret_key))
    project = LargeProject(jobs=JOBS, cases=CASES, builds=builds, seed=1, first_id=FIRST_ID)
    interval = timedelta(days=DAYS) / (builds * COMMITS_A_BUILD + JOBS + 1)
    begin = utcnow() - timedelta(days=DAYS)
    begun = time.monotonic()
    with built_read_models(stack):
        write_commits(settings.database_url, secrets, project.commits(), begin, interval)
    with psycopg.connect(settings.database_url) as connection:
        ((cases,),) = connection.execute(f"SELECT count(*) FROM {TestCaseRow.table}".encode()).fetchall()
    report.add("test cases", cases, "tests")
    report.add("results", project.results, "results")
    report.add("written and projected in", time.monotonic() - begun, "s")
    return project


class Lists:
    """Reads lists, and keeps the seconds that each page took by the sort order."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.slowest = (0.0, "")

    def read(self, sort: str, **parameters: object) -> None:
        path = f"/api/v3/test-cases?{urlencode({'sort': sort, **parameters})}"
        for _ in range(PAGES):
            request = Request(f"{self._stack.url}{path}", headers={"Authorization": f"Bearer {self._stack.token}"})
            begun = time.monotonic()
            with urlopen(request, timeout=30) as answer:
                answer.read()
                following = answer.headers.get("Link")
            self.seconds[sort].append(time.monotonic() - begun)
            self.slowest = max(self.slowest, (self.seconds[sort][-1], path))
            if following is None:
                break
            path = following.partition("<")[2].partition(">")[0]


def choose_filters(project: LargeProject) -> Iterator[dict[str, object]]:
    """Yields the parameters of the lists that are read in each sort order."""
    whole: dict[str, object] = {"project_id": project.project_id}
    job: dict[str, object] = {"job_id": project.world.jobs[-1].job_id}
    for of in (whole, job):
        yield of
        for only in get_args(Only):
            yield {**of, "only": only}
    yield {**whole, "search": "area_12/"}
    yield {**whole, "search": "nothing has this name"}
    yield {**whole, "limit": 200}


def measure_lists(stack: Stack, project: LargeProject, report: Report) -> None:
    filters = list(choose_filters(project))
    for days in (14, DAYS):
        lists = Lists(stack)
        for _ in range(ROUNDS if days < DAYS else 1):
            for parameters in filters:
                for sort in get_args(Sort):
                    lists.read(sort, days=days, **parameters)
        for sort, seconds in lists.seconds.items():
            add_seconds(report, f"lists of {days} days by {sort}", seconds, is_bound=days < DAYS)
        print(f"slowest: {lists.slowest[1]} {lists.slowest[0] * 1000:.0f} ms", file=sys.stderr)


def measure_trends(stack: Stack, project: LargeProject, report: Report) -> None:
    for path in (f"jobs/{project.world.jobs[0].job_id}", f"projects/{project.project_id}"):
        for days in (30, 365):
            seconds = []
            for _ in range(TRENDS):
                begun = time.monotonic()
                stack.call("GET", f"/api/v3/{path}/trend?days={days}")
                seconds.append(time.monotonic() - begun)
            add_seconds(report, f"trend of {days} days, {path.partition('/')[0]}", seconds, is_bound=True)


def add_seconds(report: Report, name: str, seconds: Sequence[float], *, is_bound: bool) -> None:
    report.add(f"{name}: p50", percentile(seconds, 50) * 1000, "ms")
    report.add(f"{name}: p99", percentile(seconds, 99) * 1000, "ms", at_most=100 if is_bound else None)


def main() -> int:
    parser = argparse.ArgumentParser(description="List the test cases of a large project.")
    parser.add_argument("--builds", type=int, default=BUILDS)
    options = parser.parse_args()
    report = Report("test_cases")
    with running_stack(agent=False) as stack:
        project = fill_project(stack, options.builds, report)
        measure_lists(stack, project, report)
        measure_trends(stack, project, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
